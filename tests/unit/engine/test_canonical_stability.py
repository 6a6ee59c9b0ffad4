"""A key is the same in every process, for every hash seed, after pickling, and in the next release."""

from __future__ import annotations

import copy
import json
import os
import pickle
import random
import subprocess
import sys
import threading
import uuid
from pathlib import Path
from typing import Any

import pytest
from tests.unit.engine import keyed_values

from kapstan import pickling
from kapstan.engine import canonical
from kapstan.errors import UnkeyableInput

HERE = Path(__file__).parent
GOLDEN: dict[str, str] = json.loads((HERE / "keyed_values.json").read_text())
"""Written by release 0.1.0 on Python 3.11. Whatever changes a digest makes journals unmatched: raise ``VERSION``."""


def digest(value: object) -> str:
    return canonical.digest({"value": value})


def test_the_golden_table() -> None:
    assert keyed_values.digests() == GOLDEN
    assert len(set(GOLDEN.values())) == len(GOLDEN), "different content, different digest"


@pytest.mark.parametrize("arguments", [[], ["spawn"]], ids=["script", "spawned by a script"])
@pytest.mark.parametrize("seed", ["1", "4242"])
def test_every_process_agrees(seed: str, arguments: list[str]) -> None:
    """As a script the classes of the values are those of ``__main__``, in its child those of ``__mp_main__``."""
    environ = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(HERE.parents[2])}
    command = [sys.executable, str(HERE / "keyed_values.py"), *arguments]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == GOLDEN


@pytest.mark.parametrize("copied", [lambda value: pickling.loads(pickling.dumps(value)), copy.deepcopy])
def test_copies_have_the_same_key(copied: Any) -> None:
    uncopied = {"memoryview", "memoryview of shorts", "keys", "mappingproxy", "module", "exception"}
    for name, value in keyed_values.table().items():
        if name not in uncopied or copied is not copy.deepcopy:
            assert digest(copied(value)) == GOLDEN[name], name


def test_what_was_computed_lazily_changes_nothing() -> None:
    lazy = keyed_values.Lazy(3)
    assert (lazy.square, lazy.text, hash(lazy)) == (9, "3", 3)
    assert set(vars(lazy)) > {"a", "_text"}
    assert digest(lazy) == GOLDEN["lazy"]
    model = keyed_values.Model(name="a", tags={"x", "y", "z"})
    assert model.loud == "A"
    assert digest(model) == GOLDEN["model"]
    hashed = keyed_values.FrozenAttrs(1)
    assert hash(hashed)
    assert digest(hashed) == GOLDEN["frozen attrs"]
    point = keyed_values.Point(1, 2.0)
    point.norm = 2.2
    assert digest(point) == GOLDEN["dataclass"]


def test_what_a_method_sets_is_state() -> None:
    class Account:
        def __init__(self) -> None:
            self._balance = 0

        @property
        def balance(self) -> int:
            self._balance = self._balance or 0
            return self._balance

        def pay(self, amount: int) -> None:
            self._balance += amount

    account = Account()
    before = digest(account)
    account.pay(5)
    assert digest(account) != before


def test_private_attributes_of_models_count() -> None:
    model = keyed_values.Model(name="a", tags={"x", "y", "z"})
    model._private = 8  # pyright: ignore[reportPrivateUsage]
    assert digest(model) != GOLDEN["model"]


def test_registered_reducers_are_asked() -> None:
    assert digest(threading.current_thread) == digest(threading.current_thread)
    assert canonical.unkeyable(keyed_values.table()) == []


class Refuses:
    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("no")


class Random:
    def __reduce__(self) -> Any:
        return (Random, (uuid.uuid4(),))


class Counting:
    calls = 0

    def __getstate__(self) -> Any:
        Counting.calls += 1
        return {"calls": Counting.calls}


@pytest.mark.parametrize(
    "value",
    [
        threading.Lock(),
        (item for item in [1]),
        sys.stdout,
        Refuses(),
        Random(),
        Counting(),
        random.SystemRandom(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_told_counts_by_its_class_or_is_refused(value: object) -> None:
    assert digest(value) == digest(value)
    assert canonical.unkeyable({"deep": [value]}) != []
    with pytest.raises(UnkeyableInput, match=r"argument 'connection' holds .* pass what it is made from"):
        canonical.digest({"x": 1, "connection": value}, strict=True)
    assert canonical.digest({"x": 1, "y": [2]}, strict=True) == canonical.digest({"y": [2], "x": 1})


def test_lambdas_differ_by_what_their_inner_code_holds() -> None:
    one, two = (lambda x: [y + 1 for y in x]), (lambda x: [y + 2 for y in x])
    assert digest(one) != digest(two)
    assert digest(one) == digest(pickle.loads(pickling.dumps(one)))


def test_a_recursive_local_function_ends() -> None:
    def factorial(n: int) -> int:
        return 1 if n < 2 else n * factorial(n - 1)

    assert digest(factorial) == digest(factorial)

"""Ctrl-C between the intent of a keyed run and its code: nothing was done, and the next call of the key does it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kapstan import backend as backends
from kapstan.cache_policies import INPUTS
from kapstan.engine.steps import keyed
from kapstan.settings import Settings
from kapstan.tasks import Task


@pytest.fixture(autouse=True)
def _fresh(tmp_path: Path) -> Iterator[None]:
    backends.use(Settings(home=str(tmp_path)))
    yield
    backends.use(None)


class Around:
    """In place of the keys around: a signal comes just when the own key is put there."""

    def __init__(self) -> None:
        self.keys: frozenset[Any] = frozenset()

    def get(self) -> frozenset[Any]:
        return self.keys

    def set(self, keys: frozenset[Any]) -> None:
        self.keys = keys
        if keys:
            raise KeyboardInterrupt


def interrupted(*_: Any) -> Iterator[Any]:
    raise KeyboardInterrupt
    yield


@pytest.mark.parametrize(("name", "instead"), [("_executed", interrupted), ("_around", Around())])
def test_the_key_is_free_again(name: str, instead: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []

    def charge(order: int) -> str:
        ran.append(order)
        return "charged"

    task = Task(charge, name="interrupted", exactly_once=True, cache_policy=INPUTS)
    with monkeypatch.context() as patch:
        patch.setattr(keyed, name, instead)
        with pytest.raises(KeyboardInterrupt):
            task(7)
        assert ran == []
        assert not isinstance(instead, Around) or instead.keys == frozenset()
    assert (task(7), task(7), ran) == ("charged", "charged", [7])

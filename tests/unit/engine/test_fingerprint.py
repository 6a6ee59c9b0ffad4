"""What changes the fingerprint of a task's code, and what does not: each variant of a program is imported anew."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.engine.fingerprinted import FILES, NAMES

from kapstan.engine import fingerprint_source
from kapstan.engine.fingerprint import Fingerprint, fingerprint

Program = Callable[..., dict[str, Fingerprint]]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Program]:
    """Gives the fingerprints of the tasks of a variant; each stands in a folder of its own."""
    count = 0

    def make(*changes: tuple[str, str], extra: str = "") -> dict[str, Fingerprint]:
        nonlocal count
        count += 1
        files = {**FILES, "tasks": FILES["tasks"] + extra}
        for before, after in changes:
            assert any(before in text for text in files.values()), f"{before!r} is nowhere"
            files = {name: text.replace(before, after) for name, text in files.items()}
        folder = tmp_path / str(count) / "shop"
        folder.mkdir(parents=True)
        for name, text in files.items():
            (folder / f"{name}.py").write_text(text)
        forget()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "path", [str(folder.parent), *sys.path])
            importlib.invalidate_caches()
            module = importlib.import_module("shop.tasks")
            return {name: fingerprint(getattr(module, name).spec) for name in NAMES}

    def forget() -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == "shop"]:
            del sys.modules[name]

    yield make
    forget()


def different(program: Program, *changes: tuple[str, str]) -> set[str]:
    """The tasks whose fingerprint a change alters."""
    before, after = program(), program(*changes)
    return {name for name in NAMES if before[name].digest != after[name].digest}


@pytest.mark.parametrize(
    "change",
    [
        ("# the rate of today", "# whatever\n    # twice"),
        ('"""Price of an amount."""', '"""Other words."""'),
        ('    """Adds."""\n', ""),
        ("return local_helper(amount) * RATES[currency]", "return (\n local_helper(amount ) * RATES[ currency ]\n)"),
        ("import functools\n", "import functools\n\n\n\nimport os\n"),
        ("@task(retries=3)", '@task(retries=9, tags=["x"])'),
        ('"EUR": 1.5', "'EUR': 1.50"),
        ("OTHER = 2", "OTHER = 3"),
        ("_known = {}", "_known = {1: 2}"),
        ('logging.getLogger(__name__)', 'logging.getLogger("other")'),
    ],
    ids=lambda change: change[0][:30],
)  # fmt: skip
def test_what_changes_nothing_the_code_does(program: Program, change: tuple[str, str]) -> None:
    assert different(program, change) == set()


@pytest.mark.parametrize(
    ("change", "tasks"),
    [
        (("* RATES[currency]", "+ RATES[currency]"), "price"),
        (('currency="EUR"', 'currency="USD"'), "price"),
        (('"EUR": 1.5', '"EUR": 1.6'), "price"),
        (("FEE = 3", "FEE = 4"), "price listed awaited paid partial"),
        (("return amount + FEE", "return amount - FEE"), "price listed awaited paid partial"),
        (("ROUNDING = 1", "ROUNDING = 2"), "through_a_module late dispatched remembered"),
        (("deep(amount - 1)", "deep(amount - 2)"), "through_a_module"),
        (("by_factor(5)", "by_factor(6)"), "decorated"),
        (("fn(*args) * factor", "fn(*args) + factor"), "decorated"),
        (("self.amount * 2", "self.amount * 3"), "late"),
        (("lambda amount: amount - 1", "lambda amount: amount - 2"), "dispatched"),
        (('"up": round_up, "down": lambda', '"down": round_up, "up": lambda'), "dispatched"),
        (('"USD": [3]', '"USD": [4]'), "listed"),
        (("if amount not in _known", "if amount in _known"), "remembered"),
        (("(lambda x: local_helper(x))", "(lambda x: 1 + local_helper(x))"), "awaited"),
        (("make(2)", "make(3)"), "twice"),
        (("offsets = [1, 2]", "offsets = [1, 3]"), "twice"),
        (("rate = 7", "rate = 8"), "paid"),
        (("local_helper(amount) * self.rate", "local_helper(amount) + self.rate"), "paid"),
        (("amount=3", "amount=4"), "partial"),
        (("lambda: lambda: 1", "lambda: lambda: 2"), "nested"),
        (("task(lambda: 1,", "task(lambda: 2,"), "flat"),
    ],
    ids=lambda value: str(value)[:40],  # pyright: ignore
)  # fmt: skip
def test_what_changes_the_code_of_which_tasks(program: Program, change: tuple[str, str], tasks: str) -> None:
    assert different(program, change) == set(tasks.split())


def test_what_it_saw_is_told(program: Program) -> None:
    seen = program()
    assert [part.name for part in seen["price"].parts if part.kind == "function"] == [
        "shop.tasks:local_helper",
        "shop.tasks:price",
    ]
    assert {part.name: part.kind for part in seen["remembered"].parts} == {
        "shop.helpers:cached": "function",
        "shop.helpers:round_up": "function",
        "shop.tasks:remembered": "function",
        "_known in shop.helpers:cached": "variable",
        "logger in shop.helpers:round_up": "object",
        "settings.ROUNDING in shop.helpers:round_up": "constant",
    }
    notes = {part.name.split()[0]: part.note for part in seen["remembered"].parts if part.note}
    assert notes["_known"] == "the program changes it while it runs: it counts by its name"
    assert notes["logger"] == "its content may change while it is used: it counts by its class"


def test_a_variable_that_another_value_is_bound_to_counts_at_once(program: Program) -> None:
    before = program()
    tasks, settings = sys.modules["shop.tasks"], sys.modules["shop.settings"]
    spec = tasks.price.spec
    assert fingerprint(spec) is before["price"], "not made again"
    tasks.FEE = 9  # pyright: ignore[reportAttributeAccessIssue]
    assert fingerprint(spec).digest != before["price"].digest
    tasks.FEE = 3  # pyright: ignore[reportAttributeAccessIssue]
    assert fingerprint(spec).digest == before["price"].digest
    tasks.LIMITS["EUR"] = 5
    assert fingerprint(tasks.listed.spec).digest != before["listed"].digest
    settings.ROUNDING = 5  # pyright: ignore[reportAttributeAccessIssue]
    assert fingerprint(tasks.through_a_module.spec).digest != before["through_a_module"].digest


def test_a_large_constant_is_read_once(program: Program) -> None:
    seen = program(("LIMITS = {", "LIMITS = {**{n: n for n in range(2000)}, "))
    tasks = sys.modules["shop.tasks"]
    assert seen["listed"].digest != program()["listed"].digest
    tasks.LIMITS["EUR"] = 5
    assert fingerprint(tasks.listed.spec) is seen["listed"], "in this process"
    assert fingerprint(tasks.listed.with_options(retries=1).spec).digest != seen["listed"].digest


def test_what_the_program_remembers_does_not_count(program: Program) -> None:
    before = program()
    tasks = sys.modules["shop.tasks"]
    assert tasks.remembered(3) == 4
    assert fingerprint(tasks.remembered.spec).digest == before["remembered"].digest
    again: Any = tasks.remembered.with_options(retries=1)
    assert fingerprint(again.spec).digest == before["remembered"].digest


def test_a_file_that_has_changed_since_it_was_imported_says_nothing(program: Program) -> None:
    before = program()
    tasks = sys.modules["shop.tasks"]
    file = Path(str(tasks.__file__))
    file.write_text(file.read_text().replace("return amount + FEE", "return amount - FEE"))
    changed = fingerprint(tasks.price.with_options(retries=1).spec)
    assert changed.digest != before["price"].digest, "it would take old results for the new code's"
    note = {part.name: part.note for part in changed.parts}["shop.tasks:local_helper"]
    assert note.startswith("its file is another one than that it was imported from: its byte code counts")
    assert changed.digest != program(("return amount + FEE", "return amount - FEE"))["price"].digest


def test_code_without_source_counts_by_its_byte_code() -> None:
    def made(text: str) -> Any:
        space: dict[str, Any] = {"__name__": "made_by_exec"}
        exec(f"from kapstan import task\nFEE = 2\n@task(name='exec')\ndef f(x):\n    return {text}\n", space)
        return fingerprint(space["f"].with_options(retries=1).spec)

    assert made("x + FEE").digest == made("x + FEE").digest
    assert made("x + FEE").digest != made("x - FEE").digest
    (part,) = (part for part in made("x").parts if part.kind == "function")
    assert part.note == "there is no source of it: its byte code counts, which is that of this Python version"


def test_very_many_functions_end(program: Program) -> None:
    chain = "\n".join(f"def f{n}(x): return f{n + 1}(x)" for n in range(700)) + "\ndef f700(x): return x\n"
    extra = chain + "@task\ndef flat_many(x):\n    return [" + ", ".join(f"f{n}(x)" for n in range(700)) + "]\n"
    extra += "@task\ndef deep_many(x): return f0(x)\nflat = flat_many\nnested = deep_many\n"
    seen = program(extra=extra)
    assert len(seen["flat"].parts) > 500
    for name in ("flat", "nested"):
        assert any(part.note.startswith("not followed") for part in seen[name].parts)
        assert seen[name].digest == program(extra=extra)[name].digest


def test_a_tree_that_another_thread_came_between_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As CPython 3.11 answers then."""
    parse, refusals = ast.parse, iter([SystemError("AST constructor recursion depth mismatch")] * 3)

    def refusing(text: str) -> ast.Module:
        for refusal in refusals:
            raise refusal
        return parse(text)

    monkeypatch.setattr(ast, "parse", refusing)
    assert ast.unparse(fingerprint_source.parsed("a = 1")) == "a = 1"

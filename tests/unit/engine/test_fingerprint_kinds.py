"""Each way in which a task can use code and values of its package: whether a change there is seen."""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.engine.fingerprint_programs import HELPERS, NOT_SEEN, SEEN, STRANGE

from kapstan.engine.fingerprint import Fingerprint, fingerprint

Make = Callable[..., Fingerprint]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """The fingerprint of the task ``f`` of a program, each in a folder of its own."""
    count = 0

    def of(text: str, helpers: str = "", run: Callable[[Any], object] = lambda _: None) -> Fingerprint:
        nonlocal count
        count += 1
        folder = tmp_path / f"{count}" / "app"
        folder.mkdir(parents=True)
        for name, body in {"__init__": "", "helpers": helpers, "t": "from kapstan import task\n" + text}.items():
            (folder / f"{name}.py").write_text(textwrap.dedent(body))
        forget()
        sys.path.insert(0, str(folder.parent))
        importlib.invalidate_caches()
        try:
            module: Any = importlib.import_module("app.t")
            run(module)
            return fingerprint(module.f.spec)
        finally:
            sys.path.remove(str(folder.parent))

    def forget() -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == "app"]:
            del sys.modules[name]

    yield of
    forget()


@pytest.mark.parametrize("name", SEEN)
def test_it_is_seen(make: Make, name: str) -> None:
    one, same, other = (make(SEEN[name].format(x=x), HELPERS.format(x=x)) for x in (0, 0, 1))
    assert one.digest == same.digest != other.digest


@pytest.mark.parametrize("name", NOT_SEEN)
def test_it_does_not_count(make: Make, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYS_TEST", "")
    one, other = (make(NOT_SEEN[name].format(x=x)) for x in (0, 1))
    assert one.digest == other.digest


def test_the_folder_does_not_count_where_the_program_knows_it(make: Make) -> None:
    text = """
from pathlib import Path
HERE = Path(__file__).parent
TEXT = str(HERE) + "/{x}"
@task
def f(): return HERE / "templates", TEXT, __file__, __name__
"""
    assert make(text.format(x=0)).digest == make(text.format(x=0)).digest != make(text.format(x=1)).digest


@pytest.mark.parametrize("name", STRANGE)
def test_strange_values_neither_raise_nor_change_it(make: Make, name: str) -> None:
    assert make(STRANGE[name]).digest == make(STRANGE[name]).digest


STATE = {
    "a memo": """
known = {}
@task
def f(x): return known.setdefault(x, 1)
""",
    "a variable of another module": """
from . import helpers
@task
def f(x):
  helpers.count += x
  return helpers.count
""",
    "an attribute": """
class S: n = 0
s = S()
@task
def f(x):
  s.n += x
  return s.n
""",
    "a dataclass": """
import dataclasses
@dataclasses.dataclass
class S:
  n: int = 0
  def hit(self): self.n += 1
s = S()
@task
def f(x):
  s.hit()
  return s.n
""",
}


@pytest.mark.parametrize("name", STATE)
def test_what_a_run_changes_is_state(make: Make, name: str) -> None:
    """The second call of a process has the key that the first one had."""
    before = make(STATE[name], "count = 0\n")
    after = make(STATE[name], "count = 0\n", lambda module: module.f.fn(1))
    assert before.digest == after.digest

"""Each way in which a task can use code and values of its package: whether a change there is seen."""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

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


HELPERS = "def g(): return {x}\nclass B:\n  def g(self): return {x}\n"
SEEN = {
    "a builtin": """
import math
FN = [math.sin, math.cos][{x}]
@task
def f(x): return FN(x)
""",
    "the value of an enum": """
import enum
class C(enum.Enum):
  A = {x}
D = C.A
@task
def f(x): return D.value
""",
    "a dataclass": """
import dataclasses
@dataclasses.dataclass
class C:
  a: int
D = C({x})
@task
def f(x): return D.a
""",
    "a class under if": """
if 1:
  class A:
    def g(self): return {x}
else:
  class A: pass
@task
def f(x): return A().g()
""",
    "a class in a class": """
class A:
  class B:
    def g(self): return h()
def h(): return {x}
@task
def f(x): return A.B().g()
""",
    "a base class": """
from .helpers import B
class A(B): pass
@task
def f(x): return A().g()
""",
    "import *": """
from .helpers import *
@task
def f(x): return g()
""",
    "import in the function": """
@task
def f(x):
  from . import helpers
  return helpers.g()
""",
    "import of a path in the function": """
@task
def f(x):
  import app.helpers
  return app.helpers.g()
""",
    "import as in the function": """
@task
def f(x):
  import app.helpers as h
  return h.g()
""",
    "import in a helper": """
def k():
  from app.helpers import g
  return g()
@task
def f(x): return k()
""",
    "import of a path": """
import app.helpers
@task
def f(x): return app.helpers.g()
""",
    "another task": """
@task
def g(): return {x}
@task
def f(x): return g.submit()
""",
    "a decorator without wraps": """
def d(fn):
  def w(*a): return fn(*a)
  return w
@task
@d
def f(x): return {x}
""",
    "an async decorator": """
def d(fn):
  async def w(*a): return await fn(*a) + {x}
  return w
@task
@d
async def f(x): return 1
""",
    "a cached function": """
import functools
@functools.lru_cache
def g(x): return {x}
@task
def f(x): return g(1)
""",
    "a context manager": """
import contextlib
@contextlib.contextmanager
def g():
  yield {x}
@task
def f(x):
  with g() as q: return q
""",
    "a variant of singledispatch": """
import functools
@functools.singledispatch
def g(a): return 0
@g.register
def _(a: int): return {x}
@task
def f(x): return g(1)
""",
    "a lambda as a default": """
@task
def f(x, k=lambda v: v + {x}): return k(x)
""",
    "a default by keyword": """
@task
def f(x, *, k=[{x}]): return k
""",
    "a pattern": """
import re
P = re.compile('{x}')
@task
def f(x): return P.match(x)
""",
    "a name in an f-string": """
N = {x}
@task
def f(x): return f'{{N:>{{N}}}}'
""",
    "a property": """
class A:
  @property
  def p(self): return h()
  @task
  def f(self): return self.p
def h(): return {x}
f = A.f
""",
    "a classmethod": """
class A:
  @classmethod
  def p(cls): return h()
  @task
  @classmethod
  def f(cls): return cls.p()
def h(): return {x}
f = A.f
""",
    "an object that is called": """
class A:
  def __call__(self, x): return {x}
f = task(A(), name='obj')
""",
    "a global object that is called": """
class A:
  def __call__(self, x): return {x}
a = A()
@task
def f(x): return a(x)
""",
}


@pytest.mark.parametrize("name", SEEN)
def test_it_is_seen(make: Make, name: str) -> None:
    one, same, other = (make(SEEN[name].format(x=x), HELPERS.format(x=x)) for x in (0, 0, 1))
    assert one.digest == same.digest != other.digest


NOT_SEEN = {
    "a local of the same name": """
N = {x}
@task
def f(x):
  N = 3
  return N
""",
    "the variable of a comprehension": """
N = {x}
@task
def f(x): return [N for N in x]
""",
    "an attribute of the same name": """
N = {x}
@task
def f(x): return x.N
""",
    "options of the task": """
import functools
t = functools.partial(task, retries={x})
@t
def f(x): return 1
""",
    "a lock": """
import threading
L = [threading.Lock(), threading.Lock()][{x}]
@task
def f(x): return L
""",
    "docstrings of classes": """
class A:
  '{x}'
  def g(self):
    '{x}'
    return 1
@task
def f(x): return A().g()
""",
    "the environment as a whole": """
import os
os.environ['KEYS_TEST'] = '{x}'
@task
def f(x): return os.environ['A']
""",
    "the order of a set": """
N = [{{'a', 'b', 'c'}}, {{'c', 'b', 'a'}}][{x}]
@task
def f(x): return N
""",
    "a module's name": """
import logging
log = logging.getLogger(str({x}))
@task
def f(x): log.info(__name__)
""",
    "a counter of the module": """
n = {x}
def k():
  global n
  n += 1
@task
def f(x):
  k()
  return n
""",
    "a memo": """
known = {{{x}: 1}}
@task
def f(x): return known.setdefault(x, 1)
""",
}


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


PROXY = """
class Proxy:
    @property
    def __class__(self): raise RuntimeError("outside of a request")
    __wrapped__ = spec = __dict__ = __class__
    def __getattr__(self, name): raise RuntimeError(name)
"""
STRANGE = {
    "a proxy that raises": f"{PROXY}\np = Proxy()\n@task\ndef f(x): return p.y",
    "a mock": "from unittest.mock import MagicMock\nm = MagicMock()\n@task\ndef f(x): return m.y()",
    "a name that is nowhere": "@task\ndef f(x): return nowhere",
    "a list in itself": "def g(): pass\nL = [g]; L.append(L)\n@task\ndef f(x): return L",
    "900 closures": "def d(fn):\n  def w(*a): return fn(*a)\n  return w\ng = lambda: 1\n"
    "for _ in range(900): g = d(g)\nf = task(g, name='deep')",
    "a sum of 900": "@task\ndef f(x): return " + " + ".join(["x"] * 900),
    "an import that raises": "@task\ndef f(x):\n  from app import nothing_there\n  return nothing_there",
    "generators, streams": "import sys\nG = (i for i in [1])\nS = sys.stdout\n@task\ndef f(x): return G, S",
}  # fmt: skip


@pytest.mark.parametrize("name", STRANGE)
def test_strange_values_neither_raise_nor_change_it(make: Make, name: str) -> None:
    assert make(STRANGE[name]).digest == make(STRANGE[name]).digest

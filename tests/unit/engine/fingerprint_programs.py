"""Programs, each with a task ``f``, whose fingerprints the tests of this folder compare."""

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

ALIKE = {
    "match": """
@task
def f(x):
  match x:
    case {'a': 1, **r}: return r
    case [1, *o] | (2 as o): return o
    case P(y=3): return 1
class P: y=1
""",
    "try": """
@task
def f(x):
  try: return g()
  except* ValueError as e: pass
  finally: pass
def g(): return 1
""",
    "fstr": """
W=3
@task
def f(x): return f'a{x!r:>{W}}b' 'c' f"{x:%Y}{x=}" f'{x:{W}.{W}}'
""",
    "async": """
@task
async def f(x):
  async with x as y: pass
  return [z async for z in x if await g(z)]
async def g(z): return z
""",
    "super": """
class A:
  def p(self): return 1
class B(A):
  def p(self): return super().p() + __class__.q
  q=1
  @task
  def f(self): return self.p()
f=B.f
""",
    "genexp default": """
N=4
@task
def f(x, y=tuple(i for i in range(3))): return sum(i*N for i in x)
""",
    "const lambdas": """
a, b, f = (lambda: 1), (lambda: 2), task(lambda: None, name='q')
""",
    "multi lambda closure": """
def m(n):
  return (lambda: n), (lambda: n+1), (lambda x: (lambda: n+x))
f=task(m(3)[2],name='q2')
""",
    "nested def": """
@task
def f(x):
  def g(y, z=lambda: W): return y
  class C:
    q = W
  return g, C
W=1
""",
    "enum, dataclass, nt": """
import enum,dataclasses,typing,collections
class E(enum.IntFlag):
  A=1
  B=2
@dataclasses.dataclass(frozen=True,slots=True)
class D:
  a:int=1
class N(typing.NamedTuple):
  x:int
P=collections.namedtuple('P','x y')
V=[E.A|E.B, D(), N(1), P(1,2)]
@task
def f(x): return V, D, E, N, P
""",
    "values": """
import datetime,decimal,uuid,re, fractions, ipaddress,pathlib
import types,typing,operator,zoneinfo,array,collections,string
V=[
datetime.datetime(2020,1,1,tzinfo=datetime.timezone.utc),
decimal.Decimal('1.1'), uuid.UUID(int=3),
re.compile('a',re.I), fractions.Fraction(1,3),
ipaddress.ip_address('1.1.1.1'), pathlib.PurePosixPath('/a'),
types.MappingProxyType({1:2}), typing.Optional[int], list[int], int|None,
operator.itemgetter(1), zoneinfo.ZoneInfo('UTC'), array.array('i',[1]),
collections.OrderedDict(a=1), collections.Counter('aab'), collections.deque([1]),
range(3), slice(1,2), frozenset({1,2}), b'x', 1j, ...]
@task
def f(x): return V
""",
    "generated": """
import dataclasses
@dataclasses.dataclass
class D:
  a:int
  def g(self): return h()
def h(): return 1
@task
def f(x): return D(1).g()
""",
    "abc/protocol": """
import abc,typing
class A(abc.ABC):
  @abc.abstractmethod
  def g(self): ...
class B(A):
  def g(self): return 1
class P(typing.Protocol):
  def g(self): ...
T=typing.TypeVar('T')
@task
def f(x: T) -> T: return B().g(), P, T
""",
}

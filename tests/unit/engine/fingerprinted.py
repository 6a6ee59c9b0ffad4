"""The program whose fingerprints the tests of this folder compare: the files of a package ``shop``."""

TASKS = '''
"""Tasks of a shop."""
import functools
from kapstan import task
from . import helpers, settings
from .helpers import RATES, Order, round_up, by_factor, cached
import shop.settings as conf

FEE = 3
LIMITS = {"EUR": (1, 2), "USD": [3]}
HANDLERS = {"up": round_up, "down": lambda amount: amount - 1}

def local_helper(amount):
    """Adds."""
    return amount + FEE

@task(retries=3)
def price(amount, currency="EUR"):
    """Price of an amount."""
    # the rate of today
    return local_helper(amount) * RATES[currency]

@task
def through_a_module(amount):
    return helpers.deep(amount) + conf.ROUNDING

@task
@by_factor(5)
def decorated(amount):
    return amount

@task
def late(amount):
    from .helpers import round_up as up, Order as Ordered
    return Ordered(amount).total() + up(amount)

@task
def dispatched(kind, amount):
    return HANDLERS[kind](amount)

@task
def listed(amounts):
    return [local_helper(amount) for amount in amounts if amount in LIMITS]

@task
def remembered(amount):
    return cached(amount)

@task
async def awaited(amount):
    return (lambda x: local_helper(x))(amount)

def make(factor):
    offsets = [1, 2]
    @task(name=f"by{factor}")
    def times(amount):
        return amount * factor + offsets[0]
    return times
twice = make(2)

class Till:
    rate = 7
    def _net(self, amount): return local_helper(amount) * self.rate
    @task
    def paid(self, amount):
        return self._net(amount)
paid = Till.paid
partial = task(functools.partial(local_helper, amount=3), name="partial")
nested = task(lambda: lambda: 1, name="nested"); flat = task(lambda: 1, name="flat")
'''
HELPERS = """
import logging
from functools import wraps, cache
from . import settings
RATES = {"EUR": 1.5}
_known = {}
logger = logging.getLogger(__name__)
def round_up(amount):
    logger.info("rounded")
    return amount + settings.ROUNDING
def deep(amount):
    return deeper(amount)
@cache
def deeper(amount):
    return deep(amount - 1) if amount else round_up(amount)
class Base:
    def total(self): return self.amount * 2
class Order(Base):
    def __init__(self, amount): self.amount = amount
def by_factor(factor):
    def around(fn):
        @wraps(fn)
        def wrapper(*args):
            return fn(*args) * factor
        return wrapper
    return around
def cached(amount):
    if amount not in _known:
        _known[amount] = round_up(amount)
    return _known[amount]
"""
SETTINGS = "ROUNDING = 1\nOTHER = 2\n"

FILES = {"tasks": TASKS, "helpers": HELPERS, "settings": SETTINGS, "__init__": ""}
NAMES = (
    "price through_a_module decorated late dispatched listed remembered awaited twice paid partial nested flat".split()
)

SYNTAX = '''
"""Every kind of statement and expression that Python 3.11 has."""
from __future__ import annotations
import a.b as c, d
from . import e as f
async def g(a, /, b: int = 1, *c, d=2, **e) -> None:
    "doc"
    async with a as b, c: pass
    async for x in y: await z
    else: return
    [i async for i in x if i]
def h(*, k):
    global gg; nonlocal_ = 1
    def inner():
        nonlocal k
        yield from k
        x = yield
    try: assert a, "b"
    except (A, B) as e: raise X from e
    except: ...
    else: pass
    finally: del a[1:2, ::3], b.c
try: pass
except* E: pass
class K(B, metaclass=M):
    x: int
    y: "str" = u"unicode"
    z = w = 1
match v:
    case {"a": 1, **rest} | [1, *others]: pass
    case P(x=1, y=None) as q if q: pass
    case -1 | 1 + 2j | "s" | True: pass
    case _: pass
while (n := f()): break
else: continue_ = 1
for i, *j in k: continue
if a: pass
elif b: pass
with (open("x") as f, g): pass
lambda x, *y, z=1, **w: (x, *y, {**w, "z": z}, {1, 2}, [3])
a if b else c; not a and b or ~c; a < b <= c is not d not in e
x @ y // z ** -w << 1 >> 2 & 3 ^ 4 | 5 % 6
{k: v for k, v in z}; {k for k in z}; (k for k in z)
f"a{b!r:>{width}}c{{d}}" "e" f"{g:}" f"{h=}" 'i' ""
b"bytes" rb"\\x" 1_000 0xff 1.5e10 1e400 3j ... None
x += 1; x.y @= 2; x[0] -= 3
'''.replace('b"bytes" rb"\\x" 1_000', 'b"bytes" rb"\\x"; 1_000;').replace(
    "0xff 1.5e10 1e400 3j ... None", "0xff; 1.5e10; 1e400; 3j; ...; None"
)

VALUES = """
import dataclasses, datetime, decimal, enum, pathlib, uuid
class Colour(enum.Enum):
    RED = 1
class Access(enum.Flag):
    READ = 1
    WRITE = 2
@dataclasses.dataclass
class Point:
    x: int
    y: float = 0.5
    tags: frozenset = frozenset()
class Plain:
    def __init__(self, a): self.a = a
def function(x): return x
VALUES = {
    "plain": [None, True, 1, -(2**70), 0.1, 1e400, -0.0, "\\u00e9", b"x", 1j],
    "nested": {"b": [1, (2, {3})], "a": {"x": {"y": None}}, 1: {"z", "w", "v"}},
    "enums": [Colour.RED, Access.READ | Access.WRITE, Access(0)],
    "dates": [datetime.datetime(2026, 11, 28, 9, tzinfo=datetime.UTC), datetime.date(2026, 1, 1)],
    "span": datetime.timedelta(1),
    "others": [decimal.Decimal("1.10"), uuid.UUID(int=5), pathlib.PurePosixPath("/a/b"), range(5), len],
    "code": [function, Point],
    "objects": [Point(1), Point(2, tags=frozenset("cab")), Plain([1, {"a", "b"}]), KeyError("x")],
    "large": list(range(10000)),
}
"""

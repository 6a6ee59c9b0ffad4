"""What is pickled comes back as what it was: exceptions without their ``__init__``, values of the same type."""

from __future__ import annotations

import array
import importlib
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from kapstan import pickling
from kapstan.errors import TaskTimeout


class NeedsMore(Exception):
    def __init__(self, code: int, *, body: str) -> None:
        super().__init__(f"{code}: {body}")
        self.code = code
        self.body = body


class Adds(Exception):
    """Its ``__init__`` would add once more each time."""

    def __init__(self, text: str) -> None:
        super().__init__("refused: " + text)


class Slotted(ValueError):
    __slots__ = ("limit",)

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit


class Forgetful(Exception):
    def __init__(self, value: int) -> None:
        self.value = value


class Frozen(Exception):
    def __init__(self, code: int) -> None:
        object.__setattr__(self, "code", code)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(name)


class NeedsNew(Exception):
    def __new__(cls, *, code: int) -> NeedsNew:
        made = super().__new__(cls)
        made.code = code
        return made

    def __init__(self, *, code: int) -> None:
        super().__init__("new")

    code: int


class DiskFull(OSError):
    def __init__(self, path: str, *, used: int) -> None:
        super().__init__(28, "no space", path)
        self.used = used


class OwnWay(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(one)
        self.two = two

    def __reduce__(self) -> Any:
        return OwnWay, (self.args[0], self.two)


class WrongWay(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(one)
        self.two = two

    def __reduce__(self) -> Any:
        return WrongWay, (self.args[0],)


class Stop(BaseException):
    def __init__(self, *, why: str) -> None:
        super().__init__(why)


class Many(ExceptionGroup[Exception]):
    def __new__(cls, errors: list[Exception]) -> Many:
        made = super().__new__(cls, "many", errors)
        made.count = len(errors)
        return made

    count: int


class Locky(Exception):
    def __init__(self) -> None:
        super().__init__("holds", threading.Lock())
        self.lock = threading.Lock()
        self.code = 5


def told(error: BaseException) -> Any:
    names = ("errno", "strerror", "filename", "encoding", "start", "reason", "name", "path", "value", "lineno", "text")
    members = {name: getattr(error, name) for name in names if hasattr(error, name)}
    return type(error), error.args, {**getattr(error, "__dict__", {})}, members, getattr(error, "limit", None)


def trip(error: BaseException) -> tuple[Any, list[str]]:
    lost: list[str] = []
    body, read = pickling.dumps_exception(error, lost.append)
    assert type(pickling.loads(body)) is type(read)
    return read, lost


ERRORS = [
    ValueError("x", 1),
    KeyError("k"),
    NeedsMore(429, body="slow"),
    Adds("no"),
    Slotted(7),
    Forgetful(3),
    Frozen(4),
    NeedsNew(code=5),
    DiskFull("/x", used=9),
    FileNotFoundError(2, "no such file", "/y"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
    SyntaxError("bad", ("f.py", 3, 1, "x =", 3, 2)),
    ImportError("no", name="m", path="/p"),
    StopIteration(5),
    SystemExit(3),
    json.JSONDecodeError("bad", "{", 1),
    subprocess.CalledProcessError(2, ["x"], "out"),
    OwnWay(1, 2),
    WrongWay(1, 2),
    Stop(why="w"),
    TaskTimeout("late"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_exceptions_come_back_as_themselves(error: BaseException) -> None:
    read, lost = trip(error)
    assert told(read) == told(error)
    assert str(read) == str(error)
    assert lost == []


def test_causes_contexts_and_notes_come_back() -> None:
    try:
        try:
            raise NeedsMore(1, body="first")
        except NeedsMore as first:
            first.add_note("a note")
            raise Slotted(2) from first
    except Slotted as raised:
        read, lost = trip(raised)
    assert told(read.__cause__) == told(read.__context__)
    assert (read.__cause__.code, read.__cause__.__notes__) == (1, ["a note"])
    assert read.__cause__ is read.__context__
    assert (read.__suppress_context__, lost) == (True, [])


def test_groups_come_back_with_all_they_hold() -> None:
    inner = ExceptionGroup("inner", [NeedsMore(1, body="a"), KeyError("k")])
    for group in (BaseExceptionGroup("top", [inner, Stop(why="w")]), Many([NeedsMore(2, body="b"), inner])):
        read, _ = trip(group)
        assert type(read) is type(group)
        assert read.message == group.message
        assert [told(one) for one in read.exceptions if not isinstance(one, BaseExceptionGroup)] == [
            told(one) for one in group.exceptions if not isinstance(one, BaseExceptionGroup)
        ]
    assert read.count == 2
    matched, rest = read.split(KeyError)
    assert matched is not None
    assert rest is not None


def test_exceptions_that_refer_to_each_other() -> None:
    one, two = NeedsMore(1, body="a"), Slotted(2)
    one.__context__, two.__cause__ = two, one
    one.other = two  # pyright: ignore
    read, _ = trip(one)
    assert read.other is read.__context__
    assert read.__context__.__cause__ is read


def test_what_cannot_be_kept_is_left_out_and_told() -> None:
    read, lost = trip(Locky())
    assert (type(read), read.code, hasattr(read, "lock")) == (Locky, 5, False)
    assert read.args == ("holds", "<lock, not kept>")
    assert lost == ["argument 1 (_thread.lock)", "attribute 'lock' (_thread.lock)"]
    deep = ValueError("top")
    deep.__cause__ = Locky()
    read, lost = trip(deep)
    assert type(read.__cause__) is Locky
    assert len(lost) == 2


def test_memory_comes_back_as_memory_and_open_files_are_refused(tmp_path: Path) -> None:
    for view in (memoryview(b"ab"), memoryview(array.array("h", [1, 2]))):
        back = pickling.loads(pickling.dumps(view))
        assert (type(back), back.format, back.tolist()) == (memoryview, view.format, view.tolist())
    with (tmp_path / "f").open("w") as file, pytest.raises(Exception, match="an open file"):
        pickling.dumps(file)


SCRIPT = """
import sys
from kapstan import pickling, task

@task
def send(): ...

class Order: ...

if __name__ == "__main__":
    sys.stdout.buffer.write(pickling.dumps([send, Order, Order()]))
"""


def test_what_a_script_pickles_is_the_importers_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop_script.py").write_text(SCRIPT)
    body = subprocess.run([sys.executable, "shop_script.py"], cwd=tmp_path, capture_output=True, check=True).stdout
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(LookupError, match="'shop_script' with 'send' is not loaded here"):
        pickling.loads(body)
    assert "shop_script" not in sys.modules, "reading a value imports no script"
    module: Any = importlib.import_module("shop_script")
    try:
        task, kind, order = pickling.loads(body)
        assert task is module.send
        assert kind is type(order) is module.Order
    finally:
        del sys.modules["shop_script"]

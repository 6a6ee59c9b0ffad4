"""An exception of a signal may be raised between any two lines: nobody hangs, nothing is lost or unknown."""

from __future__ import annotations

import inspect
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from kapstan.codec import Codec
from kapstan.errors import Fenced
from kapstan.ids import RunId, new_id
from kapstan.journal import Journal, TaskOutcome, read_journal
from kapstan.journal import writer as writer_module
from kapstan.ports import RunLog, Store
from kapstan.store.local import LocalStore
from kapstan.store.segments import SegmentLog

# A file that an exception leaves open is closed by the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")


class Interrupted(Exception):
    """What a signal handler raises; an Exception, as a time limit's is."""


class Objects(LocalStore):
    """A directory whose journals are objects, as in a bucket."""

    def log(self, name: str) -> RunLog:  # type: ignore[override]
        return SegmentLog(self, name)


@pytest.fixture(params=[LocalStore, Objects])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return request.param(tmp_path / "store")


def outcome(key: str) -> TaskOutcome:
    return TaskOutcome(key, "m:task", "task-1", "COMPLETED")


class Injection:
    """Raises in this thread at one of the lines that ``call`` executes in the journal and below it."""

    def __init__(self, line: int) -> None:
        self._line = line
        self._seen = 0
        self.at = ""

    def run(self, call: Callable[[], object]) -> bool:
        """Whether ``call`` came to the line, and raised what was raised there."""
        before = sys.gettrace()
        sys.settrace(self._enter)
        try:
            call()
        except Interrupted:
            return True
        finally:
            sys.settrace(before)
        assert not self.at, f"the exception at {self.at} was swallowed"
        return False

    def _enter(self, frame: FrameType, event: str, _argument: Any) -> Any:
        return self._step if self._is_ours(frame) else None

    def _step(self, frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "line" and not self.at:
            self._seen += 1
            if self._seen == self._line:
                self.at = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                raise Interrupted
        return self._step

    @staticmethod
    def _is_ours(frame: FrameType) -> bool:
        return "/kapstan/journal/writer" in frame.f_code.co_filename or "/kapstan/store/" in frame.f_code.co_filename


class Crowd:
    """A journal in which others wait for their turn, which they get when the test says so."""

    def __init__(self, store: Store, codec: Codec, run_id: RunId) -> None:
        self.journal = Journal(store, codec, run_id)
        self.journal.open(1, host="h", now=1.0)
        self.told: list[str] = []
        self._holder = writer_module._Entry(())
        self.journal._turn[writer_module._WRITER] = self._holder
        for key in ("post-1", "post-2"):
            self.journal.post(outcome(key), lambda error, key=key: self.told.append(f"{key} {error}"))
        self.other = threading.Thread(target=self.journal.append, args=(outcome("append-1"),), daemon=True)
        self.other.start()
        self._until(lambda: len(self.journal._waiting) == 3 and self.journal._waiting[2].bell is not None)

    def free(self, *, wake: bool) -> None:
        """Let go of the turn; ``wake`` as a writer does that goes."""
        del self.journal._turn[writer_module._WRITER]
        if wake:
            self.journal._bell.put(None)

    def free_when(self, waiting: int) -> threading.Thread:
        """Let go of the turn when so many wait."""

        def free() -> None:
            self._until(lambda: len(self.journal._waiting) >= waiting, 0.2)
            self.free(wake=True)

        thread = threading.Thread(target=free)
        thread.start()
        return thread

    def check(self) -> None:
        """Everybody goes on: those who waited, and who comes now."""
        self.other.join(20)
        assert not self.other.is_alive(), "a caller waits for ever"
        late = threading.Thread(target=self.journal.append, args=(outcome("late"),), daemon=True)
        late.start()
        late.join(20)
        assert not late.is_alive(), "the journal takes nothing any more"
        self._until(lambda: len(self.told) == 2)
        assert self.told == ["post-1 None", "post-2 None"]

    @staticmethod
    def _until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
        end = time.monotonic() + seconds
        while not condition() and time.monotonic() < end:
            time.sleep(0.0002)


EVERYBODY = {"post-1", "post-2", "append-1", "late"}


def lines() -> Iterator[int]:
    yield from count(1)


def begun(at: str) -> bool:
    """Whether the call had begun to change anything: an exception before that is one before the call."""
    source, _, line = at.rpartition(":")
    if source != writer_module.__file__:
        return True
    lines, first = inspect.getsourcelines(Journal.append)
    tried = first + next(number for number, text in enumerate(lines) if text.strip() == "try:")
    return int(line) > tried


def test_an_exception_at_any_line_of_a_writing_append(place: Store, codec: Codec) -> None:
    for line in lines():
        run_id = new_id()
        crowd = Crowd(place, codec, run_id)
        crowd.free(wake=False)  # nobody wakes the others: the next append writes for all of them
        injection = Injection(line)
        raised = injection.run(lambda crowd=crowd: crowd.journal.append(outcome("mine")))
        there = set(read_journal(place, codec, run_id).outcomes)
        if not raised or begun(injection.at):
            assert "mine" in there, f"settled when the exception leaves: {injection.at}"
        else:
            crowd.journal._bell.put(None)  # the test took away the writer that would have woken the others
        crowd.check()
        assert set(read_journal(place, codec, run_id).outcomes) - {"mine"} == EVERYBODY, injection.at
        crowd.journal.close()
        if not raised:
            assert line > 40, "the lines of append and of the log below it"
            return


def test_an_exception_at_any_line_of_a_waiting_append(place: Store, codec: Codec) -> None:
    for line in lines():
        run_id = new_id()
        crowd = Crowd(place, codec, run_id)
        freeing = crowd.free_when(waiting=4)
        raised = Injection(line).run(lambda crowd=crowd: crowd.journal.append(outcome("mine")))
        freeing.join()
        crowd.check()
        assert set(read_journal(place, codec, run_id).outcomes) >= EVERYBODY
        crowd.journal.close()
        if not raised:
            assert line > 10
            return


def test_an_exception_at_any_line_of_a_post(place: Store, codec: Codec) -> None:
    for line in lines():
        run_id = new_id()
        crowd = Crowd(place, codec, run_id)
        told: list[BaseException | None] = []
        raised = Injection(line).run(lambda crowd=crowd, told=told: crowd.journal.post(outcome("mine"), told.append))
        crowd.free(wake=True)
        crowd.check()
        crowd.journal.flush()
        there = set(read_journal(place, codec, run_id).outcomes)
        crowd.journal.close()
        assert there - {"mine"} == EVERYBODY
        assert len(told) == ("mine" in there), "told once if it was taken"
        if not raised:
            assert told == [None]
            assert line > 5
            return


def test_an_exception_at_any_line_of_a_close(place: Store, codec: Codec) -> None:
    for line in lines():
        run_id = new_id()
        crowd = Crowd(place, codec, run_id)
        crowd.free(wake=False)
        raised = Injection(line).run(crowd.journal.close)
        if line == 1:
            crowd.journal._bell.put(None)  # before the call; the test took away the writer that would have woken them
        crowd.other.join(20)
        assert not crowd.other.is_alive()
        crowd._until(lambda crowd=crowd: len(crowd.told) == 2)
        assert set(read_journal(place, codec, run_id).outcomes) == EVERYBODY - {"late"}
        crowd.journal.close()
        if not raised:
            return


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals reach the main thread")
def test_alarms_that_raise_between_any_two_steps(place: Store, codec: Codec, run_id: RunId) -> None:
    """Not lines but single steps of the interpreter, in two writing threads' company."""
    journal = Journal(place, codec, run_id)
    journal.open(1, host="h", now=1.0)
    written: list[str] = []
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            key = new_id()
            journal.append(outcome(key))
            written.append(key)

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise Interrupted

    threads = [threading.Thread(target=work, daemon=True) for _ in range(2)]
    before, alarms = signal.signal(signal.SIGALRM, ring), 0
    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)
    try:
        for thread in threads:
            thread.start()
        for number in range(1500):
            key = new_id()
            try:
                signal.setitimer(signal.ITIMER_REAL, 2e-5 + (number % 50) * 1e-5)
                journal.append(outcome(key))
                signal.setitimer(signal.ITIMER_REAL, 0)
                written.append(key)
            except Interrupted:
                alarms += 1
            except KeyError as error:  # Python's own Thread.start() makes this of what is raised in the middle of it
                if not isinstance(error.__context__, Interrupted):
                    raise
                alarms += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.signal(signal.SIGALRM, before)
        sys.setswitchinterval(interval)
        stop.set()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive(), "a caller waits for ever"
    journal.close()
    assert alarms > 50, "the fault bites"
    assert set(written) <= set(read_journal(place, codec, run_id).outcomes)


def test_what_a_callback_raises_costs_nobody_anything(
    place: Store, codec: Codec, run_id: RunId, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(place, codec, run_id)
    journal.open(1, host="h", now=1.0)
    told: list[object] = []

    def broken(_error: BaseException | None) -> None:
        raise SystemExit("mine")

    journal.post(outcome("a"), broken)
    journal.post(outcome("b"), told.append)
    journal.close()
    assert told == [None]
    assert sorted(read_journal(place, codec, run_id).outcomes) == ["a", "b"]
    assert "Error in the callback test_what_a_callback_raises_costs_nobody_anything.<locals>.broken" in caplog.text


def test_after_a_fence_an_interrupted_append_ends_too(place: Store, codec: Codec, run_id: RunId) -> None:
    journal = Journal(place, codec, run_id)
    journal.open(1, host="h", now=1.0)
    Journal(place, codec, run_id).open(2, host="h", now=2.0)
    with pytest.raises(Fenced):
        journal.append(outcome("a"))
    with pytest.raises(Fenced):
        journal.post(outcome("b"), lambda error: None)

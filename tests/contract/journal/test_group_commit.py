"""One write in flight, what waits goes together: who writes, in which order, and what errors and signals do to those
who wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from tests.contract.journal.conftest import GatedLog

from kapstan.codec import Codec
from kapstan.errors import Fenced, StoreUnavailable
from kapstan.ids import RunId
from kapstan.journal import AttemptEnd, Journal, TaskOutcome, read_journal
from kapstan.journal import writer as writer_module
from kapstan.ports import Store

Gated = tuple[Journal, GatedLog]


def outcome(key: str, value: bytes | None = None) -> TaskOutcome:
    return TaskOutcome(key, "m:task", "task-1", "COMPLETED", value=value)


class Posted:
    """Collects what ``done`` is told."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.told: list[tuple[str, BaseException | None]] = []

    def done(self, key: str) -> Callable[[BaseException | None], None]:
        def tell(error: BaseException | None) -> None:
            with self._changed:
                self.told.append((key, error))
                self._changed.notify_all()

        return tell

    def wait_for(self, count: int) -> list[tuple[str, BaseException | None]]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.told) >= count, 30), self.told
        return self.told


def test_many_threads_append_and_post_and_nothing_is_lost(store: Store, codec: Codec, run_id: RunId) -> None:
    journal = Journal(store, codec, run_id)
    journal.open(1, host="h", now=1.0)
    posted = Posted()

    def work(thread: int) -> None:
        for number in range(20):
            key = f"{thread}-{number}"
            if (thread + number) % 2:
                journal.append(outcome(key))
            else:
                journal.post(outcome(key), posted.done(key))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    journal.append(AttemptEnd(1, "Completed", 2.0))
    assert len(read_journal(store, codec, run_id).outcomes) == 160, "what was posted before is durable before"
    posted.wait_for(80)
    assert {error for _, error in posted.told} == {None}
    journal.close()
    assert sorted(read_journal(store, codec, run_id).outcomes) == sorted(
        f"{t}-{n}" for t in range(8) for n in range(20)
    )


def test_a_lone_append_writes_in_its_own_thread(gated: Gated) -> None:
    journal, log = gated
    threads: list[str] = []
    append = log.append

    def noted(records: object) -> None:
        threads.append(threading.current_thread().name)
        append(records)  # type: ignore[arg-type]

    log.append = noted  # type: ignore[method-assign]
    journal.append(outcome("a"))
    assert threads == [threading.current_thread().name]


def test_what_comes_during_a_write_goes_together_in_the_next(gated: Gated) -> None:
    journal, log = gated
    posted = Posted()
    log.shut()
    with ThreadPoolExecutor(6) as pool:
        first = pool.submit(journal.append, outcome("a"))
        log.wait_for_append(1)
        for key in "bcd":
            journal.post(outcome(key), posted.done(key))
        log.let(1)
        first.result(30)
        log.wait_for_append(2)
        assert posted.told == []
        log.let(1)
        assert posted.wait_for(3) == [("b", None), ("c", None), ("d", None)]
    assert log.batches == [1, 3]


def test_a_write_is_cut_at_the_size_of_a_segment(gated: Gated, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "SEGMENT_BYTES", 1000)
    journal, log = gated
    posted = Posted()
    log.shut()
    journal.post(outcome("first"), posted.done("first"))
    log.wait_for_append(1)
    for key, size in (("a", 100), ("b", 100), ("large", 5000), ("c", 100)):
        journal.post(outcome(key, b"x" * size), posted.done(key))
    log.let(10)
    posted.wait_for(5)
    assert log.batches == [1, 2, 1, 1]


def waiting(pool: ThreadPoolExecutor, journal: Journal, keys: str) -> list[Future[None]]:
    """Appends of ``keys``, each in its own thread, all known to wait."""
    futures = [pool.submit(journal.append, outcome(key)) for key in keys]
    end = time.monotonic() + 30
    while len(journal._waiting) < len(keys):
        assert time.monotonic() < end
    return futures


def test_an_error_is_raised_in_every_thread_of_its_write_and_the_next_write_goes_on(gated: Gated) -> None:
    journal, log = gated
    posted = Posted()
    log.shut()
    with ThreadPoolExecutor(6) as pool:
        first = pool.submit(journal.append, outcome("a"))
        log.wait_for_append(1)
        futures = waiting(pool, journal, "bc")
        journal.post(outcome("d"), posted.done("d"))
        log.let(1)
        first.result(30)
        log.wait_for_append(2)
        log.error = StoreUnavailable("away")
        log.let(1)
        for future in futures:
            with pytest.raises(StoreUnavailable, match="away"):
                future.result(30)
        [(_, error)] = posted.wait_for(1)
        assert isinstance(error, StoreUnavailable)
        log.let(1)
        journal.append(outcome("e"))


def test_when_it_is_fenced_everybody_is_told_and_nothing_more_is_written(
    gated: Gated, codec: Codec, run_id: RunId
) -> None:
    journal, log = gated
    posted = Posted()
    log.shut()
    with ThreadPoolExecutor(6) as pool:
        first = pool.submit(journal.append, outcome("a"))
        log.wait_for_append(1)
        futures = waiting(pool, journal, "bc")
        journal.post(outcome("d"), posted.done("d"))
        log.error = Fenced("taken over")
        log.let(1)
        for future in (first, *futures):
            with pytest.raises(Fenced, match="taken over"):
                future.result(30)
        [(_, error)] = posted.wait_for(1)
        assert isinstance(error, Fenced)
    with pytest.raises(Fenced, match="taken over"):
        journal.append(outcome("e"))
    with pytest.raises(Fenced, match="taken over"):
        journal.post(outcome("f"), posted.done("f"))
    assert log.batches == []


class Interrupted(BaseException):
    """What a signal handler raises."""


@pytest.mark.parametrize("after", [False, True])
def test_a_signal_in_the_writing_thread_does_not_cost_the_others_their_record(
    gated: Gated, codec: Codec, run_id: RunId, after: bool
) -> None:
    journal, log = gated
    log.shut()
    with ThreadPoolExecutor(6) as pool:
        first = pool.submit(journal.append, outcome("a"))
        log.wait_for_append(1)
        futures = waiting(pool, journal, "bc")
        log.let(1)
        first.result(30)
        log.wait_for_append(2)
        log.error, log.after = Interrupted(), after
        log.let(3)
        ends = [future.exception(30) for future in futures]
        assert sorted(type(end).__name__ for end in ends) == ["Interrupted", "NoneType"], "one writes, the other waits"
        journal.append(outcome("e"))
    assert sorted(read_journal(log_store(log), codec, run_id).outcomes) == ["a", "b", "c", "e"]


def log_store(log: GatedLog) -> Store:
    """Something whose ``log`` reads what ``log`` wrote."""

    class Reading:
        def log(self, name: str) -> GatedLog:
            return log

    return Reading()  # type: ignore[return-value]


def test_close_waits_for_what_was_posted_and_then_refuses(gated: Gated) -> None:
    journal, log = gated
    posted = Posted()
    log.shut()
    for key in "abc":
        journal.post(outcome(key), posted.done(key))
    log.let(100)
    journal.close()
    assert posted.told == [("a", None), ("b", None), ("c", None)]
    with pytest.raises(ValueError, match="the journal is closed"):
        journal.append(outcome("late"))

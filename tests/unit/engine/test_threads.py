"""The threads of a flow: a limit on what runs, none on what waits."""

from __future__ import annotations

import threading
from typing import Any

from kapstan.engine.threads import Threads
from kapstan.engine.waiting import without_place


def test_no_more_run_at_a_time_than_the_limit() -> None:
    threads, lock, ended = Threads(3, "t"), threading.Lock(), threading.Semaphore(0)
    running, most = 0, 0
    together = threading.Barrier(3)

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        together.wait(30)
        with lock:
            running -= 1
        ended.release()

    for _ in range(12):
        threads.run(work)
    for _ in range(12):
        assert ended.acquire(timeout=30)
    assert most == 3


def test_one_that_waits_lets_another_run() -> None:
    threads, told, ended = Threads(1, "t"), threading.Event(), threading.Event()

    def waits() -> None:
        with without_place():
            assert told.wait(30)
        ended.set()

    threads.run(waits)
    threads.run(told.set)
    assert ended.wait(30)


def test_a_deep_line_of_waiting_calls_ends() -> None:
    threads, ended = Threads(2, "t"), threading.Event()

    def nest(depth: int, above: threading.Event) -> None:
        if depth:
            below = threading.Event()
            threads.run(lambda: nest(depth - 1, below))
            with without_place():
                assert below.wait(30)
        above.set()

    threads.run(lambda: nest(100, ended))
    assert ended.wait(30)


def test_what_raises_does_not_end_the_thread() -> None:
    threads, ended = Threads(1, "t"), threading.Event()

    def fails(error: Any) -> None:
        raise error

    for error in (ValueError("a"), SystemExit(3), KeyboardInterrupt()):
        threads.run(lambda error=error: fails(error))
    threads.run(ended.set)
    assert ended.wait(30)


def test_nothing_begins_after_close() -> None:
    threads, gate, began = Threads(1, "t"), threading.Event(), threading.Event()
    ran: list[int] = []

    def first() -> None:
        began.set()
        assert gate.wait(30)

    threads.run(first)
    assert began.wait(30)
    threads.run(lambda: ran.append(1))
    threads.close()
    threads.run(lambda: ran.append(2))
    gate.set()
    assert ran == []

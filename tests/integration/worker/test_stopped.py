"""A child or its supervisor is stopped (SIGSTOP) at the moment of a cancel, a recall or a restart of Redis: each run is
executed once, and only what was to end does."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.integration.worker import served
from tests.integration.worker.conftest import Gate, Sink, Start
from tests.servers.redis import RedisServer
from tests.servers.worker import await_exit

from kapstan import backend, ids
from kapstan.errors import CancelledRun
from kapstan.ports import RunRecord


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """``pid`` stands still during the block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):  # it was killed meanwhile
            os.kill(pid, signal.SIGCONT)


def record(task_run_id: str) -> RunRecord:
    found = backend.current().queue.record(ids.parse(task_run_id))
    assert found is not None
    return found


def await_idle_lane(server: RedisServer) -> None:
    """Block until a lane waits for its next run; the test's own limit ends it."""
    with server.client() as client:
        while not client.keys("*:idle:*"):
            time.sleep(0.01)


def cancel(task_run_id: str) -> str | None:
    return backend.current().queue.cancel(ids.parse(task_run_id))


def test_what_was_handed_to_a_stopped_child_before_a_restart_of_redis_begins_once(
    server: RedisServer, start: Start, sink: Sink
) -> None:
    """The message stands unread in its socket; its supervisor gives the run back, since no child knows of it."""
    first = start()
    assert served.add.delay(1, 1).result(timeout=20) == 2
    (child,) = first.children()
    await_idle_lane(server)
    with stopped(child):
        run = served.mark.delay("t")
        assert record(run.task_run_id).state == "running", "the fault did not bite: it was not handed over"
        server.kill()
        first.await_line("The lease is not renewed")
        server.start()
        start()
        assert run.result(timeout=20) == "t"
    assert served.add.delay(2, 2).result(timeout=20) == 4
    first.signal(signal.SIGTERM)
    assert first.wait() == 0  # its child has settled
    assert [event[:2] for event in sink.events] == [("ran", "t")]


def test_what_was_handed_to_a_stopped_worker_begins_once(server: RedisServer, start: Start, sink: Sink) -> None:
    """Its lease has ended. The supervisor hears that before the child reads the message."""
    first = start()
    (child,) = first.children()
    await_idle_lane(server)
    with stopped(child), stopped(first.pid):
        run = served.mark.delay("t")
        assert record(run.task_run_id).state == "running", "the fault did not bite: it was not handed over"
        start()
        assert run.result(timeout=20) == "t"
        os.kill(first.pid, signal.SIGCONT)
        first.await_line("This session had ended")
    assert served.add.delay(2, 2).result(timeout=20) == 4
    first.signal(signal.SIGTERM)
    assert first.wait() == 0
    assert [event[:2] for event in sink.events] == [("ran", "t")]


def test_a_cancel_ends_a_stopped_child_and_no_other_run_of_its_batch(start: Start, sink: Sink, gate: Gate) -> None:
    first = start()
    for future in [served.seize.delay("short", 0) for _ in range(200)]:  # so that the lane claims many at a time
        future.result(timeout=20)
    before = served.hold.delay("before", gate.path)
    sink.expect("began", "before")
    run = served.seize.delay("t", 30)
    after = [served.seize.delay(f"after-{n}", 0) for n in range(50)]
    with stopped(first.pid):  # or it takes back what waits behind the long run
        gate.open()
        child = sink.expect("began", "t")
        os.kill(child, signal.SIGSTOP)
        assert record(after[0].task_run_id).state == "running", "the fault did not bite: nothing waits behind it"
        assert cancel(run.task_run_id) == "running"
    with stopped(child):
        start()
        for future in after:
            assert future.result(timeout=20) != child
        with pytest.raises(CancelledRun):
            run.result(timeout=20)
        await_exit(child)
    assert before.result(timeout=20) == "before"
    assert record(run.task_run_id).crashes == 0
    counts = Counter(tag for what, tag, _ in sink.events if what == "began" and tag != "short")
    assert counts == {"before": 1, "t": 1, **{f"after-{n}": 1 for n in range(50)}}
    first.await_line("is cancelled")


def test_a_cancel_that_a_stopped_supervisor_hears_late_spares_the_next_run(
    start: Start, sink: Sink, gate: Gate, tmp_path
) -> None:
    worker = start()
    children = worker.children()
    run = served.hold.delay("cancelled", gate.path)
    later = Gate(tmp_path / "later")
    following = served.hold.delay("next", later.path)
    sink.expect("began", "cancelled")
    with stopped(worker.pid):
        assert cancel(run.task_run_id) == "running"
        gate.open()
        sink.expect("began", "next")
    later.open()
    assert following.result(timeout=20) == "next"
    assert run.result(timeout=20) == "cancelled"  # its name; it had ended before anybody could break it off
    assert worker.children() == children
    assert [event[0] for event in sink.events] == ["began", "ended"] * 2
    later.close()

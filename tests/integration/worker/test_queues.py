"""Workers that serve queues: what a worker claims and what it leaves to others."""

from __future__ import annotations

import pytest
from tests.integration.worker import served
from tests.integration.worker.conftest import Gate, Sink, Start

from kapstan import backend
from kapstan.ports import Served

MARK = "tests.integration.worker.served:mark"
PLACED = "tests.integration.worker.served:marked_in_a_queue"


def routes() -> list[Served]:
    """What the only session serves of two tasks."""
    (session,) = backend.current().queue.sessions()
    return [each for each in session.served if each[0] in (MARK, PLACED)]


def test_a_worker_serves_the_queues_that_its_tasks_name(start: Start, sink: Sink) -> None:
    worker = start()
    assert "from queues default, slow" in worker.await_line("Serving ")
    assert routes() == [(MARK, "default"), (PLACED, "default"), (PLACED, "slow")]
    assert served.marked_in_a_queue.delay("own").result(timeout=20) == "own"
    assert served.marked_in_a_queue.apply_async(("other",), queue="default").result(timeout=20) == "other"


def test_a_worker_of_a_queue_leaves_the_others_alone(start: Start, sink: Sink) -> None:
    start(arguments=("--queue=night", "--queue=slow"))
    assert routes() == [(task, queue) for task in (MARK, PLACED) for queue in ("night", "slow")]
    left = served.mark.delay("default")
    assert served.mark.apply_async(("night",), queue="night").result(timeout=20) == "night"
    assert served.marked_in_a_queue.delay("slow").result(timeout=20) == "slow"
    assert [event[1] for event in sink.events] == ["night", "slow"]
    start()
    assert left.result(timeout=20) == "default"


def test_within_a_queue_the_greater_priority_goes_first(start: Start, sink: Sink) -> None:
    tags = {"low": -5, "plain": None, "high": 5}
    futures = [served.mark.apply_async((tag,), priority=priority) for tag, priority in tags.items()]
    start()
    assert [future.result(timeout=20) for future in futures] == list(tags)
    assert [event[1] for event in sink.events] == ["high", "plain", "low"]


def test_a_limit_holds_over_workers_and_a_killed_one_frees_its_slot(start: Start, sink: Sink, gate: Gate) -> None:
    first, second = start(limit=2), start(limit=2)
    futures = [served.one_at_a_time.delay(tag, gate.path) for tag in ("a", "b", "c")]
    sink.expect("began", "a")
    with pytest.raises(TimeoutError):
        futures[1].result(timeout=1.0)
    assert [event[1] for event in sink.events] == ["a"], "three lanes are free, and the slot is not"
    first.kill()
    second.kill()
    start(limit=2)
    gate.open()
    assert [future.result(timeout=40) for future in futures] == ["a", "b", "c"]
    begun = [event[:2] for event in sink.events]
    assert begun == [("began", "a"), *((what, tag) for tag in "abc" for what in ("began", "ended"))], "one at a time"

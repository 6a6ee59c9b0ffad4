"""A step that is added to the chain once is walked by every way to run a task."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.integration.worker import served
from tests.integration.worker.conftest import Sink, Start
from tests.servers.redis import RedisServer

from kapstan import flow
from kapstan.worker import in_process


@flow
def called() -> int:
    return served.stepped()


@flow
async def called_async() -> int:
    return await served.stepped_async()


@flow
def submitted(subject: Any) -> int:
    return subject.submit().result()


@flow
def mapped() -> int:
    return served.stepped.map([1]).result()[0]


@flow
def in_a_subflow() -> int:
    return called()


WAYS: dict[str, tuple[str, Callable[[], int]]] = {
    "called": ("stepped", called),
    "called outside of a flow": ("stepped", served.stepped),
    "called in asyncio": ("stepped_async", lambda: asyncio.run(called_async())),
    "submitted": ("stepped", lambda: submitted(served.stepped)),
    "submitted, async": ("stepped_async", lambda: submitted(served.stepped_async)),
    "mapped": ("stepped", mapped),
    "in a subflow": ("stepped", in_a_subflow),
    "embedded": ("stepped", lambda: served.stepped.submit().result(timeout=30)),
    "embedded, async": ("stepped_async", lambda: served.stepped_async.submit().result(timeout=30)),
}


@pytest.fixture
def background(server: RedisServer) -> Iterator[None]:
    """What ``.submit()`` starts in this process ends before its Redis does."""
    yield
    in_process.stop()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.usefixtures("background")
def test_in_this_process(way: str, sink: Sink) -> None:
    name, run = WAYS[way]
    assert run() == 1
    assert [sink.next(), sink.next()] == [("step", name, os.getpid()), ("ended-Completed", name, os.getpid())]


@pytest.mark.parametrize("subject", [served.stepped, served.stepped_async])
def test_delayed_to_a_worker(start: Start, sink: Sink, subject: Any) -> None:
    start()
    assert subject.delay().result(timeout=30) == 1
    events = [sink.next(), sink.next()]
    assert [event[:2] for event in events] == [("step", subject.name), ("ended-Completed", subject.name)]
    assert os.getpid() not in {event[2] for event in events}

"""``map(deferred=True)``: all of the runs or, where an argument cannot be sent, none; the message names it."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from tests.integration.worker import served
from tests.integration.worker.conftest import Sink, Start
from tests.servers.redis import RedisServer

from kapstan import Task, backend, flow, unmapped
from kapstan.errors import KapstanError, ParameterError, SerializationError, ValueTooLarge

RUNS = 600  # more than are sent together, so that the first would be away when the culprit is met
CULPRIT = 450


def keys(server: RedisServer) -> list[bytes]:
    with server.client() as client:
        return sorted(client.keys("*"))


@pytest.fixture(params=["outside", "inside a flow"])
def mapped(request: pytest.FixtureRequest) -> Any:
    """Maps a task, outside or inside a flow: ids are made in another way there."""

    def outside(task: Task[..., Any], *args: Any, **kwargs: Any) -> Any:
        return task.map(*args, deferred=True, **kwargs)

    def inside(task: Task[..., Any], *args: Any, **kwargs: Any) -> Any:
        futures: list[Any] = []

        @flow(name="tests: mapping")
        def mapping() -> None:
            futures.extend(outside(task, *args, **kwargs))

        mapping()
        return futures

    return outside if request.param == "outside" else inside


class Locked:
    """Holds what no serializer carries."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


@pytest.mark.parametrize(
    ("culprit", "error", "words"),
    [
        (Locked(), SerializationError, r"argument 'b' of add \(.*\.Locked\) cannot be serialised"),
        ("x" * 5000, ValueTooLarge, r"argument 'b' of add has 5,002 bytes serialised; the limit is 4,096"),
    ],
    ids=["not serialisable", "too large"],
)
def test_an_argument_that_cannot_be_sent_is_named_and_nothing_is_submitted(
    server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    mapped: Any,
    culprit: Any,
    error: type[KapstanError],
    words: str,
) -> None:
    monkeypatch.setenv("KAPSTAN_MAX_VALUE_BYTES", "4096")
    backend.use(None)
    second: list[Any] = list(range(RUNS))
    second[CULPRIT] = culprit
    before = keys(server)
    with pytest.raises(error, match=words):
        mapped(served.add, list(range(RUNS)), second)
    assert runs_in(keys(server)) == runs_in(before) == 0
    second[CULPRIT] = 0
    assert len(mapped(served.add, list(range(RUNS)), second)) == RUNS
    assert runs_in(keys(server)) == RUNS, "the fault was another one"


def runs_in(found: list[bytes]) -> int:
    return sum(key.startswith(b"{default}:t:") for key in found)


def test_too_few_arguments_submit_nothing(server: RedisServer, mapped: Any) -> None:
    with pytest.raises(ParameterError, match=r"^add\(.*missing a required argument: 'b'"):
        mapped(served.add, list(range(RUNS)))
    assert runs_in(keys(server)) == 0


def test_all_of_them_run_once(start: Start, sink: Sink, mapped: Any) -> None:
    start(limit=2)
    tags = [f"r{n}" for n in range(RUNS)]
    assert [future.result(timeout=30) for future in mapped(served.mark, tags)] == tags
    assert sorted(tag for _, tag, _ in sink.events) == sorted(tags)
    assert [future.result(timeout=30) for future in mapped(served.add, [1, 2], unmapped(3))] == [4, 5]

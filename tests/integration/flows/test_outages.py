"""The store fails at any step of a flow: what was computed is kept, nothing is executed twice, and the run goes on when
the store does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.flows.outages import LOCAL, S3, Outage, local_outage, s3_outage
from tests.servers.minio import Minio, serve

from kapstan import backend as backends
from kapstan import flow, task
from kapstan.engine import flow_engine
from kapstan.errors import HandBack, JournalLost
from kapstan.ids import RunId, new_id
from kapstan.journal import read_journal
from kapstan.states import State

LARGE = "x" * 20_000
ran: Counter[str] = Counter()
now: list[Outage] = []


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Minio]:
    """Of this module alone, which kills it."""
    yield from serve(Minio(tmp_path_factory.mktemp("minio")))


@pytest.fixture(params=[*LOCAL, *S3])
def outage(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Outage]:
    monkeypatch.setattr("kapstan.store.checkpoints.CHUNK", 2)  # checkpoints are written all along
    ran.clear()
    if request.param in LOCAL:
        with local_outage(request.param, tmp_path / "home") as outage:
            now[:] = [outage]
            yield outage
    else:
        with s3_outage(request.param, request.getfixturevalue("server"), tmp_path / "home") as outage:
            now[:] = [outage]
            yield outage


def fails() -> None:
    for outage in now:
        outage.begin()


@task(name="outage-small")
def small(x: int, at: int = -1) -> int:
    ran[f"small {x}"] += 1
    if x == at:
        fails()
    return x + 1


@task(name="outage-large")
def large(bites: bool) -> str:
    ran["large"] += 1
    if bites:
        fails()
    return LARGE


@task(name="outage-failure")
def failure() -> None:
    ran["failure"] += 1
    fails()
    raise ValueError(LARGE)


def appended() -> int:
    return sum(small(x, at=2) for x in range(5))


def submitted() -> int:
    return sum(future.result() for future in [small.submit(x, at=2) for x in range(5)])


def spilled() -> int:
    return len(large(True))


def spilled_failure() -> int:
    with pytest.raises(ValueError, match="xxx"):
        failure()
    return small(1)


def opened_below() -> int:
    below = flow(name="outage-below")(appended)
    small(9)
    fails()
    return below()


def ended() -> int:
    small(0)
    fails()
    return 7


def large_result() -> str:
    small(0)
    fails()
    return LARGE


def started_over() -> int:
    ran["body"] += 1
    small(0)
    if ran["body"] == 1:
        fails()
        raise ValueError("once more")
    return 7


def attempt(body: Callable[[], Any], run_id: RunId, number: int = 1) -> State:
    spec = flow(name=f"outage-{body.__name__}", retries=1)(body).spec
    return flow_engine.run(flow_engine.make_run(spec, run_id, {}), attempt=number)


STEPS: dict[Callable[[], Any], Any] = {
    appended: 15,
    submitted: 15,
    spilled: len(LARGE),
    spilled_failure: 2,
    opened_below: 15,
    ended: 7,
    large_result: LARGE,
    started_over: 7,
}


@pytest.mark.parametrize("body", STEPS, ids=lambda body: body.__name__)
def test_what_was_computed_is_kept_until_the_store_takes_it(outage: Outage, body: Callable[[], Any]) -> None:
    run_id = new_id()
    state = attempt(body, run_id)
    assert state.is_completed(), state
    assert state.result() == STEPS[body]
    assert outage.lines, "the fault has bitten"
    assert {what: times for what, times in ran.items() if times > 1 and what != "body"} == {}
    history = read_journal(backends.current().store, backends.current().codec, run_id)
    assert history.end is not None
    assert history.end.end == "Completed"


def resumed() -> int:
    ran["body"] += 1
    if ran["body"] > 1:
        fails()
    return len(large(False)) + handed_back()


def handed_back() -> int:
    if ran["body"] == 1:
        raise HandBack
    return 1


def test_an_outcome_that_cannot_be_read_is_waited_for(outage: Outage) -> None:
    run_id = new_id()
    with pytest.raises(HandBack):
        attempt(resumed, run_id)
    state = attempt(resumed, run_id, 2)
    assert state.result() == len(LARGE) + 1
    assert (ran["large"], bool(outage.lines)) == (1, True)


def test_a_run_that_must_end_meanwhile_says_the_way_on(outage: Outage, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM while it waits: its end cannot be recorded either."""
    outage.stays = True
    run_id = new_id()
    run = flow_engine.make_run(flow(name="outage-appended")(appended).spec, run_id, {})
    with monkeypatch.context() as patch:
        patch.setattr("kapstan.engine.outages.limits.sleep", lambda _: run.stop_here(HandBack("SIGTERM")))
        with pytest.raises(JournalLost, match=f"go on with: kapstan flow-run resume {run_id}"):
            flow_engine.run(run, attempt=1)
    outage.end()
    now[:] = []
    assert attempt(appended, run_id, 2).result() == 15
    arrived = outage.name in ("cut_reply", "drop_reply")  # and it was only not known
    assert ran == {"small 0": 1, "small 1": 1, "small 2": 1 if arrived else 2, "small 3": 1, "small 4": 1}


@pytest.mark.parametrize(
    ("number", "what"), [(1, "definition of flow run .* stored"), (2, "journal of flow run .* opened")]
)
def test_a_run_that_cannot_begin_has_executed_nothing_and_says_so(outage: Outage, number: int, what: str) -> None:
    outage.begin()
    with pytest.raises(JournalLost, match=rf"{what}: .*Nothing was executed") as lost:
        attempt(appended, new_id(), number)
    assert ran == {}
    assert ("local store cannot use" if outage.name in LOCAL else "http://127.0.0.1") in str(lost.value)

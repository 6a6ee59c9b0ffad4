"""``apply_async(eta=)``: the moment from which a run may start."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import pytest

from kapstan import ids, task
from kapstan.backend import Backend
from kapstan.errors import ConfigurationError

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


@task
def sent_at_a_moment() -> None:
    """Nobody serves it."""


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kapstan.engine.submit_options.time", SimpleNamespace(time=NOW.timestamp))


def waits(backend: Backend, eta: datetime) -> tuple[str, float]:
    """State of the run, and seconds until it is due, by the server."""
    run_id = ids.parse(sent_at_a_moment.apply_async(eta=eta).task_run_id)
    listed = backend.background_runs.look(run_id)
    assert listed is not None
    return listed.record.state, (listed.due or listed.record.since) - listed.record.since


@pytest.mark.parametrize("zone", [UTC, timezone(timedelta(hours=-7))])
def test_a_run_waits_for_its_moment(backend: Backend, zone: Any) -> None:
    state, seconds = waits(backend, (NOW + timedelta(hours=2)).astimezone(zone))
    assert state == "delayed"
    assert seconds == pytest.approx(7200, abs=0.01)


def test_a_moment_that_has_passed_is_now(backend: Backend) -> None:
    assert waits(backend, NOW - timedelta(days=1)) == ("ready", 0.0)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"eta": datetime(2030, 1, 2)}, "give a datetime with a time zone"),
        ({"eta": 12.5}, "eta=12.5: give a datetime"),
        ({"eta": NOW, "countdown": 3}, "give one of them"),
        ({"eta": NOW + timedelta(days=5000)}, "give a moment within the next ten years"),
    ],
)
def test_what_is_no_moment_is_refused(backend: Backend, given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        sent_at_a_moment.apply_async(**given)

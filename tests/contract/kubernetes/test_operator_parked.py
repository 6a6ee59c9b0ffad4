"""A FlowRun that is parked for an effect in doubt, by the operator as the chart installs it: real API server, MinIO and
Redis. The test writes what the flow's process would have written."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

from tests.contract.kubernetes.operators import Install, MakeTeam, Team, signing_key, until
from tests.contract.kubernetes.test_operator_retention import settings_of

from kapstan.backend import Backend
from kapstan.controllers.namespaces import Namespaces
from kapstan.ids import RunId, new_id, to_uuid
from kapstan.journal import AttemptEnd, Journal
from kapstan.ports import Doubt, Holder, RegisterEvent, RegisterKey
from kapstan.reconcile.naming import run_id_of
from kapstan.runs.parked import ParkedKeys
from kapstan.states import AttemptOutcome, EffectClass


def in_doubt(backend: Backend) -> Doubt:
    """A call whose process has ended in its effect, and was found."""
    call, once = new_id(), EffectClass.AT_MOST_ONCE
    key = RegisterKey("shop:charge", "k" * 52)
    now = backend.store_time()
    holder = Holder(call, "process")
    begun = backend.register.change(key, None, RegisterEvent.BEGIN, once, holder=holder, at=now, begun=now)
    evidence = {"ended": True, "horizon": 0.0}
    assert backend.register.change(key, begun, RegisterEvent.PARK, once, evidence=evidence, at=now) is not None
    return Doubt(key.task, key.text, call)


def park(backend: Backend, run_id: RunId, doubt: Doubt) -> None:
    """As the first attempt of the flow does it."""
    now = time.time()
    journal = Journal(backend.store, backend.codec, run_id)
    journal.open(1, host="pod", now=now, flow="etl:main", deployment="etl")
    journal.append(AttemptEnd(1, AttemptOutcome.SUSPENDED, now, "parked", doubt=doubt))
    journal.close()
    ended = {"state": "PAUSED", "state_name": "Parked", "outcome": "Suspended", "started": now, "ended": now}
    backend.flow_runs.save(run_id, {**ended, "attempt": 1, "deployment": "etl", "doubt": doubt})


def told(team: Team, run: str) -> list[str]:
    conditions: list[dict[str, Any]] = team.status(run).get("conditions", [])
    return [one["message"] for one in conditions if one["type"] == "EffectsInDoubt" and one["status"] == "True"]


def events(team: Team, run: str) -> list[str]:
    answer = team.server.request("GET", f"/api/v1/namespaces/{team.name}/events")
    about = [event for event in answer.body["items"] if event["involvedObject"].get("name") == run]
    return [event["message"] for event in about if event["reason"] == "Parked"]


def test_it_says_what_is_in_doubt_and_goes_on_when_that_is_decided(install: Install, make_team: MakeTeam) -> None:
    team = make_team("doubts")
    installed = install("doubting", "namespaces={doubts}", signing_key("doubts"))
    operator = installed.start("a").leads()
    settings = Namespaces(settings_of(installed), installed.home / "keys", lambda _: None).settings_of("doubts")
    backend = Backend(settings)
    for name in ("parked", "other"):
        team.run(name)
        team.started(name)
    metadata = team.get("parked")["metadata"]
    doubt = in_doubt(backend)
    park(backend, run_id_of(metadata["uid"], datetime.fromisoformat(metadata["creationTimestamp"])), doubt)
    (message,) = until(lambda: told(team, "parked"), bool, "its condition")
    assert message == team.status("parked")["message"]
    for part in (doubt.task, str(to_uuid(doubt.run_id)), f"kapstan task-run resolve {doubt.key}"):
        assert part in message
    assert team.status("parked")["phase"] == "Suspended"
    assert until(lambda: events(team, "parked"), bool, "its Event") == [message]
    assert team.jobs("parked") == ["parked-1"]
    ParkedKeys(backend).say_applied(RegisterKey.of(doubt.task, doubt.key), "by hand")
    until(lambda: team.jobs("parked"), lambda jobs: jobs == ["parked-1", "parked-2"], "its next attempt")
    team.started("parked")
    assert told(team, "parked") == []
    assert (told(team, "other"), events(team, "other"), team.jobs("other")) == ([], [], ["other-1"])
    assert len(events(team, "parked")) == 1
    assert not operator.said("Traceback")
    backend.close()

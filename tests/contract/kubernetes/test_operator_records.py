"""A run whose journal is not what a flow's process writes: the operator says so and serves the others."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from tests.contract.kubernetes.operators import Install, MakeTeam, Team, signing_key, until
from tests.contract.kubernetes.test_operator_retention import settings_of

from kapstan.backend import Backend
from kapstan.codec import JSON
from kapstan.controllers.namespaces import Namespaces
from kapstan.ids import RunId
from kapstan.journal import Journal, log_name
from kapstan.reconcile.naming import run_id_of

Write = Callable[[Backend, RunId], None]


def of_another_key(backend: Backend, run_id: RunId) -> None:
    other = Backend(replace(backend.settings, signing_key="QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE="))
    Journal(other.store, other.codec, run_id).open(1, host="pod", now=1.0, flow="etl:main")
    other.close()


def bytes_of_nobody(backend: Backend, run_id: RunId) -> None:
    backend.store.log(log_name(run_id)).open(b"\x00\xff{}")


def with_doubt(doubt: Any) -> Write:
    def write(backend: Backend, run_id: RunId) -> None:
        """Signed by the namespace's own key, as whoever has it can."""
        journal = Journal(backend.store, backend.codec, run_id)
        journal.open(1, host="pod", now=1.0, flow="etl:main")
        journal.close()
        end = {"v": 1, "kind": "end", "attempt": 1, "end": "Suspended", "at": 2.0, "doubt": doubt}
        log = backend.store.log(log_name(run_id))
        log.open(backend.codec.seal(JSON, json.dumps({**OPENING, "attempt": 2}).encode(), "journal", run_id))
        log.append([backend.codec.seal(JSON, json.dumps({**end, "attempt": 2}).encode(), "journal", run_id)])

    return write


OPENING = {"v": 1, "kind": "opening", "token": "t", "started": 1.0}
WRONG: dict[str, Write] = {
    "another key": of_another_key,
    "no record": bytes_of_nobody,
    "a number": with_doubt(7),
    "half a doubt": with_doubt(["shop:charge"]),
}


def degraded(team: Team, run: str) -> dict[str, Any]:
    conditions = team.status(run).get("conditions", [])
    return next((one for one in conditions if one["type"] == "Degraded"), {})


@pytest.mark.parametrize("what", WRONG)
def test_it_says_that_the_record_cannot_be_read(install: Install, make_team: MakeTeam, what: str) -> None:
    name = f"records-{'-'.join(what.split())}"
    team = make_team(name)
    installed = install(f"{name}-system", f"namespaces={{{name}}}", signing_key(name))
    backend = Backend(Namespaces(settings_of(installed), installed.home / "keys", lambda _: None).settings_of(name))
    team.run("wrong")
    metadata = team.get("wrong")["metadata"]
    run_id = run_id_of(metadata["uid"], datetime.fromisoformat(metadata["creationTimestamp"]))
    WRONG[what](backend, run_id)
    operator = installed.start("a").leads()
    told = until(lambda: degraded(team, "wrong"), lambda found: found.get("reason") == "StoreUnavailable", "its state")
    assert "nothing is decided until it can" in told["message"]
    team.run("good")
    team.started("good")
    assert team.jobs("wrong") == []
    backend.store.log(log_name(run_id)).remove()
    team.started("wrong")
    assert not operator.said("Traceback")
    backend.close()


def test_a_run_whose_process_is_gone_with_its_record_is_cancelled(install: Install, make_team: MakeTeam) -> None:
    team = make_team("records-given-up")
    installed = install("records-given-up-system", "namespaces={records-given-up}", signing_key("records-given-up"))
    known = Namespaces(settings_of(installed), installed.home / "keys", lambda _: None)
    backend = Backend(known.settings_of("records-given-up"))
    operator = installed.start("a").leads()
    team.run("wrong")
    team.started("wrong")
    metadata = team.get("wrong")["metadata"]
    bytes_of_nobody(backend, run_id_of(metadata["uid"], datetime.fromisoformat(metadata["creationTimestamp"])))
    gone = team.server.kubectl("delete", "job", *team.jobs("wrong"), "-n", team.name)
    assert gone.returncode == 0, gone.stderr
    told = until(lambda: degraded(team, "wrong"), lambda found: found.get("reason") == "StoreUnavailable", "its state")
    assert told["message"].endswith("; to give the run up, cancel it (spec.cancel)")
    asked = team.server.kubectl(
        "patch", "fr", "wrong", "--type=merge", "-p", '{"spec": {"cancel": true}}', "-n", team.name
    )
    assert asked.returncode == 0, asked.stderr
    until(lambda: team.status("wrong"), lambda status: status.get("phase") == "Cancelled", "its end")
    assert not operator.said("Traceback")
    backend.close()

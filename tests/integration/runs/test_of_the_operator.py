"""Runs that have a FlowRun object in this home, as under ``kapstan dev``: ``kapstan flow-run`` acts on the object."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from tests.integration.runs.makers import begin, uuid

from kapstan import ids
from kapstan.backend import Backend
from kapstan.cluster.local.cluster import LocalCluster
from kapstan.ids import RunId
from kapstan.journal import log_name
from kapstan.ports import Key
from kapstan.resources import API_VERSION
from kapstan.runs.flow_runs import FlowRuns


@pytest.fixture
def made(backend: Backend) -> Callable[..., RunId]:
    cluster = LocalCluster.from_settings(backend.settings)

    def make(phase: str, **spec: Any) -> RunId:
        async def inside() -> RunId:
            run_id = ids.new_id()
            spec_ = {"deploymentRef": {"name": "nightly"}, **spec}
            meta = {"name": "etl", "namespace": backend.settings.namespace}
            manifest = {"apiVersion": API_VERSION, "kind": "FlowRun", "metadata": meta, "spec": spec_}
            created = await cluster.create(manifest)
            status = {"phase": phase, "runId": uuid(run_id), "name": "tidy-hawk", "message": "waits for a place"}
            key = Key("FlowRun", backend.settings.namespace, "etl")
            await cluster.set_status(key, status, uid=created["metadata"]["uid"])
            return run_id

        return asyncio.run(inside())

    return make


def spec_in(backend: Backend) -> dict[str, Any]:
    cluster = LocalCluster.from_settings(backend.settings)
    manifest = asyncio.run(cluster.get(Key("FlowRun", backend.settings.namespace, "etl")))
    assert manifest is not None
    return manifest["spec"]


def test_one_that_waits_for_its_pool_is_listed_and_inspected(made, kapstan) -> None:
    run_id = made("Scheduled")
    (listed,) = json.loads(kapstan("flow-run", "ls", "-o", "json").stdout)
    assert (listed["id"], listed["state"], listed["why"]) == (uuid(run_id), "Scheduled", "waits for a place")
    for text in ("etl", uuid(run_id), "tidy-hawk"):
        shown = json.loads(kapstan("flow-run", "inspect", text, "-o", "json").stdout)
        assert (shown["id"], shown["attempts"]) == (uuid(run_id), [])
    assert json.loads(kapstan("flow-run", "ls", "--deployment", "other", "-o", "json").stdout) == []


def test_one_that_has_a_record_is_listed_once(backend: Backend, made, kapstan) -> None:
    run_id = made("Failed")
    begin(backend, run_id=run_id, end="Failed", deployment="nightly")
    (listed,) = json.loads(kapstan("flow-run", "ls", "-o", "json").stdout)
    assert listed["flow"] == "etl"
    assert len(json.loads(kapstan("flow-run", "inspect", "etl", "-o", "json").stdout)["attempts"]) == 1


def test_one_whose_journal_cannot_be_read_breaks_off_no_list(backend: Backend, made, kapstan) -> None:
    run_id = made("Cancelled")
    begin(backend, end="Failed")
    backend.store.log(log_name(run_id)).open(b"\x00\xff{}")
    listed = json.loads(kapstan("flow-run", "ls", "-o", "json").stdout)
    assert sorted(run["state"] for run in listed) == ["Cancelled", "Failed"]
    assert "--force deletes it" in kapstan("flow-run", "delete", "etl").stderr
    assert kapstan("flow-run", "delete", "--force", uuid(run_id)).exit_code == 0


def test_its_result_is_asked_for_by_its_name(backend: Backend, made, kapstan) -> None:
    run_id = made("Failed")
    begin(backend, run_id=run_id, end="Failed", deployment="nightly")
    answers = [kapstan("flow-run", "result", text) for text in ("etl", uuid(run_id))]
    assert answers[0].stderr == answers[1].stderr
    assert f"flow run {uuid(run_id)} is Failed" in answers[0].stderr


def test_cancel_resume_and_delete_go_through_its_object(backend: Backend, made, kapstan) -> None:
    run_id = made("Failed")
    begin(backend, run_id=run_id, end="Failed", deployment="nightly")
    assert "goes on from what it has finished" in kapstan("flow-run", "retry", uuid(run_id)).stdout
    assert spec_in(backend)["resume"] == 1
    assert "has ended: Failed" in kapstan("flow-run", "cancel", "etl").stderr
    assert kapstan("flow-run", "delete", "etl").exit_code == 0
    assert json.loads(kapstan("flow-run", "ls", "-o", "json").stdout) == []
    assert FlowRuns(backend).history(run_id).attempts == ()


def test_a_cancel_is_asked_of_the_operator(backend: Backend, made, kapstan) -> None:
    made("Running")
    assert "FlowRun etl: Cancelling" in kapstan("flow-run", "cancel", "etl", "--wait", "0").stdout
    assert spec_in(backend)["cancel"] is True

"""Manifests become values and come back; what only the models check is checked here, the rest by the bad samples."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from kapstan import states
from kapstan.errors import InvalidResource
from kapstan.resources import Condition, FlowRun, Metadata, TaskWorker, parse, set_condition, validate, violations
from kapstan.resources.flowrun import (
    INLINE_PARAMETERS_LIMIT,
    DeploymentReference,
    DiagnosisCategory,
    FlowRunSpec,
    Phase,
    inline_size,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def flow_run(**spec: Any) -> FlowRun:
    return FlowRun(
        metadata=Metadata(name="sample"), spec=FlowRunSpec(deployment_ref=DeploymentReference(name="sample"), **spec)
    )


def manifest(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "kapstan.dev/v1alpha1",
        "kind": "FlowRun",
        "metadata": {"name": "sample"},
        "spec": {"deploymentRef": {"name": "sample"}, **spec},
    }


def test_a_manifest_leaves_out_what_was_never_set() -> None:
    run = flow_run(parameters={"empty": None}, scheduled_time=NOW)
    assert run.to_dict() == manifest(parameters={"empty": None}, scheduledTime="2026-01-01T00:00:00Z")


def test_a_manifest_comes_back_equal() -> None:
    run = flow_run(parameters={"nested": [{"a": 1.5}]}, idempotency_key="order-17", cancel=True)
    assert parse(run.to_dict()) == run


def test_times_are_told_in_utc() -> None:
    elsewhere = NOW.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert flow_run(scheduled_time=elsewhere).to_dict()["spec"]["scheduledTime"] == "2026-01-01T00:00:00Z"


@pytest.mark.parametrize("text", ["2026-01-01", "20260101T000000Z", "2026-01-01 00:00:00Z", "2026-13-01T00:00:00Z"])
def test_a_time_is_rfc_3339(text: str) -> None:
    with pytest.raises(InvalidResource, match="must be of type date-time"):
        parse(manifest(scheduledTime=text))


def test_what_the_api_server_adds_to_metadata_is_dropped() -> None:
    stored = manifest()
    stored["metadata"] |= {"managedFields": [{"manager": "kubectl"}], "finalizers": ["a/b"], "resourceVersion": "7"}
    run = parse(stored)
    assert run.metadata == Metadata(name="sample", resource_version="7")
    assert run.key == ("FlowRun", "default", "sample")


def test_a_null_is_an_absent_field() -> None:
    run = parse(manifest(cancel=None, idempotencyKey=None, parameters={"kept": None}))
    assert isinstance(run, FlowRun)
    assert (run.spec.cancel, run.spec.idempotency_key, run.spec.parameters) == (False, None, {"kept": None})


def test_values_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        flow_run().spec.cancel = True  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("change", "path"),
    [({"apiVersion": "apps/v1"}, "apiVersion"), ({"kind": "CronJob"}, "kind"), ({"kind": None}, "kind")],
)
def test_a_kind_of_somebody_else_is_refused(change: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidResource) as refusal:
        parse(manifest() | change)
    assert [field for field, _ in refusal.value.problems] == [path]


def test_every_problem_of_a_manifest_is_told_at_once() -> None:
    with pytest.raises(InvalidResource) as refusal:
        parse(manifest(cancel="yes", paramters={}, idempotencyKey=17))
    assert sorted(field for field, _ in refusal.value.problems) == [
        "spec.cancel",
        "spec.idempotencyKey",
        "spec.paramters",
    ]
    assert str(refusal.value).startswith("FlowRun 'sample' is invalid:\n  spec.")


def test_large_parameters_are_refused_here_and_left_to_the_operator_on_a_cluster() -> None:
    """CEL cannot measure an open object, so the rule has no expression and the operator asks for such rules alone."""
    fits = flow_run(parameters={"text": "ä" * ((INLINE_PARAMETERS_LIMIT - len('{"text":""}')) // 2)})
    assert INLINE_PARAMETERS_LIMIT - inline_size(fits.spec.parameters or {}) in (0, 1)
    validate(fits)
    large = flow_run(parameters={"text": "x" * INLINE_PARAMETERS_LIMIT})
    (problem,) = violations(large, beyond_cel=True)
    assert problem[0] == "spec.parameters"
    assert "take more than 2048 bytes" in problem[1]
    with pytest.raises(InvalidResource, match="parametersRef"):
        validate(large)


def test_rules_that_the_api_server_checks_are_not_the_operators() -> None:
    worker = TaskWorker.from_dict(
        {
            "metadata": {"name": "sample"},
            "spec": {"tasks": ["shop.tasks"], "autoscaling": {"minReplicas": 2, "maxReplicas": 1}},
        }
    )
    assert list(violations(worker, beyond_cel=True)) == []
    assert len(list(violations(worker))) == 1


def test_a_condition_keeps_its_time_until_its_status_changes() -> None:
    later = NOW + timedelta(minutes=1)
    ready = Condition(type="Ready", status="True", reason="Serving", observed_generation=1)
    first = set_condition([], ready, now=NOW)
    told_again = set_condition(
        first, ready.model_copy(update={"reason": "Scaled", "observed_generation": 2}), now=later
    )
    assert [(told.reason, told.observed_generation, told.last_transition_time) for told in told_again] == [
        ("Scaled", 2, NOW)
    ]
    lost = set_condition(told_again, ready.model_copy(update={"status": "False"}), now=later)
    assert lost[0].last_transition_time == later


def test_conditions_stand_in_the_order_of_their_types() -> None:
    conditions: list[Condition] = []
    for kind in ("Ready", "Degraded", "Progressing"):
        conditions = set_condition(conditions, Condition(type=kind, status="True", reason="Because"), now=NOW)
    assert [condition.type for condition in conditions] == ["Degraded", "Progressing", "Ready"]


def test_phases_and_diagnoses_are_those_of_the_states() -> None:
    assert get_args(Phase) == tuple(states.PHASES)
    assert get_args(DiagnosisCategory) == tuple(states.DIAGNOSES)

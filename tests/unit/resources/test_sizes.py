"""No field that a user writes can grow without end: etcd takes 1.5 MB for an object, Linux 128 KiB for a variable."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests.unit.reconcile.builders import (
    NOW,
    actions,
    attempt,
    condition,
    deployment,
    deployment_observed,
    flow_run,
    journal,
    pool,
    run_observed,
    seen,
    status,
    told,
)

from kapstan import ids
from kapstan.errors import InvalidResource
from kapstan.ports.launch import FlowRunLaunch
from kapstan.reconcile.kinds.deployment import decision as of_deployment
from kapstan.reconcile.kinds.deployment.actions import CreateRun
from kapstan.reconcile.kinds.flow_run import decision as of_run
from kapstan.reconcile.kinds.flow_run.actions import StartAttempt
from kapstan.reconcile.status import MESSAGE_LIMIT, shortened
from kapstan.resources import KINDS, TaskWorker, crd, validate, violations
from kapstan.resources.base import POD_TEMPLATE_LIMIT
from kapstan.resources.deployment import PARAMETERS_LIMIT, SCHEMA_LIMIT
from kapstan.resources.flowrun import INLINE_PARAMETERS_LIMIT

LONGEST_VARIABLE = 128 * 1024
"""Linux' MAX_ARG_STRLEN, name and final NUL included."""
OPEN = {
    ("Deployment", "parameters"): PARAMETERS_LIMIT,
    ("Deployment", "parameterSchema"): SCHEMA_LIMIT,
    ("Deployment", "schedules[].parameters"): INLINE_PARAMETERS_LIMIT,
    ("FlowRun", "parameters"): INLINE_PARAMETERS_LIMIT,
    ("WorkPool", "podTemplate"): POD_TEMPLATE_LIMIT,
    ("TaskWorker", "podTemplate"): POD_TEMPLATE_LIMIT,
}
"""Objects of any shape, by their limit in bytes as JSON; tested one by one below."""


def unbounded(node: dict[str, Any], path: str) -> Iterator[str]:
    """Paths of fields that may be of any size."""
    bounds = {
        "string": ("maxLength", "enum", "format"),
        "array": ("maxItems",),
        "integer": ("maximum",),
        "number": ("maximum",),
    }
    wanted = bounds.get(node.get("type", ""), ())
    if wanted and not any(word in node for word in wanted):
        yield path
    if "additionalProperties" in node or node.get("x-kubernetes-preserve-unknown-fields"):
        yield path
    for name, child in node.get("properties", {}).items():
        yield from unbounded(child, f"{path}.{name}" if path else name)
    if "items" in node:
        yield from unbounded(node["items"], f"{path}[]")


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_of_a_spec_has_a_bound(kind: str) -> None:
    spec = crd.schema(KINDS[kind])["properties"]["spec"]
    assert {(kind, path) for path in unbounded(spec, "")} == {one for one in OPEN if one[0] == kind}


def worker(**spec: Any) -> TaskWorker:
    return TaskWorker.from_dict({"metadata": {"name": "shop"}, "spec": {"tasks": ["shop"], **spec}})


def filled(limit: int) -> dict[str, str]:
    """Of exactly so many bytes as JSON."""
    return {"a": "x" * (limit - len('{"a":""}'))}


LARGE = {
    ("Deployment", "parameters"): lambda value: deployment(parameters=value),
    ("Deployment", "parameterSchema"): lambda value: deployment(parameterSchema=value),
    ("Deployment", "schedules[].parameters"): lambda value: deployment(
        schedules=[{"name": "often", "interval": 60, "parameters": value}]
    ),
    ("FlowRun", "parameters"): lambda value: flow_run(parameters=value),
    ("WorkPool", "podTemplate"): lambda value: pool(podTemplate=value),
    ("TaskWorker", "podTemplate"): lambda value: worker(podTemplate=value),
}


@pytest.mark.parametrize(("field", "limit"), OPEN.items(), ids=[" ".join(field) for field in OPEN])
def test_an_open_object_is_held_to_its_limit(field: tuple[str, str], limit: int) -> None:
    make = LARGE[field]
    validate(make(filled(limit)))
    large = make(filled(limit + 1))
    ((path, message),) = violations(large, beyond_cel=True)
    assert path == f"spec.{field[1].replace('[]', '[0]')}"
    assert f"more than {limit} bytes" in message
    with pytest.raises(InvalidResource, match=f"more than {limit} bytes"):
        validate(large)


@pytest.mark.parametrize("letter", ["x", "ä", "語", "\U0001f600", '"', "\\", "\x01", "$"])
def test_what_fits_into_the_objects_fits_into_a_variable_of_the_process(letter: str) -> None:
    """Written in ASCII as it is there, whatever a letter grows to."""

    def most(limit: int) -> str:
        of_one = len(filled_with(letter, 1)) - len(filled_with(letter, 0))
        return letter * ((limit - len('{"a":""}')) // of_one)

    deployments, runs = {"a": most(PARAMETERS_LIMIT)}, {"b": most(INLINE_PARAMETERS_LIMIT)}
    validate(deployment(parameters=deployments))
    validate(flow_run(parameters=runs))
    launch = FlowRunLaunch("flow.py:main", ids.new_id(), 1, "shop", parameters=deployments | runs)
    for name, value in launch.environ().items():
        assert len(f"{name}={value}".encode()) + 1 <= LONGEST_VARIABLE


def filled_with(letter: str, times: int) -> bytes:
    return json.dumps({"a": letter * times}, ensure_ascii=False, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    "large",
    [
        {"deployment": deployment(parameters=filled(PARAMETERS_LIMIT + 1))},
        {"pool": pool(podTemplate=filled(POD_TEMPLATE_LIMIT + 1))},
    ],
)
def test_a_run_says_what_is_too_large_and_is_not_launched(large: dict[str, Any]) -> None:
    plan = of_run.reconcile(run_observed(flow_run(), place="granted", **large), NOW)
    assert condition(status(plan), "Degraded") == ("True", "InvalidSpec")
    (kind,) = large
    assert f"of {'Deployment' if kind == 'deployment' else 'WorkPool'} " in status(plan)["message"]
    assert actions(plan, StartAttempt) == []


@pytest.mark.parametrize("field", ["parameters", "parameterSchema", "schedules"])
def test_a_deployment_says_what_is_too_large_and_makes_no_runs(field: str) -> None:
    schedule: dict[str, Any] = {"name": "minutely", "cron": "* * * * *"}
    spec: dict[str, Any] = {"schedules": [schedule]}
    if field == "schedules":
        schedule["parameters"] = filled(INLINE_PARAMETERS_LIMIT + 1)
    else:
        spec[field] = filled(SCHEMA_LIMIT + 1)
    before = {"observedGeneration": 1, "schedules": [{"name": "minutely", "lastScheduleTime": "2026-03-02T11:59:00Z"}]}
    plan = of_deployment.reconcile(deployment_observed(deployment(before, **spec)), NOW)
    assert actions(plan, CreateRun) == []
    assert condition(status(plan), "Ready") == ("False", "InvalidSpec")
    assert condition(status(plan), "Degraded") == ("True", "InvalidSpec")


def test_the_words_of_an_exception_of_any_size_end_the_run_all_the_same() -> None:
    said = journal(told(1, "Failed", message="x" * 5_000_000))
    run = flow_run({"phase": "Running", "attempts": [attempt()]})
    plan = of_run.reconcile(run_observed(run, record=said, attempts=(seen(),)), NOW)
    assert status(plan)["phase"] == "Failed"
    assert len(json.dumps(status(plan))) < 32 * 1024


def test_no_message_makes_a_status_too_large_to_be_written() -> None:
    text = "x" * 5_000_000
    assert len(shortened(text)) < MESSAGE_LIMIT + 100
    assert shortened(text).endswith("(4995904 more characters; the run's log has them)")
    assert shortened("x" * MESSAGE_LIMIT) == "x" * MESSAGE_LIMIT

"""The manifests of Jobs and workers: what every pod has, what a template may change and what not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from kapstan import ids
from kapstan.cli import operator
from kapstan.cluster.kubernetes import render
from kapstan.errors import InvalidResource
from kapstan.ports import JobRequest, Key, WorkersRequest
from kapstan.settings import Settings

RUN_ID = ids.derived_id("test")
API = "kapstan.dev/v1alpha1"


def job_request(
    *, flow: dict[str, Any] | None = None, pool: dict[str, Any] | None = None, **changes: Any
) -> JobRequest:
    deployment = {
        "apiVersion": API,
        "kind": "Deployment",
        "metadata": {"name": "etl", "namespace": "team"},
        "spec": {"flow": {"entrypoint": "etl.py:main", "image": "etl:1"} | (flow or {}), "workPoolRef": {"name": "p"}},
    }
    work_pool = {
        "apiVersion": API,
        "kind": "WorkPool",
        "metadata": {"name": "p", "namespace": "team"},
        "spec": pool or {},
    }
    fields: dict[str, Any] = {
        "run": Key("FlowRun", "team", "etl-1"),
        "uid": "uid-1",
        "run_id": RUN_ID,
        "attempt": 2,
        "job": "etl-1-2",
        "deployment": deployment,
        "pool": work_pool,
        "parameters": {"n": 3},
    }
    return JobRequest(**(fields | changes))


def workers_request(spec: dict[str, Any] | None = None, replicas: int = 2) -> WorkersRequest:
    worker = {
        "apiVersion": API,
        "kind": "TaskWorker",
        "metadata": {"name": "mail", "namespace": "team", "uid": "uid-2"},
        "spec": {"image": "mail:1", "tasks": ["shop.tasks", "shop.extra:send"], "concurrency": 4} | (spec or {}),
    }
    return WorkersRequest(worker, replicas)


def pods() -> list[Any]:
    template = {
        "spec": {
            "automountServiceAccountToken": True,
            "enableServiceLinks": True,
            "restartPolicy": "OnFailure",
            "containers": [{"name": "sidecar", "image": "s"}],
            "initContainers": [{"name": "first", "image": "i"}],
        }
    }
    return [
        pytest.param(render.job(job_request())["spec"]["template"], id="job"),
        pytest.param(render.job(job_request(pool={"podTemplate": template}))["spec"]["template"], id="job, template"),
        pytest.param(render.app_deployment(workers_request())["spec"]["template"], id="worker"),
        pytest.param(
            render.app_deployment(workers_request({"podTemplate": template}))["spec"]["template"], id="worker, template"
        ),
    ]


@pytest.mark.parametrize("template", pods())
def test_every_pod_is_restricted_and_holds_no_token(template: dict[str, Any]) -> None:
    pod = template["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert pod["restartPolicy"] in ("Never", "Always")
    assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    for container in pod["containers"] + pod.get("initContainers", []):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    ours = pod["containers"][0]
    assert ours["envFrom"] == [{"secretRef": {"name": "kapstan-workload"}}]
    assert {"name": "KAPSTAN_NAMESPACE", "value": "team"} in ours["env"]
    assert {mount["mountPath"] for mount in ours["volumeMounts"]} == {"/tmp", render.HOME}


def test_a_job_runs_one_attempt_once() -> None:
    job = render.job(job_request())
    assert job["metadata"]["name"] == "etl-1-2"
    assert job["metadata"]["ownerReferences"] == [
        {"apiVersion": API, "kind": "FlowRun", "name": "etl-1", "uid": "uid-1", "controller": True}
    ]
    assert {name: job["spec"][name] for name in ("backoffLimit", "parallelism", "completions")} == {
        "backoffLimit": 0,
        "parallelism": 1,
        "completions": 1,
    }
    assert "podFailurePolicy" not in job["spec"]
    container = job["spec"]["template"]["spec"]["containers"][0]
    assert container["command"] == ["kapstan"]
    assert container["terminationMessagePolicy"] == "FallbackToLogsOnError"
    assert container["args"] == ["run", f"--run-id={ids.to_uuid(RUN_ID)}", "--attempt=2", "--", "etl.py:main"]
    assert {"name": "KAPSTAN_PARAMETERS", "value": '{"n":3}'} in container["env"]


def test_the_address_of_redis_may_stand_in_a_secret_of_its_own() -> None:
    redis = render.SecretKey("my-redis", "URL")
    template = {"spec": {"containers": [{"name": "sidecar", "image": "s"}]}}
    made = (
        render.job(job_request(pool={"podTemplate": template}), redis=redis),
        render.app_deployment(workers_request({"podTemplate": template}), redis=redis),
    )
    for manifest in made:
        ours, sidecar = manifest["spec"]["template"]["spec"]["containers"]
        (given,) = [entry for entry in ours["env"] if entry["name"] == "KAPSTAN_REDIS_URL"]
        assert given["valueFrom"] == {"secretKeyRef": {"name": "my-redis", "key": "URL"}}
        assert "env" not in sidecar
    assert all(
        entry["name"] != "KAPSTAN_REDIS_URL"
        for entry in render.job(job_request())["spec"]["template"]["spec"]["containers"][0]["env"]
    )


@pytest.mark.parametrize("given", ["my-redis", "my-redis/", "/URL"])
def test_half_a_place_in_a_secret_is_refused(tmp_path: Path, given: str) -> None:
    words = ["--all-namespaces", f"--signing-keys={tmp_path}", f"--workload-redis-secret={given}"]
    answer = CliRunner().invoke(operator.start, words)
    assert answer.exit_code == 2
    assert f"--workload-redis-secret '{given}': write NAME/KEY" in answer.output


def test_stored_parameters_are_named_beside_those_of_the_deployment() -> None:
    container = render.job(job_request(parameters_ref="parameters/x"))["spec"]["template"]["spec"]["containers"][0]
    assert "--parameters-ref=parameters/x" in container["args"]
    assert {"name": "KAPSTAN_PARAMETERS", "value": '{"n":3}'} in container["env"]


def test_the_pool_chooses_account_and_secrets() -> None:
    pool = {"serviceAccountName": "runner", "imagePullSecrets": [{"name": "registry"}], "ttlSecondsAfterFinished": 7}
    job = render.job(job_request(pool=pool))
    assert job["spec"]["ttlSecondsAfterFinished"] == 7
    assert job["spec"]["template"]["spec"]["serviceAccountName"] == "runner"
    assert job["spec"]["template"]["spec"]["imagePullSecrets"] == [{"name": "registry"}]


def test_a_template_cannot_take_our_labels_away() -> None:
    template = {"metadata": {"labels": {"kapstan.dev/flow-run": "other", "team": "a"}}}
    labels = render.job(job_request(pool={"podTemplate": template}))["spec"]["template"]["metadata"]["labels"]
    assert labels["kapstan.dev/flow-run"] == "etl-1"
    assert labels["team"] == "a"


def test_a_worker_serves_modules_and_single_tasks_and_has_time_to_drain() -> None:
    deployment = render.app_deployment(workers_request({"drain": {"timeoutSeconds": 60}}))
    assert deployment["metadata"]["name"] == "mail-workers"
    assert deployment["spec"]["replicas"] == 2
    assert deployment["spec"]["selector"] == {"matchLabels": {"kapstan.dev/task-worker": "mail"}}
    pod = deployment["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > 60
    container = pod["containers"][0]
    assert container["command"] == ["kapstan"]
    assert container["args"][:5] == ["task", "serve", "--module=shop.tasks", "--limit=4", "--drain-seconds=60"]
    assert container["args"][-2:] == ["--", "shop.extra:send"]
    session = {"name": "KAPSTAN_SESSION", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}
    assert session in container["env"]


def test_the_template_hash_follows_the_template_only() -> None:
    def digest(**changes: Any) -> str:
        return render.app_deployment(workers_request(**changes))["metadata"]["annotations"][render.TEMPLATE_HASH]

    assert digest() == digest(replicas=5)
    assert digest() != digest(spec={"image": "mail:2"})


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: render.job(job_request(flow={"image": None, "entrypoint": "etl.py:main"})), "spec.flow.image"),
        (lambda: render.app_deployment(workers_request({"image": None})), "spec.image"),
    ],
)
def test_without_an_image_there_is_no_pod(make: Any, field: str) -> None:
    with pytest.raises(InvalidResource) as refused:
        make()
    assert refused.value.problems[0][0] == field
    assert "name the image" in str(refused.value)


def test_kapstan_operator_start_knows_the_options_that_the_chart_gives() -> None:
    chart = (Path(__file__).parents[3] / "charts" / "kapstan" / "templates" / "operator.yaml").read_text()
    given = set(re.findall(r"^ +- (--[a-z-]+)", chart, re.MULTILINE))
    assert len(given) >= 8
    assert given - {name for parameter in operator.start.params for name in parameter.opts} == set()


def test_settings_know_every_variable_that_is_rendered() -> None:
    containers = (
        render.job(job_request())["spec"]["template"]["spec"]["containers"][0],
        render.app_deployment(workers_request())["spec"]["template"]["spec"]["containers"][0],
    )
    rendered = {one["name"]: "1" for container in containers for one in container["env"]}
    Settings.from_env(rendered)

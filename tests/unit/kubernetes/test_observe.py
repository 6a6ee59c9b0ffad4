"""What pods and Jobs tell: the word for each way in which an attempt waits or ends."""

from __future__ import annotations

from typing import Any

import pytest

from kapstan.cluster.kubernetes import observe
from kapstan.ports import AttemptObservation

STARTED, FINISHED = "2026-01-01T00:00:01Z", "2026-01-01T00:00:09Z"
JOB: dict[str, Any] = {"metadata": {"name": "r-1", "uid": "j", "creationTimestamp": "2026-01-01T00:00:00Z"}}


def pod(*, deleting: bool = False, **status: Any) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": "r-1-x", "uid": "p", "creationTimestamp": "2026-01-01T00:00:00Z"}
    if deleting:
        metadata["deletionTimestamp"] = FINISHED
    return {"metadata": metadata, "spec": {"nodeName": "node1"}, "status": status}


def flow(**state: Any) -> list[dict[str, Any]]:
    return [{"name": "proxy", "state": {"running": {}}}, {"name": "flow", "state": state}]


def terminated(exit_code: int, reason: str = "Error") -> list[dict[str, Any]]:
    return flow(terminated={"exitCode": exit_code, "reason": reason, "startedAt": STARTED, "finishedAt": FINISHED})


def condition(type_: str, status: str, reason: str, message: str = "") -> list[dict[str, Any]]:
    return [{"type": type_, "status": status, "reason": reason, "message": message}]


def seen(pod: dict[str, Any] | None, **changes: Any) -> AttemptObservation:
    arguments: dict[str, Any] = {"job": JOB, "gone": False} | changes
    return observe.attempt(1, "r-1", arguments.pop("job"), pod, **arguments)


def test_an_init_container_that_failed_is_named() -> None:
    """The pod is there: nobody deleted it."""
    init = [{"name": "fetch", "state": {"terminated": {"exitCode": 7, "reason": "Error"}}}]
    observed = seen(pod(phase="Failed", initContainerStatuses=init, containerStatuses=flow(waiting={})))
    assert (observed.ended, observed.reason) == (True, "InitContainerFailed")
    assert observed.message == "init container fetch ended with exit code 7: Error"
    assert seen(pod(phase="Failed")).reason == "PodFailed"
    assert seen(pod(phase="Running"), gone=True).reason == "PodDeleted"


def test_a_sidecar_that_nobody_stops_is_seen() -> None:
    assert seen(pod(phase="Running", containerStatuses=terminated(0, "Completed"))).lingers
    assert not seen(pod(phase="Succeeded", containerStatuses=terminated(0, "Completed"))).lingers
    assert not seen(pod(phase="Running", containerStatuses=terminated(0, "Completed")), gone=True).lingers


@pytest.mark.parametrize(
    ("code", "reason", "message", "log"),
    [
        (137, "Error", "", ("charging 7", "Killed")),
        (137, "OOMKilled", "", ("charging 7", "Killed")),
        (128, "StartError", "charging 7\nKilled", ()),
        (2, "Error", "charging 7\nKilled", ()),  # what `kapstan run` says of a setting that is none
    ],
)
def test_what_it_has_logged_last_is_no_reason(code: int, reason: str, message: str, log: tuple[str, ...]) -> None:
    told = terminated(code, reason)
    told[1]["state"]["terminated"]["message"] = "charging 7\nKilled"
    observed = seen(pod(phase="Failed", containerStatuses=told))
    assert (observed.message, observed.log) == (message, log)


def test_when_it_should_be_gone_and_since_when_it_has_a_node() -> None:
    placed = [{"type": "PodScheduled", "status": "True", "lastTransitionTime": STARTED}]
    observed = seen(pod(deleting=True, phase="Running", conditions=placed, containerStatuses=flow(running={})))
    assert (observed.stopping, observed.stop_by, observed.placed_at) == (True, FINISHED, STARTED)
    assert seen(pod(phase="Pending")).placed_at is None


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ({"phase": "Pending"}, ""),
        ({"containerStatuses": flow(waiting={"reason": "ContainerCreating"})}, ""),
        ({"containerStatuses": flow(waiting={"reason": "ErrImagePull", "message": "not found"})}, "ErrImagePull"),
        ({"containerStatuses": flow(waiting={"reason": "ImagePullBackOff"})}, "ImagePullBackOff"),
        ({"containerStatuses": flow(waiting={"reason": "CreateContainerConfigError"})}, "CreateContainerConfigError"),
        (
            {
                "initContainerStatuses": [{"name": "i", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}],
                "containerStatuses": flow(waiting={"reason": "PodInitializing"}),
            },
            "CrashLoopBackOff",
        ),
        ({"conditions": condition("PodScheduled", "False", "Unschedulable", "0/1 nodes")}, "Unschedulable"),
    ],
)
def test_why_it_waits(status: dict[str, Any], reason: str) -> None:
    observed = seen(pod(**status))
    assert (observed.exists, observed.running, observed.ended, observed.reason) == (True, False, False, reason)


@pytest.mark.parametrize(
    ("status", "reason", "exit_code"),
    [
        ({"containerStatuses": terminated(0, "Completed")}, "Completed", 0),
        ({"containerStatuses": terminated(1)}, "Error", 1),
        ({"containerStatuses": terminated(137, "OOMKilled")}, "OOMKilled", 137),
        # The pod as a whole says more than the container.
        ({"phase": "Failed", "reason": "Evicted", "containerStatuses": terminated(137)}, "Evicted", 137),
        (
            {
                "containerStatuses": terminated(143),
                "conditions": condition("DisruptionTarget", "True", "PreemptionByScheduler"),
            },
            "PreemptionByScheduler",
            143,
        ),
        ({"phase": "Failed", "reason": "NodeLost"}, "NodeLost", None),
    ],
)
def test_how_it_ended(status: dict[str, Any], reason: str, exit_code: int | None) -> None:
    observed = seen(pod(**status))
    assert (observed.ended, observed.running, observed.reason, observed.exit_code) == (True, False, reason, exit_code)


def test_the_end_is_seen_before_the_phase_says_so() -> None:
    observed = seen(pod(phase="Running", containerStatuses=terminated(0, "Completed")))
    assert (observed.ended, observed.started_at, observed.finished_at) == (True, STARTED, FINISHED)
    assert (observed.pod, observed.node) == ("r-1-x", "node1")


def test_a_running_container_runs() -> None:
    observed = seen(pod(phase="Running", containerStatuses=flow(running={"startedAt": STARTED})))
    assert (observed.running, observed.ended, observed.started_at) == (True, False, STARTED)


def test_a_forced_deletion_is_an_end() -> None:
    last = pod(deleting=True, containerStatuses=flow(running={"startedAt": STARTED}))
    assert not seen(last).ended
    assert seen(last).stopping
    observed = seen(last, gone=True)
    assert (observed.ended, observed.reason, observed.running) == (True, "PodDeleted", False)


def test_a_pod_that_outlives_its_job_still_runs() -> None:
    living = pod(containerStatuses=flow(running={"startedAt": STARTED}))
    observed = seen(living, job=None)
    assert (observed.exists, observed.stopping, observed.ended) == (True, True, False)
    gone = seen(living, job=None, gone=True)
    assert (gone.exists, gone.ended) == (False, True)


def test_nothing_there_is_gone() -> None:
    observed = seen(None, job=None)
    assert (observed.exists, observed.ended, observed.reason) == (False, True, "")


@pytest.mark.parametrize(
    ("refusal", "reason"),
    [
        ("", ""),
        ('pods "r-1-x" is forbidden: exceeded quota: small, requested: pods=1', "QuotaExceeded"),
        ('pods "r-1-x" is forbidden: violates PodSecurity "restricted:latest"', "FailedCreate"),
    ],
)
def test_a_pod_that_could_not_be_created(refusal: str, reason: str) -> None:
    observed = seen(None, refusal=refusal)
    assert (observed.exists, observed.ended, observed.reason, observed.message) == (True, False, reason, refusal)


def test_a_failed_job_without_a_pod_has_ended() -> None:
    failed = JOB | {"status": {"conditions": condition("Failed", "True", "BackoffLimitExceeded", "no pod")}}
    observed = seen(None, job=failed)
    assert (observed.ended, observed.reason, observed.message) == (True, "BackoffLimitExceeded", "no pod")


def worker_pod(state: dict[str, Any], **container: Any) -> dict[str, Any]:
    status = {
        "phase": "Running",
        "conditions": condition("Ready", "True", ""),
        "containerStatuses": [{"name": "worker", "state": state, **container}],
    }
    manifest = pod(**status)
    manifest["metadata"]["annotations"] = {observe.DELETION_COST: "-100"}
    return manifest


def test_a_member_of_a_worker() -> None:
    member = observe.member(worker_pod({"running": {}}, restartCount=2))
    assert (member.name, member.session_prefix, member.deletion_cost, member.boot) == ("r-1-x", "p", -100, 2)
    assert (member.ready, member.ending, member.ended) == (True, False, False)


@pytest.mark.parametrize(
    ("state", "last"),
    [
        ({"terminated": {"exitCode": 137}}, {}),
        ({"waiting": {"reason": "CrashLoopBackOff"}}, {"terminated": {"exitCode": 137}}),
    ],
)
def test_a_member_whose_process_died(state: dict[str, Any], last: dict[str, Any]) -> None:
    assert observe.member(worker_pod(state, lastState=last)).ended


def test_pods_of_workers_that_cannot_be_made_are_told() -> None:
    failing = condition("ReplicaFailure", "True", "FailedCreate", "pods is forbidden: exceeded quota: none")
    assert "exceeded quota" in observe.replica_failure({"status": {"conditions": failing}})
    assert observe.replica_failure({"status": {}}) == observe.replica_failure(None) == ""

"""Reads pods and Jobs: what they tell about an attempt's process, and about the members of a TaskWorker.

Pure functions over the slim manifests of `cache`; `launcher` calls them. The container's ``terminated`` state is read
before the pod's phase, which follows a second later, and before the Job, which follows two seconds later. Reasons are
Kubernetes' own words; what they mean for a run is decided by `reconcile`.
"""

from __future__ import annotations

from typing import Any

from kapstan.cluster.kubernetes.cache import items, within
from kapstan.cluster.kubernetes.render import FLOW_CONTAINER, WORKER_CONTAINER
from kapstan.ports import AttemptObservation, WorkerMember
from kapstan.states import ExitCode

Json = dict[str, Any]

DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"

# Waiting for these is the ordinary way of a pod.
_ORDINARY = frozenset({"", "ContainerCreating", "PodInitializing"})
_OF_PROCESS = frozenset({"Error", "OOMKilled", "Completed"})
"""Reasons of a container whose process has run."""


def attempt(
    number: int, name: str, job: Json | None, pod: Json | None, *, gone: bool, refusal: str = ""
) -> AttemptObservation:
    """One attempt.

    Args:
        pod: its pod, or the last that was seen of it.
        gone: the pod was deleted.
        refusal: why the Job controller could not create the pod.
    """
    if job is None and pod is None:
        return AttemptObservation(number, name, exists=False, ended=True)
    seen = _pod_fields(pod, gone) if pod is not None else _no_pod(job, refusal)
    deleted = job is None or "deletionTimestamp" in job["metadata"]
    created = (job or pod or {})["metadata"].get("creationTimestamp")
    if not seen.get("ended") and job is not None and (failure := _job_end(job)) is not None and (pod is None or gone):
        seen |= {
            "ended": True,
            "reason": seen.get("reason") or failure[0],
            "message": seen.get("message") or failure[1],
        }
    seen["stopping"] = bool(seen.get("stopping")) or deleted
    # A pod that outlives its Job (somebody deleted that) still runs the attempt.
    exists = job is not None or not (gone or seen.get("ended"))
    return AttemptObservation(number, name, exists=exists, created_at=created, **seen)


def member(pod: Json) -> WorkerMember:
    """One pod of a TaskWorker."""
    metadata, status = pod["metadata"], within(pod, "status")
    container = _container(status, WORKER_CONTAINER)
    ended = status.get("phase") in ("Succeeded", "Failed")
    reason, message = _why_not_running(status)
    return WorkerMember(
        name=metadata["name"],
        session_prefix=metadata["uid"],
        ready=_condition(status, "Ready").get("status") == "True",
        ending=ended or "deletionTimestamp" in metadata,
        deletion_cost=int(within(pod, "metadata", "annotations").get(DELETION_COST, "0")),
        message=": ".join(part for part in (reason, message) if part),
        # Between two boots the container waits, with the last process' end beside it.
        ended=ended or "terminated" in within(container, "state") or _is_between_boots(container),
        boot=int(container.get("restartCount") or 0),
    )


def replica_failure(deployment: Json | None) -> str:
    """Why the pods of an apps/v1 Deployment cannot be created (a quota, Pod Security ...), empty where they can."""
    condition = _condition(within(deployment, "status"), "ReplicaFailure")
    return str(condition.get("message") or "") if condition.get("status") == "True" else ""


def _is_between_boots(container: Json) -> bool:
    return "waiting" in within(container, "state") and "terminated" in within(container, "lastState")


def _pod_fields(pod: Json, gone: bool) -> Json:
    metadata, status = pod["metadata"], within(pod, "status")
    seen: Json = {"pod": metadata["name"], "node": within(pod, "spec").get("nodeName")}
    placed = _condition(status, "PodScheduled")
    if placed.get("status") == "True":
        seen["placed_at"] = placed.get("lastTransitionTime")
    state = within(_container(status, FLOW_CONTAINER), "state")
    terminated, running = state.get("terminated"), state.get("running")
    if terminated is not None:
        reason, message = _end_of_pod(status)
        seen |= {
            "running": False,
            "ended": True,
            "exit_code": terminated.get("exitCode"),
            "reason": _reason_of_end(reason, terminated.get("reason") or ""),
            **_words(message, terminated),
            "started_at": terminated.get("startedAt"),
            "finished_at": terminated.get("finishedAt"),
            "lingers": not gone and status.get("phase") not in ("Succeeded", "Failed"),
        }
    elif gone or status.get("phase") in ("Succeeded", "Failed"):
        reason, message = _end_of_pod(status)
        if not reason:
            reason, message = _failed_init(status) or ("PodDeleted" if gone else "PodFailed", message)
        seen |= {"ended": True, "reason": reason, "message": message}
        seen |= {"started_at": within(state, "running").get("startedAt")}
    elif running is not None:
        seen |= {"running": True, "started_at": running.get("startedAt")}
        reason, message = _disruption(status)
        seen |= {"reason": reason, "message": message}
    else:
        reason, message = _why_not_running(status)
        seen |= {"reason": reason, "message": message}
    seen["stopping"] = "deletionTimestamp" in metadata
    # The moment at which the grace is over: the API server adds it to that of the delete.
    seen["stop_by"] = metadata.get("deletionTimestamp")
    return seen


def _words(of_pod: str, terminated: Json) -> Json:
    """What is said of a container's end. If its process ended by itself or was killed, the kubelet says what it has
    logged last (``terminationMessagePolicy``); else why it could not run. One that could not begin says that itself
    (``cli.TERMINATION_LOG``)."""
    said = str(terminated.get("message") or "")
    if terminated.get("reason") in _OF_PROCESS and terminated.get("exitCode") != ExitCode.USAGE:
        return {"message": of_pod, "log": tuple(said.splitlines())}
    return {"message": of_pod or said}


def _no_pod(job: Json | None, refusal: str) -> Json:
    if not refusal or job is None:
        return {}
    return {"reason": "QuotaExceeded" if "exceeded quota" in refusal else "FailedCreate", "message": refusal}


def _job_end(job: Json) -> tuple[str, str] | None:
    """(reason, message) of a Job that has failed or completed."""
    for type_ in ("Failed", "FailureTarget", "Complete", "SuccessCriteriaMet"):
        condition = _condition(within(job, "status"), type_)
        if condition.get("status") == "True":
            return condition.get("reason") or type_, condition.get("message") or ""
    return None


def _reason_of_end(of_pod: str, of_container: str) -> str:
    """Evicted says more than Error; OOMKilled says more than Evicted."""
    return of_container if of_container == "OOMKilled" or not of_pod else of_pod


def _end_of_pod(status: Json) -> tuple[str, str]:
    """(reason, message) of the pod as a whole: Evicted, Preempting, NodeLost, DeadlineExceeded, Shutdown ..."""
    if status.get("reason"):
        return status["reason"], status.get("message") or ""
    return _disruption(status)


def _disruption(status: Json) -> tuple[str, str]:
    """(reason, message) of a pod that is being evicted, such as PreemptionByScheduler or DeletionByTaintManager."""
    condition = _condition(status, "DisruptionTarget")
    if condition.get("status") == "True":
        return condition.get("reason") or "", condition.get("message") or ""
    return "", ""


def _why_not_running(status: Json) -> tuple[str, str]:
    """(reason, message) of a pod that does not run yet, empty where nothing is wrong."""
    scheduled = _condition(status, "PodScheduled")
    if scheduled.get("status") == "False":
        return scheduled.get("reason") or "", scheduled.get("message") or ""
    for container in items(status, "initContainerStatuses") + items(status, "containerStatuses"):
        waiting = within(container, "state", "waiting")
        if waiting.get("reason", "") not in _ORDINARY:
            return waiting["reason"], waiting.get("message") or _last_end(container)
    return _disruption(status)


def _last_end(container: Json) -> str:
    terminated = within(container, "lastState", "terminated")
    return f"last exit {terminated['exitCode']}: {terminated.get('reason', '')}" if terminated else ""


def _failed_init(status: Json) -> tuple[str, str] | None:
    """(reason, message) of an init container that failed, so that the flow's container was never started."""
    for container in items(status, "initContainerStatuses"):
        terminated = within(container, "state", "terminated")
        if terminated.get("exitCode"):
            reason = terminated.get("reason") or "Error"
            message = f"init container {container.get('name')} ended with exit code {terminated['exitCode']}: {reason}"
            return ("OOMKilled" if reason == "OOMKilled" else "InitContainerFailed"), message
    return None


def _container(status: Json, name: str) -> Json:
    found = (container for container in items(status, "containerStatuses") if container.get("name") == name)
    return next(found, dict[str, Any]())


def _condition(status: Json, type_: str) -> Json:
    found = (condition for condition in items(status, "conditions") if condition.get("type") == type_)
    return next(found, dict[str, Any]())

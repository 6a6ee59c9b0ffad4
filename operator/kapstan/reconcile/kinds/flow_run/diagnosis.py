"""Turns what infrastructure says about a process into what a person can act on: category, message, resolution.

Called by the FlowRun reconciler for a process that does not start, or ended without a word of its own.
"""

from __future__ import annotations

from datetime import datetime

from kapstan.ports import AttemptObservation
from kapstan.reconcile.status import shortened
from kapstan.resources.flowrun import Diagnosis, DiagnosisCategory
from kapstan.states import DIAGNOSES, ExitCode

_CATEGORY: dict[str, DiagnosisCategory] = {
    "ErrImagePull": "ImagePull",
    "ImagePullBackOff": "ImagePull",
    "InvalidImageName": "ImagePull",
    "ErrImageNeverPull": "ImagePull",
    "RegistryUnavailable": "ImagePull",
    "CrashLoopBackOff": "CrashLoop",
    "OOMKilled": "OOMKilled",
    "Evicted": "Evicted",
    "TerminationByKubelet": "Evicted",
    "EvictionByEvictionAPI": "Evicted",
    "Preempted": "Preempted",
    "PreemptionByScheduler": "Preempted",
    "Preempting": "Preempted",
    "NodeLost": "NodeLost",
    "NodeShutdown": "NodeLost",
    "Shutdown": "NodeLost",
    "Terminated": "NodeLost",
    "DeletionByTaintManager": "NodeLost",
    "DeletionByPodGC": "NodeLost",
    "Unschedulable": "Unschedulable",
    "SchedulingGated": "Unschedulable",
    "QuotaExceeded": "QuotaExceeded",
    "CreateContainerConfigError": "ConfigError",
    "CreateContainerError": "ConfigError",
    "RunContainerError": "ConfigError",
    "ContainerCannotRun": "ConfigError",
    "StartError": "ConfigError",
    "InitContainerFailed": "CrashLoop",
    "FailedCreate": "ConfigError",
    "ConfigError": "ConfigError",
    "DeadlinePending": "DeadlinePending",
    "DeadlineRunning": "DeadlineRunning",
}

_RESOLUTION: dict[DiagnosisCategory, str] = {
    "ImagePull": "correct spec.flow.image of the Deployment, or give the pool the imagePullSecrets of its registry",
    "CrashLoop": "read the log of the process: `kubectl logs`, or the log file in local mode",
    "OOMKilled": "raise resources.limits.memory of the container flow in the pool's podTemplate, or use less memory",
    "Evicted": "set resources.requests in the pool's podTemplate to what the flow needs",
    "Preempted": "give the pool's podTemplate a priorityClassName, or the cluster more nodes",
    "NodeLost": "nothing, if it was planned: the run goes on in a new attempt",
    "Unschedulable": "lower resources.requests in the pool's podTemplate, correct its nodeSelector, or add a node",
    "QuotaExceeded": "raise the namespace's ResourceQuota, or lower maxInFlight of the pool",
    "NameTaken": "delete or rename that object if it is yours; the run goes on under its next attempt's name",
    "ConfigError": "correct what the message names: command, environment, Secret, ConfigMap or volume",
    "DeadlinePending": "raise deadlines.pendingSeconds of the pool, or see why the process does not start",
    "DeadlineRunning": "raise deadlines.runningSeconds of the pool, or make the flow quicker",
    "Killed": "nothing, if it was planned: the run goes on in a new attempt",
    "Cancelled": "",
    "UserCode": "see the exception in the run's log; correct it and run again",
}

NEEDS_ROOM: frozenset[DiagnosisCategory] = frozenset({"Unschedulable", "QuotaExceeded"})
"""What keeps a process from starting until the cluster has room: nothing is wrong with the run."""

STUCK: frozenset[DiagnosisCategory] = frozenset({"ImagePull", "ConfigError", "Unschedulable", "QuotaExceeded"})
"""What keeps a process from starting until somebody does something."""


def diagnosis(category: DiagnosisCategory, message: str, *, resolution: str = "") -> Diagnosis:
    """A diagnosis, with the resolution that belongs to its category unless another one is given."""
    return Diagnosis(
        category=category,
        message=shortened(message) or DIAGNOSES[category],
        resolution=resolution or _RESOLUTION[category],
    )


def of_start(seen: AttemptObservation) -> Diagnosis | None:
    """Why a process has not started yet; None where it only takes its time."""
    category = _CATEGORY.get(seen.reason)
    if category is None or category not in STUCK:
        return None
    return diagnosis(category, f"{seen.reason}: {seen.message}" if seen.message else seen.reason)


def of_silence(seen: AttemptObservation, since: datetime, until: datetime) -> Diagnosis:
    """A process was told to go, and neither its end nor anything else is heard from its node."""
    return diagnosis(
        "NodeLost",
        f"{seen.pod or seen.job} on node {seen.node or 'unknown'} should have ended by {_clock(since)} and is not seen"
        " to have: it may still run, so nothing else executes the run before "
        f"{_clock(until)}; then the next attempt goes on, and what an old one may still do is kept out of its record",
        resolution="bring the node back, or make sure that it is off and then delete the pod: "
        f"kubectl delete pod {seen.pod or 'POD'} --force --grace-period=0",
    )


def _clock(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def of_end(seen: AttemptObservation, reason: str = "") -> Diagnosis:
    """Why a process ended without saying so itself. ``reason``: what the operator stopped it for."""
    unheard = "" if seen.ended or not seen.exists else "NodeLost"
    word = reason or seen.reason or unheard
    category = _CATEGORY.get(word)
    if category is None and seen.exit_code == ExitCode.USAGE:
        category = "ConfigError"
    details = ", ".join(
        part
        for part in (
            f"{seen.pod or seen.job} is gone" if not seen.exists else "",
            f"{seen.pod or seen.job} should have ended by {seen.stop_by}" if unheard else "",
            word,
            seen.message,
            "" if seen.exit_code is None else _exit(seen.exit_code),
        )
        if part
    )
    return diagnosis(
        category or "Killed", f"attempt {seen.number} ended without a word: {details or 'no reason known'}"
    )


def _exit(code: int) -> str:
    if code == ExitCode.NOT_RECORDED:
        return f"exit code {code} (its end could not be recorded)"
    if code < 0 or code > 128:
        return f"signal {-code if code < 0 else code - 128}"
    return f"exit code {code}"

"""Makes what reconcilers are shown, with only what a row is about spelled out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from kapstan.ports import (
    AttemptEnd,
    AttemptObservation,
    AttemptRecord,
    Key,
    SessionInfo,
    WorkerMember,
    WorkerObservation,
)
from kapstan.reconcile.brief import RunBrief
from kapstan.reconcile.kinds.deployment.history import Ended
from kapstan.reconcile.kinds.deployment.observed import DeploymentObserved
from kapstan.reconcile.kinds.flow_run.observed import Record, RunObserved
from kapstan.reconcile.kinds.task_worker.observed import WorkersObserved
from kapstan.reconcile.kinds.work_pool.observed import PoolObserved
from kapstan.reconcile.naming import job_name
from kapstan.reconcile.plan import Plan, SetStatus
from kapstan.resources import API_VERSION, Deployment, FlowRun, TaskWorker, WorkPool

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
A = TypeVar("A")


def at(seconds: float) -> datetime:
    """Seconds from now."""
    return NOW + timedelta(seconds=seconds)


def text(seconds: float) -> str:
    return at(seconds).isoformat().replace("+00:00", "Z")


def _manifest(kind: str, name: str, spec: dict[str, Any], status: dict[str, Any] | None, **metadata: Any) -> Any:
    return {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": "shop",
            "uid": f"uid-{name}",
            "resourceVersion": "1",
            "generation": 1,
            "creationTimestamp": text(-3600),
            **metadata,
        },
        "spec": spec,
        "status": status or {},
    }


def pool(status: dict[str, Any] | None = None, **spec: Any) -> WorkPool:
    return WorkPool.from_dict(_manifest("WorkPool", "pool", spec, status))


def deployment(
    status: dict[str, Any] | None = None, *, metadata: dict[str, Any] | None = None, **spec: Any
) -> Deployment:
    wanted = {"flow": {"entrypoint": "flow.py:main", "image": "shop:1"}, "workPoolRef": {"name": "pool"}, **spec}
    return Deployment.from_dict(_manifest("Deployment", "nightly", wanted, status, **(metadata or {})))


def flow_run(status: dict[str, Any] | None = None, **spec: Any) -> FlowRun:
    return FlowRun.from_dict(_manifest("FlowRun", "run", {"deploymentRef": {"name": "nightly"}, **spec}, status))


def attempt(number: int = 1, **fields: Any) -> dict[str, Any]:
    return {"number": number, "job": job_name("run", number), **fields}


def lost(number: int, seconds: float = -600) -> dict[str, Any]:
    return attempt(number, outcome="Lost", finishedAt=text(seconds))


def seen(number: int = 1, **fields: Any) -> AttemptObservation:
    return AttemptObservation(number, job_name("run", number), **{"exists": True, "created_at": text(-60), **fields})


def gone(number: int = 1) -> AttemptObservation:
    return AttemptObservation(number, job_name("run", number), exists=False, ended=True)


def told(number: int, outcome: Any | None = None, *, retries_left: int = 0, **fields: Any) -> AttemptRecord:
    end = None if outcome is None else AttemptEnd(outcome, at(-5).timestamp(), **fields)
    return AttemptRecord(number, at(-50).timestamp(), end, retries_left)


def run_observed(run: FlowRun, **fields: Any) -> RunObserved:
    given: dict[str, Any] = {"deployment": deployment(), "pool": pool(), "launcher": "job", **fields}
    return RunObserved(run=run, **given)


def journal(*attempts: AttemptRecord) -> Record:
    return Record(attempts, journal=True)


def brief(name: str, phase: str = "", seconds: float = -60, **fields: Any) -> RunBrief:
    given: dict[str, Any] = {
        "deployment": "nightly",
        "schedule": "",
        "created": at(seconds),
        "scheduled": at(seconds),
        "in_flight": False,
        "cancelled": False,
        **fields,
    }
    return RunBrief(key=Key("FlowRun", "shop", name), uid=f"uid-{name}", phase=phase, **given)


def pool_observed(found: WorkPool, runs: list[RunBrief], waiting: str = "", **fields: Any) -> PoolObserved:
    """``waiting``: names of the runs that wait, separated by blanks."""
    deployments: dict[str, Deployment] = fields.pop("deployments", {"nightly": deployment()})
    granted: frozenset[Key] = fields.pop("granted", frozenset())
    lined_up = [run for run in runs if run.key.name in waiting.split() and run.key not in granted]
    holding = [run for run in runs if run.in_flight or run.key in granted]
    return PoolObserved(
        pool=found,
        served=fields.pop("served", True),
        deployments=deployments,
        in_flight={name: sum(run.deployment == name for run in holding) for name in deployments},
        waiting={
            name: sorted((run for run in lined_up if run.deployment == name), key=RunBrief.order)
            for name in deployments
        },
        queued=len(lined_up),
        **fields,
    )


def deployment_observed(found: Deployment, *runs: RunBrief) -> DeploymentObserved:
    unfinished = sorted((run for run in runs if not run.ended), key=RunBrief.order)
    return DeploymentObserved(found, pool(), unfinished, Ended.of(run for run in runs if run.ended))


def task_worker(replicas: int, status: dict[str, Any] | None = None, **spec: Any) -> TaskWorker:
    wanted = {"tasks": ["shop.tasks"], "image": "shop:1", "replicas": replicas, **spec}
    return TaskWorker.from_dict(_manifest("TaskWorker", "mailer", wanted, status or {"observedGeneration": 1}))


def member(name: str, **fields: Any) -> WorkerMember:
    return WorkerMember(**{"name": name, "session_prefix": name, "ready": True, "ending": False, **fields})


def session(name: str, claimed: int = 0, *, draining: bool = False) -> SessionInfo:
    return SessionInfo(f"{name}-boot", "mailer", (("shop.tasks:send", "default"),), 2, claimed, draining, 9.0)


def workers_observed(
    worker: TaskWorker, members: list[WorkerMember], sessions: list[SessionInfo] | None, wanted: int, **fields: Any
) -> WorkersObserved:
    observation = WorkerObservation(wanted, tuple(members), selector="worker=mailer", problem=fields.pop("problem", ""))
    told_sessions = None if sessions is None else tuple(sessions)
    return WorkersObserved(worker, observation, told_sessions, **{"depth": None, **fields})


def actions(plan: Plan, type_: type[A]) -> list[A]:
    return [action for action in plan.actions if isinstance(action, type_)]


def status(plan: Plan) -> dict[str, Any]:
    """The last status that a plan writes."""
    return actions(plan, SetStatus)[-1].status


def condition(written: dict[str, Any], type_: str) -> tuple[str, str]:
    """(status, reason)"""
    found = next(condition for condition in written["conditions"] if condition["type"] == type_)
    return found["status"], found["reason"]

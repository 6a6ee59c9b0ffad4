"""What the FlowRun reconciler is shown: gathered by `observe`, made by hand in tests."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from kapstan.ids import RunId
from kapstan.ports import AttemptObservation, AttemptRecord, Key
from kapstan.reconcile.naming import run_id_of, run_id_of_key
from kapstan.resources import Deployment, FlowRun, WorkPool


@dataclass(frozen=True, slots=True)
class Record:
    """What the run's own record says.

    ``journal``: every attempt that began was read from the store; else only what the index knows to have ended.
    ``unreachable``: why it could not be read; nothing may be concluded then.
    ``damaged``: waiting does not help: it was written with another key, by a newer release, or by nobody of ours.
    """

    attempts: tuple[AttemptRecord, ...] = ()
    journal: bool = False
    unreachable: str = ""
    damaged: bool = False

    def of(self, number: int) -> AttemptRecord | None:
        return next((attempt for attempt in self.attempts if attempt.number == number), None)


def run_id_of_run(run: FlowRun) -> RunId:
    """The id of the run that this object asks for."""
    if run.spec.idempotency_key is not None:
        return run_id_of_key(run.metadata.namespace, run.spec.deployment_ref.name, run.spec.idempotency_key)
    created = run.metadata.creation_timestamp or datetime.fromtimestamp(0, UTC)
    return run_id_of(run.metadata.uid or "", created)


@dataclass(frozen=True, slots=True)
class RunObserved:
    """A FlowRun and what its next step depends on."""

    run: FlowRun
    deployment: Deployment | None
    pool: WorkPool | None
    launcher: Literal["job", "process"] | None
    """What starts attempts of the pool in this process; None: nothing does."""
    place: Literal["none", "asked", "granted"] = "none"
    """Whether the pool has given this run a place for its next attempt."""
    attempts: tuple[AttemptObservation, ...] = ()
    record: Record = Record()
    in_doubt: bool = True
    """Whether still nobody knows if an effect happened; where the last attempt ended for that."""
    twin: Key | None = None
    """Another FlowRun with the same idempotency key, which has the run."""

    @property
    def run_id(self) -> RunId:
        return run_id_of_run(self.run)

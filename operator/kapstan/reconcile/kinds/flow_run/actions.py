"""What only a FlowRun does: start, stop and remove its attempts, and tell its record how it was ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from kapstan.errors import AdmissionRefused, ClusterRefused, ForeignObject, InvalidResource, QuotaUsedUp
from kapstan.ids import executor_of
from kapstan.ports import JobRequest, Key
from kapstan.reconcile.plan import Acting, Refused
from kapstan.resources.flowrun import DiagnosisCategory


class LaunchRefused(Refused):
    """The launcher can never start this attempt as it is."""

    again = False


class NameTaken(Refused):
    """An object of somebody else has the attempt's name: this attempt never starts, the next one has another name."""

    again = False


class LaunchDelayed(Refused):
    """The launcher may not start this attempt now; ``category`` says for what it waits."""

    def __init__(self, message: str, category: DiagnosisCategory) -> None:
        self.category: DiagnosisCategory = category
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class StartAttempt:
    """Launch an attempt that stands in the run's status already."""

    pool_type: str
    request: JobRequest

    async def perform(self, acting: Acting) -> None:
        try:
            await acting.world.launcher(self.pool_type).start(self.request)
        except ForeignObject as error:
            raise NameTaken(str(error)) from error
        except (InvalidResource, AdmissionRefused) as error:
            raise LaunchRefused(str(error)) from error
        except QuotaUsedUp as error:
            raise LaunchDelayed(str(error), "QuotaExceeded") from error
        except ClusterRefused as error:
            raise LaunchDelayed(str(error), "ConfigError") from error


@dataclass(frozen=True, slots=True)
class StopAttempt:
    """SIGTERM, and SIGKILL after ``grace`` seconds."""

    pool_type: str
    run: Key
    uid: str
    job: str
    grace: float

    async def perform(self, acting: Acting) -> None:
        await acting.world.launcher(self.pool_type).stop(self.run, self.uid, self.job, grace=self.grace)


@dataclass(frozen=True, slots=True)
class RemoveAttempt:
    """Delete what is left of a finished attempt."""

    pool_type: str
    run: Key
    uid: str
    job: str

    async def perform(self, acting: Acting) -> None:
        await acting.world.launcher(self.pool_type).remove(self.run, self.uid, self.job)


@dataclass(frozen=True, slots=True)
class NoteEnd:
    """The container of an attempt was seen to have terminated: whoever waits to know whether it may still do what it
    had begun, an effect that must not happen twice, is told."""

    namespace: str
    run_id: str
    attempt: int
    evidence: tuple[tuple[str, Any], ...]

    async def perform(self, acting: Acting) -> None:
        queue = await acting.world.call(acting.world.queues, self.namespace)
        await acting.world.call(queue.note_end, executor_of(self.run_id, self.attempt), dict(self.evidence))


@dataclass(frozen=True, slots=True)
class DeclareEnd:
    """Tell the run's record of an end that its own process could not write."""

    namespace: str
    run_id: str
    state: Literal["Crashed", "Cancelled"]
    message: str

    async def perform(self, acting: Acting) -> None:
        records = acting.world.records(self.namespace)
        await acting.world.call(records.declare, self.run_id, self.state, self.message)

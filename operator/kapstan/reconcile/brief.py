"""A FlowRun in brief: what its pool and its Deployment need to know of it, read without a model.

Kept by the cache for every run that has not ended, so it must be small and cheap to make.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from kapstan.ids import RunId
from kapstan.ports import Key, Manifest
from kapstan.reconcile.naming import run_id_of, run_id_of_key
from kapstan.resources.labels import SCHEDULE_LABEL
from kapstan.states import TERMINAL_PHASES


@dataclass(frozen=True, slots=True)
class RunBrief:
    """A FlowRun as its pool and its Deployment look at it; cheap to make from a manifest, thousands are kept."""

    key: Key
    uid: str
    deployment: str
    schedule: str
    phase: str
    created: datetime
    scheduled: datetime
    """When it is due; the creation where nothing else was asked."""
    in_flight: bool
    """An attempt is recorded that has not ended."""
    cancelled: bool
    """Its cancellation was asked for."""
    attempts: tuple[tuple[int, str], ...] = ()
    idempotency_key: str = ""
    resuming: bool = False
    """A person asked to go on with it after it had failed or crashed."""
    ended_at: datetime | None = None
    """When it ended, as far as its status tells; None: it has not."""

    @property
    def run_id(self) -> RunId:
        if self.idempotency_key:
            return run_id_of_key(self.key.namespace, self.deployment, self.idempotency_key)
        return run_id_of(self.uid, self.created)

    @property
    def parent(self) -> Key:
        """The Deployment that it is a run of."""
        return Key("Deployment", self.key.namespace, self.deployment)

    @property
    def ended(self) -> bool:
        return self.phase in TERMINAL_PHASES and not self.resuming

    def order(self) -> tuple[datetime, datetime, str]:
        """By which runs are sorted: when they are due, then when they were made."""
        return self.scheduled, self.created, self.key.name

    @classmethod
    def of(cls, manifest: Manifest) -> RunBrief:
        """Read what is needed of a FlowRun, without a model."""
        metadata, spec = cast("Manifest", manifest["metadata"]), cast("Manifest", manifest["spec"])
        status = cast("Manifest", manifest.get("status") or {})
        created = _time(metadata.get("creationTimestamp")) or datetime.fromtimestamp(0, UTC)
        attempts = cast("list[Manifest]", status.get("attempts") or [])
        phase = str(status.get("phase") or "")
        in_flight = phase not in TERMINAL_PHASES and bool(attempts) and not attempts[-1].get("finishedAt")
        labels = cast("Mapping[str, str]", metadata.get("labels") or {})
        return cls(
            key=Key("FlowRun", str(metadata.get("namespace") or "default"), str(metadata["name"])),
            uid=str(metadata.get("uid") or ""),
            deployment=str(cast("Manifest", spec.get("deploymentRef") or {}).get("name") or ""),
            schedule=labels.get(SCHEDULE_LABEL, ""),
            phase=phase,
            created=created,
            scheduled=_time(spec.get("scheduledTime")) or created,
            in_flight=in_flight,
            cancelled=bool(spec.get("cancel")),
            attempts=tuple((int(a["number"]), str(a["job"])) for a in attempts),
            idempotency_key=str(spec.get("idempotencyKey") or ""),
            resuming=is_resuming(spec, status),
            ended_at=_end(status, created) if phase in TERMINAL_PHASES else None,
        )


def is_resuming(spec: Manifest, status: Manifest) -> bool:
    """Whether a person asked to go on with a run that had failed or crashed."""
    asked, followed = int(spec.get("resume") or 0), int(status.get("resumed") or 0)
    return status.get("phase") in ("Failed", "Crashed") and asked > followed and not spec.get("cancel")


def _end(status: Manifest, created: datetime) -> datetime:
    """The last attempt's end; of a run without one, the moment at which its phase changed last."""
    attempts = cast("list[Manifest]", status.get("attempts") or [])
    conditions = cast("list[Manifest]", status.get("conditions") or [])
    moments = [attempts[-1].get("finishedAt")] if attempts else []
    moments += [found.get("lastTransitionTime") for found in conditions if found.get("type") == "Progressing"]
    return max((moment for moment in map(_time, moments) if moment is not None), default=created)


def _time(value: Any) -> datetime | None:
    return datetime.fromisoformat(value) if isinstance(value, str) else None

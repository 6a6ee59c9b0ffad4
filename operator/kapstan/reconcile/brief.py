"""A FlowRun in brief: what its pool and its Deployment need to know of it, read without a model.

Kept by the cache for every run that has not ended, so it must be small and cheap to make.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast

from kapstan.ids import RunId
from kapstan.ports import Key, Manifest
from kapstan.reconcile.manifests import moment, number, objects, text, within
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
    deleting: bool = False
    """It is marked for deletion: it holds no place, and is only there until its finalizers have gone."""
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
        metadata, spec, status = manifest["metadata"], within(manifest, "spec"), within(manifest, "status")
        created = moment(metadata.get("creationTimestamp")) or datetime.fromtimestamp(0, UTC)
        attempts = objects(status.get("attempts"))
        phase = text(status.get("phase"))
        deleting = "deletionTimestamp" in metadata
        open_ = bool(attempts) and not attempts[-1].get("finishedAt")
        labels = cast("Mapping[str, str]", metadata.get("labels") or {})
        return cls(
            key=Key("FlowRun", str(metadata.get("namespace") or "default"), str(metadata["name"])),
            uid=str(metadata.get("uid") or ""),
            deployment=text(within(spec, "deploymentRef").get("name")),
            schedule=labels.get(SCHEDULE_LABEL, ""),
            phase=phase,
            created=created,
            scheduled=moment(spec.get("scheduledTime")) or created,
            in_flight=phase not in TERMINAL_PHASES and open_ and not deleting,
            cancelled=spec.get("cancel") is True,
            attempts=tuple((number(a.get("number")), text(a.get("job"))) for a in attempts if text(a.get("job"))),
            idempotency_key=text(spec.get("idempotencyKey")),
            resuming=is_resuming(spec, status),
            deleting=deleting,
            ended_at=_end(status, created) if phase in TERMINAL_PHASES else None,
        )


def is_resuming(spec: Manifest, status: Manifest) -> bool:
    """Whether a person asked to go on with a run that had failed or crashed."""
    asked, followed = number(spec.get("resume")), number(status.get("resumed"))
    return text(status.get("phase")) in ("Failed", "Crashed") and asked > followed and spec.get("cancel") is not True


def _end(status: Manifest, created: datetime) -> datetime:
    """The last attempt's end; of a run without one, the moment at which its phase changed last."""
    attempts, conditions = objects(status.get("attempts")), objects(status.get("conditions"))
    moments = [attempts[-1].get("finishedAt")] if attempts else []
    moments += [found.get("lastTransitionTime") for found in conditions if found.get("type") == "Progressing"]
    return max((found for found in map(moment, moments) if found is not None), default=created)

"""Flow runs that the operator has: the same operations on their FlowRun objects, through the ``Cluster`` port.

The operator does what is asked and writes the run's record; here the wish is written into the object's spec.
"""

from __future__ import annotations

import asyncio
import re
import time
from datetime import datetime
from typing import Any, cast

from kapstan import ids
from kapstan.errors import InvalidResource, NotPossible, ResourceConflict
from kapstan.ports import Cluster, Key, Manifest
from kapstan.runs.flow_view import FlowRunView
from kapstan.states import PHASE_OF_TYPE, TERMINAL_PHASES

_POLL_SECONDS = 0.2
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_TYPES = {phase: type_.value for type_, phase in PHASE_OF_TYPE.items()}


async def find(cluster: Cluster, namespace: str, text: str) -> Manifest | None:
    """The FlowRun object of this name, or whose run has this id or name; None if there is none."""
    named = await cluster.get(Key("FlowRun", namespace, text)) if _may_be_name(text) else None
    if named is not None:
        return named
    try:
        wanted = str(ids.to_uuid(ids.parse(text)))
    except ValueError:
        wanted = text
    for manifest in await cluster.list("FlowRun", namespace):
        status = _status(manifest)
        if wanted and wanted in (_uuid(status), status.get("name")):
            return manifest
    return None


async def cancel(cluster: Cluster, manifest: Manifest, wait: float) -> str:
    """Ask the operator to stop the run; its phase after at most ``wait`` seconds.

    Raises:
        NotPossible: it has ended.
        NotFound, ResourceConflict: the object went, or another one has its name.
    """
    if _phase(manifest) in TERMINAL_PHASES:
        raise NotPossible(f"FlowRun {_name(manifest)} has ended: {_phase(manifest)}")
    await _change(cluster, manifest, {"cancel": True})
    deadline = time.monotonic() + wait
    while True:
        now = await cluster.get(_key(manifest))
        phase = "Cancelled" if now is None else _phase(now)
        if phase in TERMINAL_PHASES:
            return phase
        if time.monotonic() >= deadline:
            return "Cancelling"
        await asyncio.sleep(_POLL_SECONDS)


async def resume(cluster: Cluster, manifest: Manifest) -> None:
    """Ask the operator to go on with a run that Failed, Crashed, is parked or was suspended by hand.

    Raises:
        NotPossible: it completed, was cancelled, or has not ended.
    """
    phase, spec = _phase(manifest), cast("dict[str, Any]", manifest["spec"])
    if phase == "Cancelled" or spec.get("cancel"):
        raise NotPossible(
            f"FlowRun {_name(manifest)} was cancelled, which cannot be taken back: create another FlowRun"
        )
    if phase == "Completed":
        raise NotPossible(f"FlowRun {_name(manifest)} is Completed already")
    if spec.get("suspend") and phase not in ("Failed", "Crashed"):
        await _change(cluster, manifest, {"suspend": False})
    elif phase in ("Failed", "Crashed", "Suspended"):
        await _change(cluster, manifest, {"resume": int(spec.get("resume") or 0) + 1})
    else:
        raise NotPossible(f"FlowRun {_name(manifest)} is {phase}: it has not ended, so there is nothing to go on with")


async def delete(cluster: Cluster, manifest: Manifest) -> None:
    """Take the object of a run that has ended away; the operator removes what is left of its Jobs.

    Raises:
        NotPossible: it has not ended.
    """
    if _phase(manifest) not in TERMINAL_PHASES:
        raise NotPossible(f"FlowRun {_name(manifest)} is {_phase(manifest)}: cancel it before you delete it")
    await cluster.delete(_key(manifest))


async def views(cluster: Cluster, namespace: str) -> list[FlowRunView]:
    """Every FlowRun object as a run, newest first; also those that have not begun and so have no record."""
    found = [view_of(manifest) for manifest in await cluster.list("FlowRun", namespace)]
    return sorted(found, key=lambda run: run.created or 0.0, reverse=True)


def view_of(manifest: Manifest) -> FlowRunView:
    status = _status(manifest)
    attempts = cast("list[dict[str, Any]]", status.get("attempts") or [])
    last = attempts[-1] if attempts else {}
    started, ended = _moment(last.get("startedAt")), _moment(last.get("finishedAt"))
    phase = _phase(manifest)
    return FlowRunView(
        id=_uuid(status),
        name=str(status.get("name") or _name(manifest)),
        flow="",
        type=_TYPES.get(phase, "SCHEDULED"),
        state=phase,
        attempt=int(last.get("number") or 0),
        deployment=str(manifest["spec"]["deploymentRef"]["name"]),
        parent="",
        tags=(),
        created=_moment(manifest["metadata"].get("creationTimestamp")),
        started=started,
        ended=ended if phase in TERMINAL_PHASES else None,
        took=None if started is None or ended is None else max(0.0, ended - started),
        where=str(last.get("pod") or last.get("job") or ""),
        why=str(status.get("message") or "the operator has not looked at it yet"),
    )


async def _change(cluster: Cluster, manifest: Manifest, spec: dict[str, Any]) -> None:
    """Lay ``spec`` over the object's; refused where another object has its name by now."""
    metadata = {name: manifest["metadata"][name] for name in ("name", "namespace", "uid")}
    kept = {name: manifest[name] for name in ("apiVersion", "kind")}
    try:
        await cluster.apply({**kept, "metadata": metadata, "spec": {**manifest["spec"], **spec}})
    except InvalidResource:
        now = await cluster.get(_key(manifest))
        if now is None or now["metadata"]["uid"] != metadata["uid"]:  # how an API server says it
            raise ResourceConflict(f"FlowRun {_name(manifest)} is another object by now") from None
        raise


def _may_be_name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None


def _key(manifest: Manifest) -> Key:
    return Key("FlowRun", manifest["metadata"]["namespace"], _name(manifest))


def _name(manifest: Manifest) -> str:
    return str(manifest["metadata"]["name"])


def _status(manifest: Manifest) -> dict[str, Any]:
    return cast("dict[str, Any]", manifest.get("status") or {})


def _phase(manifest: Manifest) -> str:
    return str(_status(manifest).get("phase") or "Scheduled")


def _uuid(status: dict[str, Any]) -> str:
    text = str(status.get("runId") or "")
    try:
        return str(ids.to_uuid(ids.parse(text)))
    except ValueError:
        return text


def _moment(text: Any) -> float | None:
    return datetime.fromisoformat(str(text)).timestamp() if text else None

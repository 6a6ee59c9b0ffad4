"""Background (task) runs: find, list, inspect, cancel, retry, delete. Shows what records say and unpickles nothing."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

from kapstan import ids
from kapstan.backend import Backend
from kapstan.codec import describe
from kapstan.errors import (
    BackendError,
    KapstanError,
    MissingResult,
    NotFound,
    NotPossible,
    RunFailed,
    SerializationError,
    SignatureError,
    StoreUnsafe,
)
from kapstan.ids import RunId
from kapstan.ports import BackgroundFilter, Change, ListedRun, RunRecord
from kapstan.runs import ends, persisted, reruns, submissions
from kapstan.runs.results import ShownResult, shown
from kapstan.runs.stored import UNREADABLE, arguments_key, is_failure, readable
from kapstan.runs.words import ENDED, NAMES
from kapstan.states import EffectClass

_PREFIX = re.compile(r"[0-9a-fA-F]{4,8}(-[0-9a-fA-F-]{0,27})?")


@dataclass(frozen=True, slots=True)
class TaskRunView:
    """What people see of one run. Times are Unix seconds, ``took`` is seconds; None where it is not so far.

    Attributes:
        why: one sentence: what it waits for, where it runs, or how it failed.
        worker: session of the worker that runs it, or that ended it.
    """

    id: str
    task: str
    state: str
    attempt: int
    crashes: int
    queue: str
    submitted: float | None
    started: float | None
    ended: float | None
    took: float | None
    worker: str
    why: str


@dataclass(frozen=True, slots=True)
class TaskRunPage:
    """``cursor`` asks for the next page, None: there is none. ``searched_until``: older runs were not looked at."""

    runs: list[TaskRunView]
    cursor: str | None
    searched_until: float | None


class TaskRuns:
    """Operations on the background runs of one backend.

    Raises (every method):
        QueueUnavailable: Redis does not answer.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    # ------------------------------------------------------------------ queries

    def find(self, text: str) -> RunId:
        """The run that an id (36 or 22 characters) or the unique beginning of one (4 or more) names.

        Raises:
            NotFound: none.
            NotPossible: several begin so.
        """
        try:
            return ids.parse(text)
        except ValueError:
            pass
        found = self._backend.background_runs.beginning_with(text, 6) if _PREFIX.fullmatch(text) else []
        if not found:
            raise NotFound(f"no task run has the id {text!r}, or one that begins so; `kapstan task-run ls` lists them")
        if len(found) > 1:
            known = ", ".join(str(ids.to_uuid(run_id)) for run_id in found[:5])
            raise NotPossible(f"{text!r} is the beginning of several ids: {known}{', ...' if len(found) > 5 else ''}")
        return found[0]

    def page(self, chosen: BackgroundFilter, limit: int, cursor: str = "") -> TaskRunPage:
        """Newest first; see ``ports.BackgroundRuns.page``."""
        page = self._backend.background_runs.page(chosen, limit, cursor)
        failed = [listed.record.run_id for listed in page.runs if listed.record.state in ("failed", "crashed")]
        reasons = {
            record.run_id: _reason(self._backend, record)
            for record in (self._backend.queue.records(failed) if failed else ())
            if record is not None
        }
        now = time.time()
        views = [_view(listed, reasons.get(listed.record.run_id, ""), now) for listed in page.runs]
        return TaskRunPage(views, page.cursor, page.searched_until)

    def view(self, run_id: RunId) -> tuple[TaskRunView, dict[str, Any]]:
        """One run, and its arguments, its result or its error where they are JSON; else what they are.

        Raises:
            NotFound: the queue does not know it.
        """
        listed = self._backend.background_runs.look(run_id)
        if listed is None:
            raise _unknown(run_id)
        record = listed.record
        return _view(listed, _reason(self._backend, record), time.time()), _value(self._backend, record)

    def result(self, run_id: RunId) -> ShownResult:
        """What a background run returned.

        Raises:
            NotFound: the queue does not know it (any more), and its result was not persisted.
            RunFailed: it ended otherwise, or not yet; the message says how.
            Unreadable, StoreUnavailable: as ``results.shown``.
        """
        record = self._backend.queue.record(run_id)
        if record is None:
            envelope = persisted.envelope_of(self._backend, run_id)
            if envelope is None:
                raise _unknown(run_id)
            return shown(self._backend, envelope, run_id)
        if record.state != "completed":
            reason = _reason(self._backend, record)
            how = f"is {NAMES[record.state]}{f': {reason}' if reason else ''}"
            raise RunFailed(f"task run {ids.to_uuid(run_id)} {how}")
        if not record.envelope:
            raise MissingResult(f"task run {ids.to_uuid(run_id)} completed, and its result was not to be kept")
        return shown(self._backend, record.envelope, run_id)

    # ------------------------------------------------------------------ operations

    def cancel(self, run_id: RunId, wait: float = 0.0) -> str:
        """Stop a run: one that waits ends at once; of one that runs the worker is asked to stop it. One that waits and
        may have had its effect (class at_most_once) is ended by the next worker, as the register of its key says.

        Args:
            wait: seconds to wait for the end of one that does not end at once.

        Returns:
            The name of its state now: ``Cancelled``; ``Parked`` where its effect is in doubt; ``Running`` or
                ``Scheduled`` where it has not ended yet.

        Raises:
            NotFound: the queue does not know it.
            NotPossible: it has ended, before the cancel or (its state tells) in spite of it; or it is parked.
            StoreUnavailable: it is of durability ``store``, and the store is away; nothing was changed.
        """
        record = self._backend.queue.record(run_id)
        if record is not None and record.stored and record.state not in {*ENDED, "parked"}:
            with suppress(SerializationError):  # what nobody can read no rebuild submits
                submissions.note_cancel(self._backend, run_id)
        before = self._backend.queue.cancel(run_id)
        if before is None:
            raise _unknown(run_id)
        if before in ENDED:
            raise NotPossible(f"task run {ids.to_uuid(run_id)} has ended before: {NAMES[before]}")
        if before == "parked":
            raise NotPossible(f"task run {ids.to_uuid(run_id)} is parked: decide on it with `kapstan task-run resolve`")
        if before == "running" and wait > 0:
            self._backend.queue.wait([run_id], wait)
        record = self._backend.queue.record(run_id)
        if record is not None and record.stored and record.state in ENDED:
            # No worker has noted it, where none had begun it; its submission tells, too.
            with suppress(BackendError, SerializationError):
                ends.settled(self._backend, record)
        after = "Cancelled" if record is None else NAMES[record.state]
        if record is not None and record.state in ENDED and after != "Cancelled":
            raise NotPossible(f"task run {ids.to_uuid(run_id)} ended before it heard of the cancel: {after}")
        return after

    def retry(self, run_id: RunId) -> None:
        """Have a run that failed, crashed or was cancelled run once more, under its id and with its arguments.

        Raises:
            NotFound: the queue does not know it.
            NotPossible: it waits, runs or completed; its arguments were not kept; its record or what the store has of
                it cannot be read.
            StoreUnavailable: it has an effect or is of durability ``store``, and the store is away.
        """
        record = self._backend.queue.record(run_id)
        if record is not None and record.state in ENDED and record.effect is not EffectClass.PURE:
            reruns.note(self._backend, run_id, str(record.token))
        name = str(ids.to_uuid(run_id))
        if record is not None and record.stored and record.state in {*ENDED} - {"completed"}:
            self._note_rerun(record)
        change, state = self._backend.background_runs.rerun(run_id)
        if change is Change.UNKNOWN or state is None:
            raise _unknown(run_id)
        if change is Change.GONE:
            unreadable = record is None or (state == "crashed" and not record.envelope)
            reason = UNREADABLE if unreadable else "its arguments are not kept any more"
            raise NotPossible(f"task run {name} cannot run again, submit it anew: {reason}")
        if change is Change.REFUSED:
            hint = "to do it once more, submit it anew" if state == "completed" else "it needs no retry"
            raise NotPossible(f"task run {name} is {NAMES[state]}: {hint}")

    def _note_rerun(self, record: RunRecord) -> None:
        name = str(ids.to_uuid(record.run_id))
        try:
            noted = submissions.note_rerun(self._backend, record.run_id, str(record.token))
        except (SerializationError, StoreUnsafe) as error:
            raise NotPossible(f"task run {name} cannot run again, submit it anew: {error}") from None
        if not noted:
            raise NotPossible(f"the submission of task run {name} is not in the store any more; submit it anew")

    def delete(self, run_id: RunId) -> None:
        """Forget a run that has ended: its record, and what stands in the store for it. Of one that the queue does not
        know also what nobody can read.

        Raises:
            NotFound: the queue does not know it.
            NotPossible: it has not ended.
            StoreUnavailable: its record is gone, its values in the store are not; delete it again.
        """
        record = self._backend.queue.record(run_id)
        change, state = self._backend.background_runs.delete(run_id)
        if change is Change.REFUSED and state is not None:
            raise NotPossible(f"task run {ids.to_uuid(run_id)} is {NAMES[state]}: cancel it before you delete it")
        left = list(self._backend.store.keys(f"values/{run_id}/"))
        if ends.may_be_forgotten(self._backend, run_id) if record is None else record.stored:
            left += [submissions.FOLDER + run_id, ends.FOLDER + run_id]
        if left:
            self._backend.store.delete(left)
        elif change is Change.UNKNOWN:
            raise _unknown(run_id)


def _unknown(run_id: RunId) -> NotFound:
    return NotFound(
        f"the queue does not know task run {ids.to_uuid(run_id)}: it was not submitted here, or its record has expired"
    )


def _view(listed: ListedRun, reason: str, now: float) -> TaskRunView:
    record = listed.record
    ended = record.since or None if record.state in ENDED else None
    took = None if record.started is None else max(0.0, (ended or now) - record.started)
    retried = record.state == "delayed" and record.attempt > 1
    return TaskRunView(
        id=str(ids.to_uuid(record.run_id)),
        task=record.task,
        state="AwaitingRetry" if retried else "Expired" if record.expired else NAMES[record.state],
        attempt=record.attempt,
        crashes=record.crashes,
        queue=record.queue,
        submitted=listed.submitted,
        started=record.started,
        ended=ended,
        took=took,
        worker=listed.session,
        why=reason or _why(listed, now),
    )


def _why(listed: ListedRun, now: float) -> str:
    record = listed.record
    match record.state:
        case "ready" if listed.paused == "queue":
            return f"queue {record.queue} is paused: `kapstan task resume --queue {record.queue}`"
        case "ready" if listed.paused:
            where = "" if record.queue == "default" else f" --queue {record.queue}"
            return f"{record.task} is paused: `kapstan task resume {record.task}{where}`"
        case "ready" if not listed.served:
            return f"no worker serves {record.task}" + (
                "" if record.queue == "default" else f" in queue {record.queue}"
            )
        case "ready" if listed.limit:
            return f"waits for a limit: {listed.limit}"
        case "ready":
            return "waits for a free worker"
        case "delayed":
            if listed.due is None:
                return _awaits(listed.after)
            return "due" if listed.due <= now else f"due in {listed.due - now:.0f} s"
        case "running":
            return (
                f"on {listed.session}" if listed.session else "its worker is gone; it starts again when the lease ends"
            )
        case "cancelled" if record.expired:
            return "it was not begun within the time that expires= gave it"
        case "parked":
            return "its effect may or may not have happened: kapstan task-run resolve"
        case _:
            return ""


def _awaits(run_ids: Sequence[RunId]) -> str:
    if not run_ids:
        return "waits for other runs to complete"
    named = ", ".join(str(ids.to_uuid(run_id)) for run_id in run_ids[:3])
    more = f" and {len(run_ids) - 3} more" if len(run_ids) > 3 else ""
    return f"waits for run{'s' if len(run_ids) > 1 else ''} {named}{more} to complete"


def _reason(backend: Backend, record: RunRecord) -> str:
    """Why a failed or crashed run failed, in one line."""
    if record.state not in ("failed", "crashed"):
        return ""
    value = _value(backend, record)
    if record.state == "crashed" and not record.envelope:
        return UNREADABLE
    if "message" not in value:
        return str(value.get("result", ""))
    text = f"{value['error']}: {value['message']}" if value.get("error") else str(value["message"])
    return text.split("\n", 1)[0]


def _value(backend: Backend, record: RunRecord) -> dict[str, Any]:
    """Arguments before the end, result or failure after it; what is not JSON is described."""
    ended = record.state in ENDED
    name = "result" if ended else "arguments"
    if not record.envelope:
        return {}
    key = record.run_id if ended else arguments_key(record.run_id, record.task)
    try:
        value = readable(backend, record.envelope, name, key)
    except SignatureError as error:
        return {name: f"cannot be read: {error}"}
    except SerializationError:
        return {name: describe(record.envelope)}
    except KapstanError as error:
        return {name: f"cannot be read: {error}"}
    if record.state == "completed" and is_failure(value):
        return {name: "cannot be read: the run failed, its record was changed"}
    if record.state in ("failed", "crashed") and isinstance(value, dict):
        found = cast("dict[str, Any]", value)
        return {"error": found.get("type"), "message": found.get("message"), "traceback": found.get("traceback")}
    return {name: value}

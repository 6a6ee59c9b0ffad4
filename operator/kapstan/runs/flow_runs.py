"""Flow runs: find, list, inspect, cancel, resume, retry, delete. Loads no user code: a resume answers what to start."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from kapstan import ids
from kapstan.backend import Backend
from kapstan.errors import ConfigurationError, NotFound, NotPossible, SerializationError, StoreUnsafe
from kapstan.ids import RunId
from kapstan.journal import Changed, History, bury
from kapstan.ports import CANCEL_SIGNAL, LeaseHolder
from kapstan.runs.ending import end_run
from kapstan.runs.flow_view import FlowRunFilter, FlowRunView, fits, is_lost, lives_here, view
from kapstan.runs.records import Records
from kapstan.states import AttemptOutcome

SCANNED = 2_000
"""Summaries that one page reads at most."""
_POLL_SECONDS = 0.05
_SOUGHT = 10_000  # summaries that a name is looked for in


@dataclass(frozen=True, slots=True)
class FlowRunPage:
    """``cursor`` asks for the next page, None: there is none. ``searched_until``: older runs were not looked at."""

    runs: list[FlowRunView]
    cursor: str | None = None
    searched_until: float | None = None


@dataclass(frozen=True, slots=True)
class Start:
    """What to start so that a run goes on.

    Attributes:
        attempt: its number.
        again: outcomes that failed are dropped first, since the run had ended.
    """

    run_id: RunId
    attempt: int
    again: bool


class FlowRuns:
    """Operations on the flow runs of one backend.

    Raises (every method):
        QueueUnavailable: the index is in Redis, and that does not answer.
        StoreUnavailable: the journals cannot be reached.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._index = backend.flow_runs
        self._records = Records(backend)

    # ------------------------------------------------------------------ queries

    def find(self, text: str) -> RunId:
        """The run that an id, the unique beginning of one (4 characters or more) or a name means.

        Raises:
            NotFound: none.
            NotPossible: several.
        """
        try:
            run_id = ids.parse(text)
        except ValueError:
            return self._named(text)
        if not self.knows(text):
            raise NotFound(f"there is no flow run {text}")
        return run_id

    def knows(self, uuid: str, *, unreadable: bool = True) -> bool:
        """Whether the index or a journal tells of this run; ``unreadable``: where that cannot be read."""
        try:
            run_id = ids.parse(uuid)
            return self._index.load(run_id) is not None or bool(self.history(run_id).attempts)
        except ValueError:
            return False
        except (SerializationError, StoreUnsafe):
            return unreadable

    def _named(self, text: str) -> RunId:
        found: dict[RunId, str] = {}
        before = None
        sought = 0
        while sought < _SOUGHT and (page := self._index.newest(500, before)):
            before, sought = page[-1][:2], sought + len(page)
            for _, run_id, summary in page:
                uuid = str(ids.to_uuid(run_id))
                if (summary or {}).get("name") == text or (len(text) >= 4 and uuid.startswith(text.lower())):
                    found[run_id] = uuid
        if len(found) > 1:
            known = ", ".join(list(found.values())[:5])
            raise NotPossible(f"several flow runs are called {text!r}, or begin so: {known}; give an id")
        if not found:
            raise NotFound(f"no flow run has the id or the name {text!r}; `kapstan flow-run ls` lists them")
        return next(iter(found))

    def page(self, chosen: FlowRunFilter, limit: int, cursor: str = "") -> FlowRunPage:
        """Up to ``limit`` runs, newest first; reads at most ``SCANNED`` summaries.

        Raises:
            ConfigurationError: a cursor that no page gave.
        """
        if limit < 1:
            raise ConfigurationError(f"limit={limit}: give at least 1")
        before = _place(cursor) if cursor else None
        if chosen.until is not None:
            end = (round(chosen.until * 1000), "")
            before = end if before is None else min(before, end)
        found: list[FlowRunView] = []
        read = 0
        while read < SCANNED:
            page = self._index.newest(min(limit, 200, SCANNED - read), before)
            if not page:
                return FlowRunPage(found)
            holders = self._holders([(run.run_id, run.summary or {}) for run in page])
            for run, holder in zip(page, holders, strict=True):
                read += 1
                before = run[:2]
                if chosen.since is not None and run.at < chosen.since * 1000:
                    return FlowRunPage(found)
                shown = view(run.run_id, run.at / 1000, run.summary, holder)
                if fits(chosen, shown):
                    found.append(shown)
                if len(found) == limit:
                    return FlowRunPage(found, _cursor(before))
        assert before is not None
        return FlowRunPage(found, _cursor(before), before[0] / 1000)

    def view(self, run_id: RunId) -> FlowRunView:
        """One run, from the index and, where that knows it not, from its journal."""
        summary = self._index.load(run_id) or self._from_journal(run_id)
        (holder,) = self._holders([(run_id, summary)])
        return view(run_id, None, summary, holder)

    def history(self, run_id: RunId) -> History:
        """Its whole journal."""
        return self._records.history(run_id)

    def _from_journal(self, run_id: RunId) -> dict[str, object]:
        history = self.history(run_id)
        last, end = history.last, history.end
        if last is None:
            return {"state": "", "state_name": "Unknown", "message": "neither index nor journal knows it"}
        begun: dict[str, object] = {"attempt": last.number, "started": last.started, "host": last.host}
        if end is None:
            return {**begun, "state": "RUNNING", "state_name": "Running"}
        if end.end.ends_run:
            state, name = end.end.value.upper(), end.end.value
        elif end.end is AttemptOutcome.SUSPENDED:
            state, name = "PAUSED", "Suspended"
        else:
            state, name = "SCHEDULED", "AwaitingRetry"
        return {**begun, "state": state, "state_name": name, "ended": end.at, "message": end.message}

    def _holders(self, runs: list[tuple[RunId, dict[str, object]]]) -> list[LeaseHolder | None]:
        """Who holds the lease of each run that seems to run; of a subflow its caller's."""
        asked = [(str(summary.get("parent") or run_id), summary.get("state")) for run_id, summary in runs]
        open_ = [run_id for run_id, state in asked if state in ("RUNNING", "PENDING")]
        held = dict(zip(open_, self._index.holders(open_), strict=True)) if open_ else {}
        return [held.get(run_id) for run_id, _ in asked]

    # ------------------------------------------------------------------ cancel

    def cancel(self, run_id: RunId, *, wait: float = 30.0, force: bool = False, by: str = "cancel") -> str:
        """Stop a run and record that in its journal and in the index.

        A process that keeps the run's lease is asked and records the end itself; one of this machine without a lease
        gets SIGTERM. Where no process is left, the end is written under an attempt of its own.

        Args:
            wait: seconds to wait for the process.
            force: end it in the journal at once; a process that still runs it ends at its next record.

        Returns:
            The name of its state now: ``Cancelled``, or ``Cancelling`` where its process was asked and has not ended
                it.

        Raises:
            NotPossible: it has ended; it is a subflow; its process is on another machine and keeps no lease.
        """
        name = ids.to_uuid(run_id)
        summary = self._index.load(run_id) or self._from_journal(run_id)
        if summary.get("parent"):
            raise NotPossible(f"run {name} is a subflow: cancel {ids.to_uuid(str(summary['parent']))}, which called it")
        history = self.history(run_id)
        if history.end is not None and history.end.end.ends_run:
            raise NotPossible(f"run {name} has ended: {history.end.end}")
        (holder,) = self._index.holders([run_id])
        if force:
            pass
        elif holder is not None and holder.live:
            self._index.ask_cancel(run_id, holder.attempt)
            _wake(holder)
            if not self._until(wait, lambda: self._is_over(run_id, holder)):
                return "Cancelling"
        elif lives_here(summary):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(str(summary["pid"])), signal.SIGTERM)
            if not self._until(wait, lambda: not lives_here(summary)):
                return "Cancelling"
        elif summary.get("state") == "RUNNING" and history.end is None and not is_lost(summary, holder):
            raise NotPossible(
                f"run {name} is at work on {summary.get('host')}, in a process that keeps no lease: cancel it there, "
                "or --force its end (the process ends at its next record)"
            )
        end = end_run(self._backend, run_id, AttemptOutcome.CANCELLED, f"cancelled by kapstan flow-run {by}")
        self._records.show_end(run_id, end)
        if end.end is not AttemptOutcome.CANCELLED:
            raise NotPossible(f"run {name} has ended: {end.end}, before it heard of the cancel")
        return "Cancelled"

    def _is_over(self, run_id: RunId, holder: LeaseHolder) -> bool:
        (now,) = self._index.holders([run_id])
        return now is None or not now.live or now.attempt != holder.attempt

    def _until(self, seconds: float, over: Callable[[], bool]) -> bool:
        deadline = time.monotonic() + seconds
        while not over():
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_SECONDS)
        return True

    # ------------------------------------------------------------------ resume, retry, delete

    def resume(self, run_id: RunId, *, force: bool = False) -> Start:
        """What to start so that a run that was lost, handed back, suspended or did not complete goes on.

        Args:
            force: also if it seems to run still; that process loses the run.

        Raises:
            NotPossible: it completed, it runs, it is a subflow, or the operator has it.
        """
        name = ids.to_uuid(run_id)
        summary = self._index.load(run_id) or self._from_journal(run_id)
        if summary.get("deployment"):
            raise NotPossible(
                f"run {name} belongs to deployment {summary['deployment']!r}: the operator resumes it; name its FlowRun"
            )
        if summary.get("parent"):
            raise NotPossible(f"run {name} is a subflow: resume {ids.to_uuid(str(summary['parent']))}, which called it")
        history = self.history(run_id)
        if history.buried:
            raise NotPossible(f"run {name} has ended and retention has removed it: start a new run")
        last = history.last
        end = None if last is None else last.end
        if end is not None and end.end is AttemptOutcome.COMPLETED:
            raise NotPossible(f"run {name} is Completed already")
        (holder,) = self._index.holders([run_id])
        if not force and end is None and holder is not None and holder.live:
            raise NotPossible(f"run {name} is at work in process {_process(holder)}; --force takes it over")
        if not force and end is None and lives_here(summary):
            raise NotPossible(f"run {name} is at work in process {summary['pid']} here; --force takes it over")
        return Start(run_id, 1 if last is None else last.number + 1, end is not None and end.end.ends_run)

    def retry(self, run_id: RunId) -> Start:
        """As ``resume``, of a run that failed, crashed or was cancelled: what failed in it is done again, what
        completed is not.

        Raises:
            NotPossible: as ``resume``; or it has not ended.
        """
        shown = self.view(run_id)
        end = self.history(run_id).end
        crashed = shown.type == "CRASHED"
        if not crashed and (end is None or not end.end.ends_run):
            raise NotPossible(f"run {shown.id} is {shown.state}: it has not ended, so there is nothing to retry")
        return self.resume(run_id)

    def delete(self, run_id: RunId, *, force: bool = False) -> None:
        """Forget a run that has ended: summary, journal and values.

        Args:
            force: also one whose journal cannot be read, if no process holds its lease.

        Raises:
            NotPossible: it has not ended (cancel it first), its journal cannot be read, or it is a subflow of a run
                that is still there.
            StoreUnavailable: part of it may be left; delete it again.
        """
        name = ids.to_uuid(run_id)
        summary = self._index.load(run_id) or {}
        parent = summary.get("parent")
        if parent and self._index.load(parent) is not None:
            raise NotPossible(f"run {name} is a subflow of {ids.to_uuid(parent)}: delete that one")
        history = self._history_to_delete(run_id, force=force)
        ended = history is not None and history.end is not None and history.end.end.ends_run
        if history is not None and not ended and history.attempts:
            raise NotPossible(f"run {name} has not ended: cancel it before you delete it")
        if history is not None and ended:  # from here on nobody goes on with it, wherever this is broken off
            try:
                bury(self._backend.store, self._backend.codec, run_id, history, time.time())
            except Changed as error:
                raise NotPossible(str(error)) from None
        for prefix in (f"values/{run_id}/", f"definitions/{run_id}"):
            self._backend.store.delete(list(self._backend.store.keys(prefix)))
        self._index.delete(run_id)
        self._backend.store.log(f"flows/{run_id}").remove()

    def _history_to_delete(self, run_id: RunId, *, force: bool) -> History | None:
        """None: nobody can read it, and it goes all the same."""
        try:
            return self.history(run_id)
        except (SerializationError, StoreUnsafe) as error:
            (holder,) = self._index.holders([run_id])
            held = "" if holder is None else f", and process {_process(holder)} executes it"
            if force and not held:
                return None
            hint = "end that first" if held else "--force deletes it all the same"
            raise NotPossible(
                f"whether run {ids.to_uuid(run_id)} has ended cannot be read{held} ({error}); {hint}"
            ) from None


def _wake(holder: LeaseHolder) -> None:
    host, _, rest = holder.holder.partition(":")
    pid = rest.partition(":")[0]
    if host == os.uname().nodename and pid.isdigit():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(int(pid), CANCEL_SIGNAL)


def _process(holder: LeaseHolder) -> str:
    host, _, rest = holder.holder.partition(":")
    return f"{rest.partition(':')[0]} on {host}"


def _cursor(place: tuple[int, RunId]) -> str:
    return f"f{place[0]}-{place[1]}"


def _place(cursor: str) -> tuple[int, RunId]:
    at, dash, run_id = cursor[1:].partition("-")
    if not cursor.startswith("f") or not dash or not at.isdigit() or len(run_id) != ids.ID_LENGTH:
        raise ConfigurationError(f"cursor={cursor!r}: give the cursor of the page before, with the same filters")
    return int(at), run_id

"""Runs one claimed background run from its claim to its outcome.

Called by the executor children of ``worker`` and by the in-process consumer, one engine per lane; it talks to no queue:
the caller claims, finishes and retries. A small run takes a short path on purpose: decode, call, encode.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from kapstan import states
from kapstan.backend import Backend
from kapstan.codec import JSON, Reference
from kapstan.context import TaskRun, current_task
from kapstan.engine import branch, forks, given_up, values
from kapstan.engine.branch import Branch
from kapstan.engine.chain import walk
from kapstan.engine.control_flow import ends_the_caller
from kapstan.engine.execution import Ledger, TaskExecution
from kapstan.engine.keeping import PLAIN, Keeping, keeping
from kapstan.engine.loops import loops
from kapstan.engine.naming import name_or_none
from kapstan.engine.operations import Wait, drive
from kapstan.engine.persisting import Persisting, request_of
from kapstan.engine.stored_ends import StoredEnds
from kapstan.engine.upstream import awaited
from kapstan.errors import (
    BackendError,
    CancelRun,
    ConfigurationError,
    KapstanError,
    SerializationError,
    ValueTooLarge,
)
from kapstan.ids import RunId, Token
from kapstan.logging import tell_end
from kapstan.ports import Claim, Outcome
from kapstan.runs.stored import UNREADABLE
from kapstan.specs import TaskSpec, prints_are_lines
from kapstan.states import State, StateType

logger = logging.getLogger("kapstan.task_runs")
_FIRST_LOOK, _LONGEST_LOOK = 0.05, 5.0
"""Seconds for which a run that waits for another run goes back to the queue."""


@dataclass(frozen=True, slots=True)
class RetryLater:
    """The run failed and its policy grants a retry, or it waits for another run and was not executed (not ``counted``):
    free the claim and start it again after ``delay`` seconds."""

    run_id: RunId
    token: Token
    delay: float
    counted: bool = True


class BackgroundEngine:
    """Executes claims of the tasks that it was given; used by one thread.

    Args:
        specs: what may run, by identity. Nothing else is ever executed, whatever a claim names.
        backend: codec and store; the queue is not touched.
        of_run: what single runs execute, by run id, where that is not the task of that identity.
    """

    def __init__(
        self, specs: Mapping[str, TaskSpec], backend: Backend, of_run: Mapping[RunId, TaskSpec] | None = None
    ) -> None:
        self._specs = specs
        self._of_run: Mapping[RunId, TaskSpec] = {} if of_run is None else of_run
        self.backend = backend
        self._codec = backend.codec
        self.inline_bytes = backend.settings.inline_bytes
        self._waiting: dict[RunId, int] = {}  # how often a run was not ready, of those that are not
        # The flow runs that submitted them, of large outcomes that are not stored.
        self._owners: dict[RunId, RunId] = {}
        self.to_store: dict[RunId, Callable[[bytes], bytes]] = {}
        """What takes the envelope of a result to where its task wants it, and gives what is left for the queue."""
        self._persisting = Persisting(backend)
        self._ends = StoredEnds(backend)
        self._max_crashes = backend.settings.max_crashes
        self._log_prints = backend.settings.log_prints

    @property
    def executing(self) -> bool:
        """Whether user code runs now, and not the engine's own: for a signal handler of the engine's thread."""
        return branch.current.get() is not None

    def interrupt(self, run_id: RunId) -> None:
        """Stop ``run_id`` if its code runs now; for a signal handler of the engine's thread.

        Raises:
            CancelRun: into the user's code; ``run`` turns it into the outcome ``cancelled``.
        """
        line = branch.current.get()
        if line is not None and line.root == run_id:
            run = current_task.get()
            if run is not None:
                run.cancelled = True
            raise CancelRun

    def run(self, claim: Claim) -> Outcome | RetryLater:
        """Execute ``claim``; whatever the user's code raises becomes an outcome or a retry. An outcome is whole,
        however large: ``stored`` makes of it what goes to the queue. One whose end is noted in the store is not
        executed: that is its outcome. A run of an unknown task, or whose arguments cannot be read, ends as ``crashed``
        or ``failed`` with the reason and is not executed.

        Raises:
            BackendError: the arguments are in the store, and it is away: the run was not executed.
            HandBack, KeyboardInterrupt, SystemExit: the process was told to end: give the run back.
        """
        if claim.stored is None:
            return self._executed(claim)
        found = self._ends.begin(claim) or self._executed(claim)
        if type(found) is not Outcome:
            self._ends.forget()
        return found

    def _executed(self, claim: Claim) -> Outcome | RetryLater:
        spec = self._of_run.get(claim.run_id) or self._specs.get(claim.task)
        if spec is None:
            return self._refuse(claim, "crashed", given_up.unserved(claim.task, self._specs))
        instead = given_up.instead(claim, self._max_crashes) if claim.crashes or claim.cancelled else None
        if not claim.envelope:  # nobody submits without one
            return self._refuse(claim, "crashed", UNREADABLE)
        if instead is not None and not given_up.has_register(claim, spec):
            return self._persisting.ended_before(claim, spec, None) or given_up.outcome(self.backend, claim, instead)
        try:
            key = values.arguments_key(claim.run_id, claim.task)
            arguments = self._codec.decode(claim.envelope, "arguments", key)
            if type(arguments) is Reference:
                arguments = values.open_value(self.backend, claim.envelope, "arguments", key)
            args, kwargs = tuple(arguments[0]), arguments[1]
        except (BackendError, ConfigurationError):
            raise
        except (KapstanError, LookupError, TypeError) as error:
            return self._refuse(claim, "crashed", f"its arguments cannot be read: {error}")
        except BaseException as error:  # unpickling arguments runs user code, too
            if ends_the_caller(error):
                raise
            return self._refuse(claim, "crashed", f"its arguments cannot be read: reading them raised {error!r}")
        request = request_of(claim, spec, args, kwargs) if spec.persist_result else None
        if request is not None and (before := self._persisting.ended_before(claim, spec, request)):
            return before
        run = TaskRun(
            claim.run_id,
            spec.name,
            claim.attempt,
            lambda: spec.bind(args, kwargs),
            "" if spec.task_run_name is None else name_or_none(spec, args, kwargs),
            spec.tags,
            arguments[2].get("flow_run") if len(arguments) > 2 else None,
            prints_are_lines(spec.log_prints, self._log_prints),
        )
        awaits = awaited(self.backend, arguments)
        execution = TaskExecution(spec, args, kwargs, awaits, run, _Claimed(self, claim, instead))
        try:
            ended = self._walked(claim, execution)
            if type(ended) is Outcome:
                self._note_owner(ended, request, run.flow_run_id)
            return ended
        except CancelRun:
            return given_up.cancelled(claim, spec, run, partial(BackgroundEngine.run, self))
        except BackendError:
            raise
        except BaseException as error:
            if ends_the_caller(error):
                raise
            logger.exception("Task run '%s' crashed outside of its task", run.name)
            return self._failure(claim, error, "crashed")

    def _note_owner(self, outcome: Outcome, request: str | None, flow_run_id: RunId | None) -> None:
        """Note what ``stored`` must know of it."""
        if request is not None:
            self._persisting.open[outcome.run_id] = request
        if flow_run_id and len(outcome.envelope) > self.inline_bytes:
            self._owners[outcome.run_id] = flow_run_id

    def _walked(self, claim: Claim, execution: TaskExecution) -> Outcome | RetryLater:
        """The result of the run's chain. A run that waits for others that have not ended goes back to the queue: it
        holds no lane."""
        steps = walk(execution)
        process = forks.process
        try:
            first = next(steps)
            if type(first) is Wait and not all(item.done for item in first.waited_for):
                steps.close()
                tries = self._waiting[claim.run_id] = self._waiting.pop(claim.run_id, 0) + 1
                return RetryLater(claim.run_id, claim.token, min(_FIRST_LOOK * 2 ** (tries - 1), _LONGEST_LOOK), False)
            if self._waiting:
                self._waiting.pop(claim.run_id, None)
            state = drive(steps, first)
        except StopIteration as end:  # nothing had to be asked for
            state = end.value
        forks.check(process)
        ledger = execution.ledger
        assert isinstance(ledger, _Claimed)
        return ledger.ended or self.outcome(claim, execution, state)  # no step had it kept: it never began

    def time_limit(self, task: str) -> float | None:
        """Seconds that a run of ``task`` may take."""
        spec = self._specs.get(task)
        return None if spec is None else spec.timeout_seconds

    def stored(self, outcome: Outcome) -> Outcome:
        """``outcome`` as it goes to the queue: above ``inline_bytes`` its envelope goes to the store first.

        Raises:
            BackendError: the store does not take it; nothing is lost, call again.
        """
        store = self.to_store.get(outcome.run_id)
        if store is not None:
            outcome = outcome._replace(envelope=store(outcome.envelope))
        elif len(outcome.envelope) > self.inline_bytes:
            owner = self._owners.get(outcome.run_id, "")
            envelope = values.to_store(self.backend, outcome.envelope, "result", outcome.run_id, owner)
            outcome = outcome._replace(envelope=envelope)
        outcome = self._persisting.settled(outcome)
        if self._ends.awaited:
            outcome = self._ends.settled(outcome)
        self._owners.pop(outcome.run_id, None)
        self.to_store.pop(outcome.run_id, None)
        return outcome

    @property
    def must_store(self) -> bool:
        """Whether outcomes that it gave go to the store, however small they are."""
        return bool(self.to_store or self._persisting.open or self._ends.awaited)

    def close(self) -> None:
        """Close the event loop that async tasks used."""
        loops.close()

    # ------------------------------------------------------------------ what ``_Claimed`` makes of a state

    def outcome(self, claim: Claim, execution: TaskExecution, state: State) -> Outcome:
        """How the run ended, sealed for the queue."""
        spec, run = execution.spec, execution.run
        if state.type is StateType.COMPLETED:
            return self._completed(claim, execution, state.data if state.has_data else state.result())
        if state is execution.ledger.instead:
            return given_up.outcome(self.backend, claim, state)
        if state.name == "NotReady":
            return self._refuse(claim, "failed", state.message)
        error = state.result(raise_on_failure=False)
        if isinstance(error, TypeError) and not spec.fits(execution.args, execution.kwargs):
            return self._refuse(claim, "failed", f"its arguments do not fit: {error}")
        tell_end(run, state)
        ended = "failed" if state.is_failed() else "cancelled" if state.is_cancelled() else "crashed"
        return self._failure(claim, error, ended)

    def _completed(self, claim: Claim, execution: TaskExecution, result: Any) -> Outcome:
        spec = execution.spec
        if spec.persist_result is False:
            return Outcome(claim.run_id, claim.token, "completed", b"")
        kept = keeping(spec, None, self.backend.settings, execution.storage_key)
        if result is None and kept is PLAIN:  # most results, so it takes no way through serialisers
            envelope = self._codec.seal(JSON, b"null", "result", claim.run_id)
            return Outcome(claim.run_id, claim.token, "completed", envelope)
        try:
            envelope = self._kept(claim, kept, spec, result, execution.run.flow_run_id or "")
        except (SerializationError, ValueTooLarge) as error:
            logger.error("Task run %s of %s: %s", claim.run_id, spec.name, error)
            return self._failure(claim, error)
        return Outcome(claim.run_id, claim.token, "completed", envelope)

    def _kept(self, claim: Claim, kept: Keeping, spec: TaskSpec, result: Any, owner: RunId) -> bytes:
        """The envelope of a result. A long one goes to its storage at once, in pieces; while that does not take it, it
        is kept whole, as others are."""
        backend, run_id = self.backend, claim.run_id
        envelope, streamed = kept.whole(backend, result, run_id, spec.name), False
        if envelope is None:
            try:
                envelope, streamed = kept.streamed(backend, result, run_id, spec.name, owner), True
            except BackendError as error:
                logger.warning("The result of run %s goes to the store later: %s", run_id, error)
                envelope = kept.whole(backend, result, run_id, spec.name, however_long=True)
        assert envelope is not None
        if kept.must_store and not (streamed and not kept.record):

            def store(whole: bytes) -> bytes:
                large = kept.storage or len(whole) > self.inline_bytes
                refers = whole if streamed or not large else kept.stored(backend, whole, run_id, owner)
                kept.write_record(backend, result, spec.name)
                return refers

            self.to_store[run_id] = store
        return envelope

    def _failure(
        self, claim: Claim, error: BaseException, state: Literal["failed", "crashed", "cancelled"] = "failed"
    ) -> Outcome:
        envelope = values.failure_envelope(self.backend, error, claim.run_id)
        return Outcome(claim.run_id, claim.token, state, envelope)

    def _refuse(self, claim: Claim, state: Any, reason: str) -> Outcome:
        reason += given_up.doubt(claim) if state == "crashed" else ""
        logger.error("Task run %s of %s was not executed: %s", claim.run_id, claim.task, reason)
        return Outcome(claim.run_id, claim.token, state, values.seal_reason(self.backend, reason, claim.run_id))


class _Claimed(Ledger):
    """The ledger of a claimed run: its outcome goes to the queue, and so do its retries."""

    __slots__ = ("_claim", "_engine", "ended", "instead")
    keeps = True
    retries_in_place = False
    waits_in_place = False

    def __init__(self, engine: BackgroundEngine, claim: Claim, instead: State | None) -> None:
        self._engine = engine
        self._claim = claim
        self.ended: Outcome | RetryLater | None = None
        self.instead = instead

    @property
    def claim(self) -> str:
        return str(self._claim.token)

    def keep(self, execution: TaskExecution, state: State) -> None:
        if self.ended is None:
            self.ended = self._engine.outcome(self._claim, execution, state)

    def again_later(self, _: TaskExecution, delay: float) -> State:
        self.ended = RetryLater(self._claim.run_id, self._claim.token, delay)
        return states.AwaitingRetry()

    def its_backend(self) -> Backend:
        return self._engine.backend

    def not_now(self, _: TaskExecution, delay: float) -> State:
        self.ended = RetryLater(self._claim.run_id, self._claim.token, delay, counted=False)
        return states.Pending(name="AwaitingKey")

    def parked(self, _: TaskExecution, state: State, key: str) -> State:
        self.ended = Outcome(self._claim.run_id, self._claim.token, "parked", key.encode())
        return state

    def branch(self, _: TaskExecution) -> Branch:
        return Branch(self._claim.run_id)

"""One execution of a flow run in this process: its journal, its memo keys, its threads.

``engine.flow_engine`` opens and ends it; task calls made in it ask it for replayed outcomes and leave theirs here.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from kapstan.backend import Backend
from kapstan.engine import values
from kapstan.engine.memo import Memo
from kapstan.engine.pending import Pending
from kapstan.errors import BackendError, Fenced, JournalLost, KapstanError, SerializationError
from kapstan.ids import RunId
from kapstan.journal import Journal, TaskOutcome
from kapstan.logging import RunLogger, flow_run_logger
from kapstan.specs import FlowSpec, TaskSpec
from kapstan.states import EffectClass, State, StateType

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

_SWITCH_SECONDS = 0.001
"""How long a thread that computes keeps the interpreter from the one that has the journal's answer: Python's own 5 ms
cost a tenth of the rate of short tasks."""


class FlowRun:
    """A flow run while an attempt of it executes here.

    Attributes:
        attempt: 1 for the first process that executes the run.
        run_count: 1 for the first execution of the flow's function, one more for each retry.
        parent: the flow run that called this one as a subflow.
        deployment: name of the deployment that it was made from, "" for none.
        begun: the attempt stands in the journal; only now may a signal break it off.
        ending: its end is being recorded; nothing may break that off.
    """

    def __init__(
        self,
        spec: FlowSpec,
        run_id: RunId,
        name: str,
        parameters: dict[str, Any],
        backend: Backend,
        *,
        parent: FlowRun | None = None,
        deployment: str = "",
        attempt: int = 1,
        log_prints: bool = False,
    ) -> None:
        self.spec = spec
        self.run_id = run_id
        self.name = name
        self.parameters = parameters
        self.backend = backend
        self.parent = parent
        self.deployment = deployment
        self.attempt = attempt
        self.run_count = 1
        self.log_prints = log_prints
        self.memo = Memo(run_id, {})
        self.on_stop: Callable[[], object] | None = parent.on_stop if parent is not None else None
        self._journal: Journal | None = None
        self._submitted: list[Pending] = []
        self._threads: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._stopped: BaseException | None = None
        self.begun = False
        self.ending = False
        self._warned: set[str] = set()

    @property
    def logger(self) -> RunLogger:
        return flow_run_logger(self.run_id, self.name)

    @property
    def journal(self) -> Journal:
        assert self._journal is not None, "the run is open"
        return self._journal

    def opened(self, journal: Journal, outcomes: Mapping[RunId, TaskOutcome]) -> None:
        """Begin to write to ``journal``; ``outcomes`` are those that need not be executed again."""
        self._journal = journal
        self.memo = Memo(self.run_id, outcomes)

    # ------------------------------------------------------------------ outcomes of task calls

    def replayed(self, run_id: RunId, run_name: str) -> State | None:
        """The outcome that an earlier attempt left for this call; None if it must be executed."""
        outcome: TaskOutcome | None = self.memo.take(run_id)
        if outcome is None:
            return None
        try:
            return self._state_of(outcome)
        except KapstanError as error:
            self.logger.warning("The outcome of run '%s' cannot be read and it runs again: %s", run_name, error)
            return None

    def record(self, spec: TaskSpec | FlowSpec, run_id: RunId, run_name: str, state: State) -> None:
        """Put an outcome in the journal; returns when it is durable.

        Raises:
            Fenced: another attempt has taken over.
            JournalLost: the store did not answer in time, so nothing that follows could be recorded.
        """
        outcome = self._outcome(spec, run_id, run_name, state)
        if outcome is None:
            return
        self.check_stopped()
        try:
            self.journal.append(outcome)
        except BackendError as error:
            raise self.stop(JournalLost(str(error))) from error
        except Fenced as error:
            self.stop(error)
            raise

    async def arecord(self, spec: TaskSpec | FlowSpec, run_id: RunId, run_name: str, state: State) -> None:
        """As ``record``, without blocking the event loop."""
        outcome = self._outcome(spec, run_id, run_name, state)
        if outcome is None:
            return
        import asyncio

        self.check_stopped()
        loop = asyncio.get_running_loop()
        stored = asyncio.Event()
        self._post(outcome, lambda: loop.call_soon_threadsafe(stored.set))
        await stored.wait()
        self.check_stopped()

    def post(
        self, spec: TaskSpec | FlowSpec, run_id: RunId, run_name: str, state: State, stored: Callable[[], object]
    ) -> None:
        """As ``record``, but returns at once: ``stored`` is called when it is durable, or never will be."""
        outcome = self._outcome(spec, run_id, run_name, state)
        if outcome is None:
            stored()
        else:
            self._post(outcome, stored)

    def _post(self, outcome: TaskOutcome, stored: Callable[[], object]) -> None:
        def answered(error: BaseException | None) -> None:
            if error is not None:
                self.stop(error if isinstance(error, Fenced) else JournalLost(str(error)))
            stored()

        try:
            self.journal.post(outcome, answered)
        except Fenced as error:
            answered(error)

    def _outcome(self, spec: TaskSpec | FlowSpec, run_id: RunId, run_name: str, state: State) -> TaskOutcome | None:
        """What the journal is to hold; None for a result that shall not be kept or that is no end."""
        if spec.persist_result is False or not state.is_final():
            return None
        value: bytes | None = None
        if state.type is not StateType.COMPLETED:
            error = state.result(raise_on_failure=False)
            value = values.seal_failure(self.backend, error, run_id)
        elif state.has_data:
            try:
                value = values.seal_value(self.backend, state.data, "result", run_id, what=f"the result of {spec.name}")
            except SerializationError as error:
                self._warn_once(spec.identity, f"{error}; it runs again when this flow run is resumed")
        return TaskOutcome(
            key=run_id,
            task=spec.identity,
            name=run_name,
            state=state.type.value,
            state_name=state.name,
            message=state.message,
            at=state.timestamp,
            value=value,
            effect=spec.effect if isinstance(spec, TaskSpec) else EffectClass.PURE,
        )

    def _state_of(self, outcome: TaskOutcome) -> State | None:
        if outcome.value is None:
            return None
        kind = StateType(outcome.state)
        if kind is StateType.COMPLETED:
            data = values.open_value(self.backend, outcome.value, "result", outcome.key)
        else:
            data = values.open_failure(self.backend, outcome.value, outcome.key)
        return State(kind, outcome.state_name, outcome.message, outcome.at, data=data, has_data=True)

    def _warn_once(self, identity: str, message: str) -> None:
        if identity not in self._warned:
            self._warned.add(identity)
            self.logger.log(logging.WARNING, message)

    # ------------------------------------------------------------------ threads of .submit()

    @property
    def threads(self) -> ThreadPoolExecutor:
        """The threads of ``.submit()``, made at the first; from then on this process changes threads more often."""
        with self._lock:
            if self._threads is None:
                from concurrent.futures import ThreadPoolExecutor

                sys.setswitchinterval(min(sys.getswitchinterval(), _SWITCH_SECONDS))
                limit = self.spec.submit_limit or self.backend.settings.submit_limit
                self._threads = ThreadPoolExecutor(limit, thread_name_prefix=f"{self.name}-task")
            return self._threads

    def track(self, pending: Pending) -> None:
        """Note a submitted call: the flow does not end before it has."""
        with self._lock:
            self._submitted.append(pending)

    def wait_for_submitted(self) -> None:
        """Block until every submitted call has ended."""
        for pending in self._submitted:
            pending.wait()
        self.check_stopped()

    def drop_threads(self) -> None:
        """Start nothing more of what was submitted; what runs already goes on alone."""
        with self._lock:
            threads, self._threads = self._threads, None
            self._submitted = []
        if threads is not None:
            threads.shutdown(wait=False, cancel_futures=True)

    # ------------------------------------------------------------------ the end from elsewhere

    def stop(self, error: BaseException) -> BaseException:
        """Note why this execution must end (seen on any thread); the flow's own thread raises it at its next call."""
        if self._stopped is None:
            self._stopped = error
            if self.on_stop is not None:
                self.on_stop()
        return error

    def stop_here(self, error: BaseException) -> BaseException:
        """As ``stop``, for who raises ``error`` in the flow's own thread at once."""
        self._stopped = self._stopped or error
        return self._stopped

    def check_stopped(self) -> None:
        """Raises: what ``stop`` was told, here or in a flow run that called this one."""
        stopped = self.stopped
        if stopped is not None:
            raise stopped

    @property
    def stopped(self) -> BaseException | None:
        """Why this run must end early, None if it need not."""
        if self._stopped is None and self.parent is not None:
            return self.parent.stopped
        return self._stopped

"""One execution of a flow run in this process: its journal, its memo keys, its threads.

``engine.flow_engine`` opens and ends it; task calls made in it ask it for replayed outcomes and leave theirs here.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from kapstan.backend import Backend
from kapstan.codec import refers_to_store
from kapstan.engine import canonical, outages, transaction_values, values
from kapstan.engine.branch import Branch
from kapstan.engine.delayed import Delayed
from kapstan.engine.execution import Ledger, TaskExecution
from kapstan.engine.memo import Memo, background_id
from kapstan.engine.operations import Do, Operation, Write
from kapstan.engine.pending import Pending
from kapstan.engine.recording import Recording
from kapstan.engine.threads import Threads
from kapstan.engine.undoing import Undoable
from kapstan.errors import BackendError, Fenced, Parked, TransactionRolledBack
from kapstan.ids import RunId
from kapstan.journal import Journal, TaskOutcome
from kapstan.logging import RunLogger, flow_run_logger, tell_end
from kapstan.ports import RegisterKey
from kapstan.specs import FlowSpec, TaskSpec
from kapstan.states import EffectClass, State, StateType

T = TypeVar("T")
_SWITCH_SECONDS = 0.001
"""How long a thread that computes keeps the interpreter from the one that has the journal's answer: Python's own 5 ms
cost a tenth of the rate of short tasks."""


class FlowRun(Ledger):
    """A flow run while an attempt of it executes here.

    Attributes:
        attempt: 1 for the first process that executes the run.
        run_count: 1 for the first execution of the flow's function, one more for each retry.
        parent: the flow run that called this one as a subflow.
        deployment: name of the deployment that it was made from, "" for none.
        tags: of the run, and of the runs that it begins.
        begun: the attempt stands in the journal; only now may a signal break it off.
        ending: its end is being recorded; nothing may break that off.
        execution: stands for the present execution of the flow's function.
        inside: the task run that made the call, None for a call by a flow itself or by nobody.
        caller: the flow run or background run that the call was made in, "" for none.
        may_have_begun: whether whoever calls it may have called it before, with the same id.
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
        tags: frozenset[str] = frozenset(),
        attempt: int = 1,
        log_prints: bool = False,
    ) -> None:
        self.spec = spec
        self.calling_flow = spec
        self.run_id = run_id
        self.name = name
        self.parameters = parameters
        self.backend = backend
        self.parent = parent
        self.deployment = deployment
        self.tags = tags
        self.attempt = attempt
        self.run_count = 1
        self.log_prints = log_prints
        self.memo = Memo({})
        self.delayed = Delayed(self)
        self.execution = object()
        self.on_stop: Callable[[], object] | None = parent.on_stop if parent is not None else None
        self._journal: Journal | None = None
        self._submitted: list[Pending] = []
        self._threads: Threads | None = None
        self._lock = threading.Lock()
        self._stopped: BaseException | None = None
        self.begun = self.ending = False
        self._warned: set[str] = set()
        self.inside: RunId | None = None
        self.caller, self.may_have_begun = "", False

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
        self.memo = Memo(outcomes)

    def body(self) -> Branch:
        """The branch of one execution of the flow's function."""
        self.execution = object()
        return Branch(self.run_id, execution=self.execution)

    # ------------------------------------------------------------------ the ledger of task runs (see ``execution``)

    remembers = keeps = True
    waits_for_store = True

    def its_backend(self) -> Backend:
        return self.backend

    def parked(self, _: TaskExecution, state: State, key: str) -> State:
        """Raises Parked: the flow goes on when somebody has decided."""
        raise self.stop(Parked(f"{state.message}: kapstan task-run resolve {key}", state.data))

    def known(self, execution: TaskExecution) -> Operation | State | None:
        """The outcome that an earlier attempt left for this call.

        Raises:
            Parked: it left one for this very call with other inputs, and the call has an effect.
            TransactionRolledBack: it had begun to undo the transaction that this call would be a part of.
        """
        outcome = self.memo.take(execution.run.run_id, execution.inside)
        if outcome is None:
            if execution.part is not None:
                execution.part.check_open()
            self.check_inputs(execution.spec, execution.position, execution.run.parameters)
            return None
        transaction_values.restore(self.backend, outcome.key, outcome.left, execution.part)
        if outcome.register and execution.part is not None:
            key = RegisterKey.of(execution.spec.identity, outcome.register)
            execution.part.undoable = Undoable(self.backend, key, execution.spec.effect, outcome.key)
        if outcome.value is None and outcome.state == "COMPLETED" and execution.part is not None:
            try:
                execution.part.check_open()
            except TransactionRolledBack:
                execution.part.was_completed = True  # its hooks are due
                raise
        return self.replay(outcome)

    def replay(self, outcome: TaskOutcome) -> Operation | State | None:
        """The state that ``outcome`` tells of, or what fetches it; None for one without a value: it runs again."""
        if outcome.value is None:
            return None
        return Do(self._read, outcome) if refers_to_store(outcome.value) else self._read(outcome)

    def keep(self, execution: TaskExecution, state: State) -> Operation | None:
        if not state.is_final():
            return None
        tell_end(execution.run, state)
        return self.write(execution.spec, execution.run.run_id, execution.run.name, state, execution)

    def branch(self, execution: TaskExecution) -> Branch:
        run_id = execution.run.run_id
        return Branch(self.run_id, run_id, run_id, self.execution)

    def write(
        self,
        spec: TaskSpec | FlowSpec,
        run_id: RunId,
        run_name: str,
        state: State,
        execution: TaskExecution | None = None,
        inside: RunId | None = None,
    ) -> Operation | None:
        """What puts an outcome in the journal; None for a result that shall not be kept.

        Done, it raises:
            Fenced: another attempt has taken over.
            JournalLost: it was not stored, and the run must end.
        """
        part = None if execution is None else execution.part
        if spec.persist_result is False and (part is None or part.parent is None):
            return None  # in a transaction a later attempt must find again what it has to undo
        self.check_stopped()
        outcome = Recording(self, spec, run_id, run_name, state, execution).outcome()
        inside = inside if execution is None else execution.inside
        if not isinstance(outcome, TaskOutcome):
            return outages.LargeWrite(self, run_id, run_name, outcome, inside)
        what = outages.not_taken(run_name)
        self.memo.keep(outcome, inside)
        return Write(
            lambda: self.written(what, lambda: self.journal.append(outcome)),
            lambda done: outages.post(self, outcome, done),
        )

    def written(self, what: str, write: Callable[[], T]) -> T:
        """``write()``, once the store takes it; ``what`` begins the log line while it does not.

        Raises:
            Fenced: another attempt has taken over.
            JournalLost: it was not stored, and the run must end.
        """
        try:
            return outages.waited_for(self, what, write)
        except BackendError as error:
            raise self.stop(outages.lost(self, error)) from error
        except Fenced as error:
            self.stop(error)
            raise

    # ------------------------------------------------------------------ reading what is there

    def _read(self, outcome: TaskOutcome) -> State:
        """The state of ``outcome``. A store that is away is waited for: an outcome that cannot be read is never
        executed again.

        Raises:
            Parked: it can never be read here.
        """
        assert outcome.value is not None
        kind, value, key = StateType(outcome.state), outcome.value, background_id(outcome)

        def opened() -> Any:
            if kind is StateType.COMPLETED:
                return values.open_value(self.backend, value, "result", key)
            return values.open_failure(self.backend, value, key, state=kind.lower(), replay=True)

        try:
            data = outages.waited_for(self, f"The outcome of run '{outcome.name}' cannot be read now", opened)
        except Exception as error:
            self.check_stopped()
            what = f"the outcome of task run '{outcome.name}' ({outcome.task}) cannot be read here: {error}"
            raise self.stop(Parked(f"{what}; it is not executed again")) from error
        return State(kind, outcome.state_name, outcome.message, outcome.at, data=data, has_data=True)

    def check_inputs(self, spec: TaskSpec, position: str, parameters: dict[str, Any]) -> None:
        """A resumed flow is about to make a call anew that it may have made with other inputs before.

        Raises:
            Parked: it did, and the call has an effect.
        """
        before = self.memo.other_inputs(spec.identity, position)
        if before is None:
            return
        what = (
            f"task {spec.name} was executed as run '{before.name}' with other inputs than this attempt calls it with "
            f"({canonical.difference(before.inputs, parameters)})"
        )
        if before.effect is not EffectClass.PURE:
            raise self.stop(Parked(f"{what}; its effect is not repeated"))
        self.warn_once(f"inputs {before.task}", f"{what}; it runs again")

    def warn_once(self, identity: str, message: str) -> None:
        """Log ``message``, unless ``identity`` was warned of before."""
        if identity not in self._warned:
            self._warned.add(identity)
            self.logger.log(logging.WARNING, message)

    # ------------------------------------------------------------------ threads of .submit()

    @property
    def threads(self) -> Threads:
        """The threads of ``.submit()``, made at the first; from then on this process changes threads more often."""
        with self._lock:
            if self._threads is None:
                sys.setswitchinterval(min(sys.getswitchinterval(), _SWITCH_SECONDS))
                limit = self.spec.submit_limit or self.backend.settings.submit_limit
                self._threads = Threads(limit, f"{self.name}-task")
            return self._threads

    def track(self, pending: Pending) -> None:
        """Note a submitted call: the flow does not end before it has."""
        with self._lock:
            self._submitted.append(pending)

    def submitted(self) -> list[Pending]:
        """The submitted calls that have not ended."""
        with self._lock:
            self._submitted = [pending for pending in self._submitted if not pending.done]
            return list(self._submitted)

    def drop_threads(self) -> None:
        """Start nothing more of what was submitted; what runs already goes on alone."""
        with self._lock:
            threads, self._threads = self._threads, None
            self._submitted = []
        if threads is not None:
            threads.close()

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

    def check_stopped(self, line: Branch | None = None) -> None:
        """Raises the error that ``stop`` was given, here or in a flow run that called this one.

        Args:
            line: the branch that is about to make a call.

        Raises:
            Fenced: ``line`` belongs to an execution of the flow's function that has ended; it is executed again.
        """
        stopped = self.stopped
        if stopped is not None:
            raise stopped
        if line is not None and line.execution is not self.execution:
            raise Fenced(f"the flow run '{self.name}' was begun again; this branch is of the execution before")

    @property
    def stopped(self) -> BaseException | None:
        """Why this run must end early, None if it need not."""
        if self._stopped is None and self.parent is not None:
            return self.parent.stopped
        return self._stopped

"""What the steps of a task run see: one record of the run, and the ledger that keeps its outcome."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kapstan import backend as backends
from kapstan.backend import Backend
from kapstan.context import TaskRun
from kapstan.engine.branch import Branch
from kapstan.engine.keeping import Keeping, keeping
from kapstan.engine.operations import Do, Operation, Steps
from kapstan.engine.transaction import Transaction
from kapstan.ids import RunId
from kapstan.logging import tell_end
from kapstan.specs import FlowSpec, TaskSpec
from kapstan.states import State


class Ledger:
    """Where the outcome of a task run is looked up and kept: a flow's journal, the queue, or, as here, nowhere.

    Attributes:
        remembers: whether there may be outcomes of earlier attempts. Otherwise ``known`` is not asked.
        keeps: whether results are kept. Otherwise only those that have a storage key are.
        retries_in_place: whether a retry waits here. Otherwise ``again_later`` takes the run back.
        waits_in_place: whether a run whose key somebody else holds waits here. Otherwise ``not_now`` takes it back.
        calling_flow: the flow that calls its tasks; None: no flow does, or not in this process.
        instead: how a run ends whose code must not begin, unless its register says otherwise; None: it may begin.
        waits_for_store: whether a store that is away is waited for, however long.
    """

    __slots__ = ()
    remembers = keeps = False
    retries_in_place = True
    waits_in_place = True
    waits_for_store = False
    instead: State | None = None
    calling_flow: FlowSpec | None = None

    @property
    def claim(self) -> str:
        """Of a background run: the token of its claim."""
        return ""

    def its_backend(self) -> Backend:
        """Where the register of its runs is."""
        return backends.current()

    def keeping(self, execution: TaskExecution, /) -> Keeping:
        """How the result of a run is kept."""
        return keeping(execution.spec, self.calling_flow, self.its_backend().settings, execution.storage_key)

    def check_stopped(self) -> None:
        """Raises what ends this run, if it must end now."""

    def known(self, _: TaskExecution, /) -> Operation | State | None:
        """The outcome that an earlier attempt left, or what fetches it; None if the run must be executed."""
        return None

    def keep(self, execution: TaskExecution, state: State, /) -> Operation | None:
        """What makes ``state`` durable; None if nothing is to be done."""
        tell_end(execution.run, state)
        if execution.storage_key and state.is_completed() and execution.spec.persist_result is not False:
            return Do(_write_record, execution, state)
        return None

    def again_later(self, execution: TaskExecution, delay: float, /) -> State:
        """Hand the run back, to be executed again in ``delay`` seconds by whoever takes it; its state until then."""
        raise NotImplementedError

    def not_now(self, execution: TaskExecution, delay: float, /) -> State:
        """Hand the run back, unexecuted and uncounted, for ``delay`` seconds; its state until then."""
        raise NotImplementedError

    def parked(self, _: TaskExecution, state: State, key: str, /) -> State:
        """The effect of the run is in doubt, as the register of ``key`` tells: what its caller gets."""
        del key
        return state

    def branch(self, _: TaskExecution, /) -> Branch | None:
        """The branch that the task's body will be; None: it belongs to the one that makes the call."""
        return None


def _write_record(execution: TaskExecution, state: State) -> None:
    """The result of a run that nothing records stands under its key all the same.

    Raises:
        SerializationError, BackendError: it cannot be kept.
    """
    backend = backends.current()
    execution.ledger.keeping(execution).write_record(backend, state.result(), execution.spec.name)


@dataclass(slots=True)  # not frozen: that would triple the cost of making one, on the way of every task call
class TaskExecution:
    """One run of a task while it walks the chain.

    Attributes:
        args, kwargs: as they were given; after ``inputs`` without futures and states.
        wait_for: further runs that must have completed before it may begin.
        run: what its own code sees of it.
        position: see ``branch.Place``; "" outside of a flow.
        inside: the task run that makes the call, None for a flow.
        storage_key: what ``result_storage_key`` makes for it, "" for none.
        part: its part in the transaction that it is called in, if any.
    """

    spec: TaskSpec
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    wait_for: tuple[Any, ...]
    run: TaskRun
    ledger: Ledger
    position: str = ""
    inside: RunId | None = None
    storage_key: str = ""
    part: Transaction | None = None


Next = Callable[[TaskExecution], Steps[State]]
Step = Callable[[TaskExecution, Next], Steps[State]]
"""``step(execution, proceed)``: what it asks for, and the state of the run. ``proceed`` is the rest of the chain."""

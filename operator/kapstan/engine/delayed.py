"""The background runs that a flow run submits: each is submitted once, whichever attempt of the flow asks for it.

That a run was submitted stands in the flow's journal, and so does how it ended, once the flow has seen that. A resumed
flow then needs nothing of the queue, whose records expire: what it knows it does not ask for, and what it has submitted
it does not submit again. A flow that starts over submits anew what had failed, under a further id.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from kapstan.engine import outages
from kapstan.engine.branch import Place
from kapstan.engine.memo import background_id
from kapstan.engine.operations import Operation
from kapstan.ids import RunId
from kapstan.journal import TaskOutcome
from kapstan.specs import TaskSpec
from kapstan.states import State, StateType

if TYPE_CHECKING:
    from kapstan.engine.flow_run import FlowRun

_ENDS = {
    "completed": StateType.COMPLETED,
    "failed": StateType.FAILED,
    "crashed": StateType.CRASHED,
    "cancelled": StateType.CANCELLED,
}


class DelayedCall(NamedTuple):
    """One call of ``.delay()`` in a flow.

    Attributes:
        submit: whether the queue is to be given the run. Otherwise it was, by this flow run.
    """

    run_id: RunId
    marker: TaskOutcome
    submit: bool


class Delayed:
    """The background runs of one flow run in this process."""

    def __init__(self, flow: FlowRun) -> None:
        self._flow = flow
        self._lock = threading.Lock()
        self._open: dict[RunId, TaskOutcome] = {}  # submitted; the flow has not seen their end
        self._known: dict[RunId, State] = {}

    def call(self, spec: TaskSpec, place: Place, inside: RunId | None, parameters: dict[str, Any]) -> DelayedCall:
        """The run that a call stands for.

        Raises:
            Parked: the call has an effect and was made with other inputs before, or how it ended cannot be read here.
            QueueUnavailable: whether the run is known cannot be asked.
        """
        flow = self._flow
        before = flow.memo.take(place.key, inside)
        if before is None:
            flow.check_inputs(spec, place.position, parameters)
            marker = TaskOutcome(
                key=place.key,
                task=spec.identity,
                name=spec.name,
                state=StateType.SCHEDULED,
                effect=spec.effect,
                position=place.position,
                background=True,
            )
            return DelayedCall(place.key, marker, submit=True)
        run_id = background_id(before)
        if StateType(before.state).final:
            state = flow.replay(before)
            known = state.block() if isinstance(state, Operation) else state
            self._known[run_id] = known or State(StateType(before.state), before.state_name, before.message, before.at)
            return DelayedCall(run_id, before, submit=False)
        asked = f"The queue cannot be asked for run '{before.name}' now"
        record = outages.waited_for(flow, asked, lambda: flow.backend.queue.record(run_id))
        ended = None if record is None else _ENDS.get(record.state)
        if flow.run_count > 1 and ended is not None and ended is not StateType.COMPLETED:
            marker = replace(before, run_count=before.run_count + 1)
            return DelayedCall(background_id(marker), marker, submit=True)
        self._watch(run_id, before)
        return DelayedCall(run_id, before, submit=False)

    def submitted(self, call: DelayedCall) -> None:
        """The queue has accepted ``call``: note that in the journal, without waiting for it."""
        self._watch(call.run_id, call.marker)
        outages.post(self._flow, call.marker, lambda: None)

    def _watch(self, run_id: RunId, marker: TaskOutcome) -> None:
        with self._lock:
            self._open[run_id] = marker

    # ------------------------------------------------------------------ what futures ask and tell

    def state(self, run_id: RunId) -> State | None:
        """How a run ended, where the journal of the flow says so."""
        return self._known.get(run_id)

    def seen(self, run_id: RunId, state: State, envelope: bytes | None) -> None:
        """The flow sees that a run has ended: from now on it does not depend on the queue."""
        with self._lock:
            marker = self._open.pop(run_id, None)
        if marker is None:
            return
        outcome = replace(
            marker,
            state=state.type.value,
            state_name=state.name,
            message=state.message,
            at=state.timestamp,
            value=envelope or None,
        )
        self._flow.written(outages.not_taken(outcome.name), lambda: self._flow.journal.append(outcome))

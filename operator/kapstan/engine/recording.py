"""What a flow's journal holds of a call that ended: the outcome, its value in the store where it is large."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from kapstan.engine import canonical, transaction_values, values
from kapstan.engine.execution import TaskExecution
from kapstan.engine.keeping import Keeping, keeping
from kapstan.errors import SerializationError
from kapstan.ids import RunId
from kapstan.journal import TaskOutcome
from kapstan.specs import FlowSpec, TaskSpec
from kapstan.states import EffectClass, State, StateType

if TYPE_CHECKING:
    from kapstan.engine.flow_run import FlowRun


class Recording(NamedTuple):
    """A call that ended, on its way into the journal.

    Attributes:
        execution: of a task call, None for a subflow.
    """

    flow: FlowRun
    spec: TaskSpec | FlowSpec
    run_id: RunId
    run_name: str
    state: State
    execution: TaskExecution | None

    def outcome(self) -> TaskOutcome | Callable[[], TaskOutcome]:
        """What the journal is to hold; where something of it must be in a storage first, what stores that and gives
        it. The latter raises BackendError while the storage does not take it; nothing is lost then, call it again."""
        if self.state.type is not StateType.COMPLETED:
            return self._sealed(self._failure())
        if not self.state.has_data:
            return self._made(None)
        record = "" if self.execution is None else self.execution.storage_key
        kept = keeping(self.spec, self.flow.spec, self.flow.backend.settings, record)
        try:
            value = kept.whole(self.flow.backend, self.state.data, self.run_id, self.spec.name)
        except SerializationError as error:
            return self._refused(error)
        if value is None or kept.must_store:
            return lambda: self._stored(kept, value)
        return self._sealed(value)

    def _sealed(self, value: bytes) -> TaskOutcome | Callable[[], TaskOutcome]:
        outcome, backend = self._made(value), self.flow.backend
        if len(value) <= backend.settings.inline_bytes:
            return outcome
        return lambda: replace(
            outcome, value=values.to_store(backend, value, "result", self.run_id, owner=self.flow.run_id)
        )

    def _stored(self, kept: Keeping, whole: bytes | None) -> TaskOutcome:
        flow, data = self.flow, self.state.data
        try:
            if whole is None:
                value = kept.streamed(flow.backend, data, self.run_id, self.spec.name, flow.run_id)
            elif kept.storage or len(whole) > flow.backend.settings.inline_bytes:
                value = kept.stored(flow.backend, whole, self.run_id, flow.run_id)
            else:
                value = whole
            kept.write_record(flow.backend, data, self.spec.name)
        except SerializationError as error:  # found when most of a large one was written
            outcome = self._refused(error)
            return outcome if isinstance(outcome, TaskOutcome) else outcome()
        return self._made(value)

    def _refused(self, error: SerializationError) -> TaskOutcome | Callable[[], TaskOutcome]:
        """The result cannot be kept. A pure task runs again on a resume; of any other the run has failed, now, since a
        later attempt could not go on from it."""
        if not self._has_effect:
            self.flow.warn_once(self.spec.identity, f"{error}; it runs again when this flow run is resumed")
            return self._made(None)
        state = self.state  # nobody has seen it yet
        state.type, state.name, state.data, state.has_data = StateType.FAILED, "Failed", error, True
        state.message = f"its code has run, but its result cannot be kept: {error}"
        return self._sealed(self._failure())

    def _failure(self) -> bytes:
        """The envelope of what was raised. The state gets what a resumed flow will see in its place."""
        error = self.state.result(raise_on_failure=False)
        envelope, replayed = values.whole_failure(self.flow.backend, error, self.run_id)
        if replayed is not error and self.flow.spec.entrypoint:
            self.flow.warn_once(
                f"failure {type(error)}",
                f"{type(error).__qualname__} of {self.spec.name} cannot be kept as it is; the flow sees what it would "
                f"see when it is resumed: {type(replayed).__qualname__}",
            )
            self.state.data = replayed  # nobody has seen it yet
        return envelope

    @property
    def _has_effect(self) -> bool:
        return isinstance(self.spec, TaskSpec) and self.spec.effect is not EffectClass.PURE

    def _made(self, value: bytes | None) -> TaskOutcome:
        spec, state, execution = self.spec, self.state, self.execution
        told = execution is not None and self._has_effect
        return TaskOutcome(
            key=self.run_id,
            task=spec.identity,
            name=self.run_name,
            state=state.type.value,
            state_name=state.name,
            message=state.message,
            run_count=1 if execution is None else execution.run.run_count,
            at=state.timestamp,
            value=value,
            effect=spec.effect if isinstance(spec, TaskSpec) else EffectClass.PURE,
            position="" if execution is None else execution.position,
            inputs=canonical.described(execution.run.parameters) if execution is not None and told else "",
            register="" if execution is None else _committed_key(execution),
            left=None
            if execution is None
            else transaction_values.sealed(self.flow.backend, self.run_id, execution.part),
        )


def _committed_key(execution: TaskExecution) -> str:
    undoable = None if execution.part is None else execution.part.undoable
    return "" if undoable is None else undoable.key.text

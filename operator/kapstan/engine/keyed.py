"""A run with a key: what it finds at the register of that key, and what it makes of it. Called by the step ``keyed``.

Every method reads or writes the store and so blocks; none executes the task.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from kapstan import states
from kapstan.engine import canonical, returns
from kapstan.engine.key_intent import KeyIntent, open_intents, parked_state
from kapstan.errors import (
    BackendError,
    Fenced,
    KeyConflict,
    KeyExpired,
    MissingResult,
    RunFailed,
    SerializationError,
    StoreUnsafe,
    UnreadableValue,
)
from kapstan.ids import to_uuid
from kapstan.ports import Entry, RegisterEvent, RegisterRecord, RegisterState
from kapstan.runs import deaths, reruns
from kapstan.runs.parked import horizon_left
from kapstan.states import EffectClass, State

logger = logging.getLogger("kapstan.task_runs")


@dataclass(frozen=True, slots=True)
class Held:
    """Somebody else holds the intent and may live."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class NotYet:
    """Who says that the effect did not happen may be wrong for so many seconds more: a request may be under way."""

    seconds: float


BEGUN = object()
"""The intent is this run's: it may execute."""


class KeyedRun(KeyIntent):
    """One run of a task at its key: what it finds there."""

    # ------------------------------------------------------------------ pure: a cache

    def cached(self) -> State | None:
        """The result that is there and fresh, as the state ``Cached``; None: execute."""
        self._mine = entry = self._register.read(self.key)
        if entry is None or entry.record.state is not RegisterState.COMMITTED:
            return None
        if self._spec.refresh_cache or self._is_expired(entry.record):
            return None
        try:
            return self._adopted(entry.record)
        except (UnreadableValue, MissingResult) as error:
            logger.warning("The cached result of %s cannot be used, it is made anew: %s", self._spec.name, error)
            return None

    def publish(self, state: State) -> State:
        """Keep the result of ``state``; the state that counts: that of another run which was faster."""
        if self._sealed is None:
            try:
                self._sealed = self._seal(state)
            except SerializationError as error:
                logger.warning("The result of %s is not cached: %s", self._spec.name, error)
                return state
        before = self._mine
        event = RegisterEvent.PUBLISH
        if before is not None and before.record.state is RegisterState.COMMITTED:
            event = RegisterEvent.REFRESH
        elif before is not None and before.record.state in (RegisterState.INTENT, RegisterState.PARKED):
            logger.warning(
                "The result of %s is not cached: its key is in use by a task with an effect", self._spec.name
            )
            return state
        holder = self._holder if self._part is not None else None
        entry = self._changed(
            before, event, outcome="completed", result=self._sealed, expires=self._expires(), holder=holder
        )
        if entry is not None:
            self.committed()
            return state
        there = self._register.read(self.key)
        if there is None or there.record.state is not RegisterState.COMMITTED or self._is_expired(there.record):
            return state
        return self._adopted(there.record)

    # ------------------------------------------------------------------ classes with an effect

    def known(self) -> State | None:
        """The result that counts already; None: it is to be seen in ``look``, when it is this run's turn. A failure of
        an execution that ends after this was called is this run's, too.

        Raises:
            as ``look``.
        """
        found = self._register.read(self.key)
        state, epoch = (RegisterState.ABSENT, 0) if found is None else (found.record.state, found.record.epoch)
        if self._waited is None:
            self._waited = epoch if state is RegisterState.INTENT else epoch + 1
        if found is None or state not in (RegisterState.COMMITTED, RegisterState.INTENT):
            return None
        is_own = found.record.holder is not None and found.record.holder.run_id == self._run.run_id
        if state is RegisterState.INTENT:
            return self._conflict(found.record) if self._differs(found.record) and not is_own else None
        if not is_own and (self._spec.refresh_cache or self._is_expired(found.record)):
            return None
        answer = self._answer(found)
        return answer if isinstance(answer, State) else None

    def look(self, seen: Entry | None = None) -> object:
        """``BEGUN``, a State that counts in the place of an execution, ``Held`` or ``NotYet``.

        Args:
            seen: the register as it was found since this run began to wait for it; it need not be read then.

        Raises:
            StoreUnavailable, StoreRefused, StoreUnsafe, SignatureError: as ``ports.Register``; nothing may be executed.
            Unreadable: it was done, and its result can never be read here.
        """
        open_intents[self._holder.intent] = True
        try:
            answer = self._try(None, RegisterEvent.BEGIN) if self._waited is None else None
            while answer is None:
                found, seen = seen or self._register.read(self.key), None
                answer = self._try(None, RegisterEvent.BEGIN) if found is None else self._answer(found)
        finally:
            if self._mine is None:
                open_intents.pop(self._holder.intent, None)
        return answer

    def _answer(self, entry: Entry) -> object | None:
        """What ``look`` says to ``entry``; None: look again."""
        record = entry.record
        if (claim := record.told.get(self._run.run_id)) and not reruns.is_noted(self._backend, self._run.run_id, claim):
            return self._told(record, claim)
        is_own = record.holder is not None and record.holder.run_id == self._run.run_id
        is_waited = self._waited is not None and record.epoch >= self._waited
        is_over = self._is_expired(record) and not (is_waited and record.state is RegisterState.COMMITTED)
        is_old = not is_own and (self._spec.refresh_cache or is_over)
        if record.state in (RegisterState.COMMITTED, RegisterState.GRAVE) and is_old:
            return self._try(entry, RegisterEvent.RENEW)
        if record.state is not RegisterState.RELEASED and not is_own and self._differs(record):
            return self._conflict(record)
        if record.state is RegisterState.COMMITTED:
            return self._adopted(record)
        if record.state is RegisterState.INTENT:
            return self._held(entry)
        if record.state is RegisterState.PARKED:
            return self._parked(entry)
        if record.state is RegisterState.GRAVE:
            text = f"the result of {self._spec.name} under key {self.key.key} is not kept any more; it is not repeated"
            return returns.failed(KeyExpired(text), "Task run was not executed")
        waited = self._waited is not None and record.epoch >= self._waited
        if waited and record.outcome and not self._differs(record):
            return self._adopted(record)
        return self._try(entry, RegisterEvent.BEGIN)

    def _told(self, record: RegisterRecord, claim: str) -> State:
        """This very run has failed before, and its caller may know: it stays so, whatever the queue has forgotten."""
        is_own = record.holder is not None and record.holder.run_id == self._run.run_id
        if is_own and record.state is RegisterState.RELEASED and record.outcome:
            return self._adopted(record)
        text = f"this run of {self._spec.name} failed before, by the claim {claim}; what it raised is not kept"
        return returns.failed(RunFailed(text), "Task run was not executed again")

    def _differs(self, record: RegisterRecord) -> bool:
        """Whether the key was used with other arguments. What an older release made of them is not compared."""
        mine, theirs = self._inputs.digest, record.inputs
        return theirs != mine and theirs.partition("-")[0] == mine.partition("-")[0]

    def _conflict(self, record: RegisterRecord) -> State:
        """The key stands for another request."""
        who = "another call" if record.holder is None else f"run {to_uuid(record.holder.run_id)}"
        difference = canonical.difference(record.inputs_shown, self._inputs.values)
        text = (
            f"{self._spec.name}: key {self.key.key} was used by {who} with other arguments than by run "
            f"{to_uuid(self._run.run_id)} ({difference}); give each request a key of its own, "
            "or leave an argument that does not matter out of the cache policy"
        )
        return returns.failed(KeyConflict(text), "Task run was not executed")

    def _try(self, entry: Entry | None, event: RegisterEvent, begun: float | None = None) -> object | None:
        """Write this run's intent; None: somebody was faster."""
        now = self._now()
        digest, shown, _ = self._inputs
        mine = self._changed(
            entry, event, holder=self._holder, at=now, begun=now if begun is None else begun, inputs=digest,
            inputs_shown=shown,
        )  # fmt: skip
        return None if mine is None else self._begin(mine)

    def _begin(self, mine: Entry) -> object:
        with self._lock:
            self._mine = mine
            if not self._given_up:
                return BEGUN
        self.release(None)
        raise Fenced(f"nobody waits any more for the run of {self._spec.name}")

    def _held(self, entry: Entry) -> object | None:
        """An intent: of a run that lives, or that is known to have ended."""
        record = entry.record
        if record.holder is None:
            raise StoreUnsafe(f"the register {self.path} has an intent without a holder")
        if record.holder == self._holder:
            # The answer to the write was lost. Written once more, since another run of this process may be about to
            # release it as one of which nothing came.
            return self._try(entry, RegisterEvent.GUARD)
        if deaths.is_here(record.holder) and not open_intents.get(record.holder.intent):
            # Its write was in doubt, and its caller was told so: its code never began.
            self._changed(entry, RegisterEvent.RELEASE, at=self._now())
            return None
        evidence = deaths.end_of(self._backend, record.holder)
        if evidence is None:
            self._waited = record.epoch
            return Held(entry)
        once = EffectClass.AT_MOST_ONCE in (record.effect, self._effect)
        late = self._now() - record.begun > self._spec.key_retention
        if once or late:
            why = "its process ended while it ran" if once else "its receiver may not know its key any more"
            self._park(entry, {**record.evidence, **evidence, "why": why})
            return None
        return self._try(entry, RegisterEvent.TAKE_OVER, record.begun)

    def _parked(self, entry: Entry) -> object | None:
        """What a probe says of a run in doubt; else the state Parked."""
        record, probe = entry.record, self._spec.probe
        said = None if probe is None else self._asked(probe)
        if said is None:
            return parked_state(self._spec.name, self.key, record)
        if said is not False:
            self._changed(entry, RegisterEvent.APPLIED, outcome="completed", result=said, at=self._now())
            return None
        left = horizon_left(record, self._spec.effect_horizon, self._now())
        if left > 0:
            return NotYet(left)
        self._changed(entry, RegisterEvent.NOT_APPLIED, at=self._now())
        return None

    def _asked(self, probe: Callable[[str], Any]) -> bytes | Literal[False] | None:
        """The sealed result of an effect that happened; False: it did not; None: nothing is known."""
        try:
            said = probe(self.key.key)
            if isinstance(said, State) and not said.is_completed():
                return False if said.is_failed() else None
            if inspect.iscoroutine(said):
                said.close()
                raise TypeError(f"it gave {said!r}, which nobody waits for; give a plain function")
            if said is None or said is False or _is_numpys_false(said):
                return None if said is None else False
            if not isinstance(said, State) or not said.has_data:
                said = states.Completed(data=None if isinstance(said, State) else said)
            return self._seal(said)
        except BackendError:  # of the storage that the result goes to
            raise
        except Exception:
            logger.exception("The probe of %s gives no answer that can be used: nothing is known", self._spec.name)
            return None


def _is_numpys_false(said: Any) -> bool:
    """Whether a comparison of numpy's or pandas' was False, which is no ``False``."""
    return type(said).__module__ == "numpy" and type(said).__name__ in ("bool", "bool_") and not said

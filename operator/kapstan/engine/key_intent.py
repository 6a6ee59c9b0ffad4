"""The intent of one run at the register of its key: how it is held, guarded and ended, and how records become states.

Every method reads or writes the store and so blocks. A write whose fate is unknown raises ``StoreUnavailable``; called
again, it finds out.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from kapstan import states
from kapstan.backend import Backend
from kapstan.engine import key_ends, key_watch, returns, values
from kapstan.engine.cache_key import Inputs
from kapstan.engine.execution import TaskExecution
from kapstan.engine.undoing import Undoable
from kapstan.errors import Fenced, MissingResult, ParkedRun, RunFailed, SerializationError, StoreUnsafe
from kapstan.ids import new_nonce, to_uuid
from kapstan.ports import Doubt, Entry, RegisterEvent, RegisterKey, RegisterRecord, RegisterState
from kapstan.runs import deaths
from kapstan.states import EffectClass, State, StateType

logger = logging.getLogger("kapstan.task_runs")
_MOST_TOLD = 32  # runs whose failure a register remembers
_NO_INPUTS = Inputs()
_FAILURES = {"failed": StateType.FAILED, "crashed": StateType.CRASHED}

open_intents: dict[str, bool] = {}
"""The intents of this process that are being written, held or ended, by their nonce."""


class KeyIntent:
    """One run of a task at its key.

    Attributes:
        lost: a ``guard`` found that the intent is not this run's any more.
        told: a person was told for whom it waits.
    """

    def __init__(
        self, execution: TaskExecution, backend: Backend, key: RegisterKey, inputs: Inputs = _NO_INPUTS
    ) -> None:
        self._backend = backend
        self._spec = execution.spec
        self._kept = execution.ledger.keeping(execution)
        backend.objects(self._kept.storage)  # one that cannot be used is found before anything is executed
        self._run = execution.run
        self._part = execution.part
        self._register = backend.register
        self._effect = execution.spec.effect
        self._claim = execution.ledger.claim
        self._inputs = inputs
        self._holder = replace(deaths.holder_of(execution.run.run_id), intent=new_nonce())
        self._given_up = self._entered = False
        self._settle: Callable[[], object] | None = None  # once its code has ended: what is to be written of that
        self._waited: int | None = None
        self._mine: Entry | None = None
        self._sealed: bytes | None = None
        self._lock = threading.Lock()
        self.key = key
        self.path = self._register.path(key)
        self.lost = self.told = False

    # ------------------------------------------------------------------ while it executes, and after

    @property
    def fencing_token(self) -> int:
        assert self._mine is not None
        return self._mine.record.epoch

    @property
    def is_given_up(self) -> bool:
        """Whether it was ended from outside, which ``broken_off`` was told."""
        return self._given_up

    def enter(self) -> None:
        """The task's code begins."""
        self._entered = True

    def guard(self) -> None:
        """Make sure, by a write, that the intent is this run's at this moment.

        Raises:
            Fenced: it is not.
            StoreUnavailable: it cannot be known.
        """
        with self._lock:
            while True:
                mine = self._own()
                now = self._now()
                evidence = {**mine.record.evidence, "guard": now}
                entry = self._changed(mine, RegisterEvent.GUARD, evidence=evidence, at=now)
                if entry is not None:
                    self._mine = entry
                    return
                there = self._register.read(self.key)
                if there is None or not self._is_mine(there.record) or there.record.state is not RegisterState.INTENT:
                    self.lost = True
                    raise Fenced(f"key {self.key.key} of {self._spec.name} is not this run's any more")
                self._mine = there

    def commit(self, state: State) -> object | None:
        """Make the result durable; None: it is. A State: what counts instead. ``Held``: another run holds the key."""
        self._settle = partial(self.commit, state)
        if self._sealed is None:
            try:
                self._sealed = self._seal(state)
            except SerializationError as error:
                self._cannot_be_kept(state, error)
            except Exception:
                raise
            except BaseException as error:  # of the value's own code, when it is pickled
                if not self._given_up:
                    raise  # it may have come from outside; then ``broken_off`` has it written by another thread
                self._cannot_be_kept(state, error)
        while True:
            entry = self._changed(
                self._own(), RegisterEvent.COMMIT, outcome="completed", result=self._sealed, expires=self._expires(),
                at=self._now(),
            )  # fmt: skip
            if entry is not None:
                self._end()
                if self._sealed == b"":
                    return returns.failed(state.data, "its code has run, but its result cannot be kept")
                return None
            there = self._register.read(self.key)
            record = None if there is None else there.record
            if there is None or record is None:
                raise StoreUnsafe(f"the register {self.path} is gone")
            if record.state is RegisterState.GRAVE and record.epoch == self._own().record.epoch:
                self._end()  # it landed, and was so long ago that retention has taken it
                return None
            if self._is_mine(record) and record.state in (RegisterState.INTENT, RegisterState.PARKED):
                self._mine = there
                continue
            self._end()
            if record.state is RegisterState.COMMITTED:
                if not self._is_mine(record):
                    logger.warning("Another result of %s counts: this run was superseded", self._spec.name)
                return self._adopted(record)
            return self._superseded(record)

    def _cannot_be_kept(self, state: State, error: BaseException) -> None:
        """It happened, and is not repeated, though nobody will see its result."""
        self._sealed = b""
        state.data = error

    def committed(self) -> None:
        """The register has the result of this run: a rollback of its transaction will release it."""
        if self._part is not None and self._spec.on_rollback:
            self._part.undoable = Undoable(self._backend, self.key, self._effect, self._run.run_id)

    def _superseded(self, record: RegisterRecord) -> State:
        text = f"the result of {self._spec.name} came when its key was {record.state} in epoch {record.epoch}"
        logger.error("%s; it is dropped: %r", text, self._mine)
        return returns.failed(ParkedRun(text), "Task run was superseded")

    def release(self, state: State | None) -> None:
        """Say that it was not done: ``state`` is its failure, for those that wait for it; None: it will be tried
        again."""
        self._settle = partial(self.release, state)
        outcome, failure, told = "", b"", dict(self._own().record.told)
        if state is not None and self._claim and (state.is_failed() or state.is_crashed() or state.is_cancelled()):
            told.pop(self._run.run_id, None)
            told = dict([*told.items(), (self._run.run_id, self._claim)][-_MOST_TOLD:])
        if state is not None and (state.is_failed() or state.is_crashed()):
            error = state.result(raise_on_failure=False)
            outcome = "failed" if state.is_failed() else "crashed"
            failure = self._failure(error)
        self._leave(lambda mine: self._changed(
            mine, RegisterEvent.RELEASE, outcome=outcome, result=failure, told=told, at=self._now(),
        ))  # fmt: skip

    def park(self, why: str) -> State:
        """Its code was broken off, and nobody knows whether it had its effect."""
        self._leave(lambda mine: self._park(mine, {**mine.record.evidence, "ended": True, "why": why}))
        there = self._register.read(self.key)
        record = self._own().record if there is None else there.record
        if there is not None and record.state is RegisterState.COMMITTED:
            return self._adopted(record)
        return parked_state(self._spec.name, self.key, record)

    def broken_off(self, error: BaseException) -> None:
        """The run was ended from outside. What became of it is written on a thread of its own, since nobody can wait
        here. If the process ends first, that is known of it, too."""
        with self._lock:
            self._given_up = True
            never_began = not self._entered
        if self._settle is not None:
            settle = self._settle
        elif self._effect is EffectClass.AT_MOST_ONCE and not never_began:
            settle = partial(self.park, f"its code was broken off by {type(error).__name__}")
        elif self._mine is not None:
            settle = partial(self.release, None)
        else:
            settle = self._fence_doubt
        key_ends.settle_later(self._backend, settle, self._spec.name)

    def _fence_doubt(self) -> None:
        """A write of this run's intent may still arrive: let it find another version."""
        while True:
            found = self._register.read(self.key)
            state = RegisterState.ABSENT if found is None else found.record.state
            if found is not None and found.record.holder == self._holder and state is RegisterState.INTENT:
                self._changed(found, RegisterEvent.RELEASE, at=self._now())
            elif state in (RegisterState.ABSENT, RegisterState.RELEASED):
                mine = self._changed(found, RegisterEvent.BEGIN, holder=self._holder, at=self._now())
                if mine is not None and self._changed(mine, RegisterEvent.RELEASE, at=self._now()) is not None:
                    return
            else:
                return

    def _leave(self, write: Callable[[Entry], Entry | None]) -> None:
        """``write`` the end of this run's intent, unless it has ended already."""
        while True:
            if write(self._own()) is not None:
                break
            there = self._register.read(self.key)
            if there is None or not self._is_mine(there.record) or there.record.state is not RegisterState.INTENT:
                break
            self._mine = there
        self._end()

    def _end(self) -> None:
        open_intents.pop(self._holder.intent, None)
        key_watch.look_at(self.key)

    # ------------------------------------------------------------------ reading and writing records

    def _own(self) -> Entry:
        assert self._mine is not None
        return self._mine

    def _is_mine(self, record: RegisterRecord) -> bool:
        own = self._own().record
        return record.epoch == own.epoch and record.holder == own.holder

    def _changed(self, before: Entry | None, event: RegisterEvent, **fields: Any) -> Entry | None:
        return self._register.change(self.key, before, event, self._effect, **fields)

    def _park(self, entry: Entry, evidence: dict[str, Any]) -> Entry | None:
        evidence["horizon"] = self._spec.effect_horizon
        return self._changed(entry, RegisterEvent.PARK, evidence=evidence, at=self._now())

    def _now(self) -> float:
        return self._backend.store_time()

    def _expires(self) -> float | None:
        expiration = self._spec.cache_expiration
        return None if expiration is None else self._now() + expiration.total_seconds()

    def _is_expired(self, record: RegisterRecord) -> bool:
        return record.expires is not None and record.expires <= self._now()

    def _seal(self, state: State) -> bytes:
        """The result as the register holds it: whole, or a reference to an object of its own."""
        value = state.data if state.has_data else state.result()
        return self._kept.sealed(self._backend, value, self.path, self._spec.name, self.key.storage)

    def _failure(self, error: BaseException) -> bytes:
        def seal(error: BaseException) -> bytes:
            return values.seal_failure(self._backend, error, self.path, register=self.key.storage).envelope

        try:
            return seal(error)
        except Exception:
            raise
        except BaseException as raised:  # as in ``commit``, of the exception's own code
            if not self._given_up:
                raise
            kind, why = type(error).__qualname__, type(raised).__name__
            return seal(RunFailed(f"{kind}, which cannot be kept: {why} when it was pickled or printed"))

    def _adopted(self, record: RegisterRecord) -> State:
        """The outcome that another run of this key left. Its checksum is verified.

        Raises:
            Unreadable: it can never be read here.
        """
        if record.outcome in _FAILURES:
            error = values.open_failure(self._backend, record.result, self.path, state=record.outcome)
            is_own = record.holder is not None and record.holder.run_id == self._run.run_id
            who = "it" if is_own else "another run of the same key"
            message = f"{who} failed: {type(error).__name__}: {values.printable(error)}"
            return State(_FAILURES[record.outcome], message=message, data=error, has_data=True)
        if not record.result:
            raise MissingResult(f"{self._spec.name} was done under key {self.key.key}, but its result cannot be kept")
        value = values.open_value(self._backend, record.result, "result", self.path)
        if record.holder is None or record.holder.run_id != self._run.run_id:
            return states.Completed(name="Cached", data=value)
        self.committed()  # by a process that died before it could tell: the hooks of the task are still due
        return states.Completed(data=value)


def parked_state(task: str, key: RegisterKey, record: RegisterRecord) -> State:
    """The state of a run whose effect is in doubt: not final, its data the exception that a caller gets."""
    run = "" if record.holder is None else f" of run {to_uuid(record.holder.run_id)}"
    why = record.evidence.get("why", "nobody knows whether its effect happened")
    seen = record.evidence.get("seen")
    what = f"{task}{run} is parked: {why}{f' ({seen})' if seen else ''}"
    doubt = Doubt(key.task, key.text, "" if record.holder is None else record.holder.run_id)
    return states.parked(f"{what}; a person or a probe must decide (key {key.text})", doubt)


os.register_at_fork(after_in_child=open_intents.clear)

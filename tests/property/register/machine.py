"""Any order of what runs of one key, deaths, late writes, people and retention do at a register, on a real store.

The model says what docs/protocol.md promises. After every step the register is compared with it, and every answer that
a run gets with what the model foresees: one holder, epochs that grow, no effect where none may begin, one result.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.property.register.actors import TASKS, Actor, Flying, hire
from tests.property.register.model import Modelled

from kapstan.backend import Backend
from kapstan.engine import values
from kapstan.engine.keyed import BEGUN, Held
from kapstan.errors import NotPossible, StoreUnavailable
from kapstan.ports import RegisterEvent, RegisterKey, RegisterState
from kapstan.runs.parked import ParkedKeys
from kapstan.states import Completed, EffectClass, Failed, State

S, E = RegisterState, RegisterEvent
HORIZON = 70.0
"""Seconds: more than ``effect_horizon`` where nobody chose one."""
_orders = itertools.count(1)


class RegisterMachine(RuleBasedStateMachine):
    """One key after the other, of any class. The test sets ``backend``, whose clock is ``ahead`` of the real one, and
    ``counted``: how often what happened."""

    backend: Backend
    counted: dict[str, int]
    ahead = 0.0

    @initialize(effect=st.sampled_from(EffectClass))
    def begin(self, effect: EffectClass) -> None:
        given = type(self.backend).store_time
        self.backend.store_time = lambda: given(self.backend) + RegisterMachine.ahead  # type: ignore[method-assign]
        self.actors: list[Actor] = []
        self.begin_key(effect)

    def begin_key(self, effect: EffectClass) -> None:
        self.effect, self.task = effect, TASKS[effect]
        self.order = f"order-{next(_orders)}"
        self.parked = ParkedKeys(self.backend)
        self.flying: list[Flying] = []
        self.model = Modelled()
        self.touched = False  # since the register was read last
        self.arrives(1)
        self.key: RegisterKey = self.actors[-1].run.key

    @precondition(lambda self: self.model.state in (S.COMMITTED, S.GRAVE))
    @rule(effect=st.sampled_from(EffectClass))
    def another_key(self, effect: EffectClass) -> None:
        """This one has come to its end."""
        self.end_key()
        self.begin_key(effect)
        self.count("keys")

    def count(self, what: str) -> None:
        self.touched = True
        self.counted[what] = self.counted.get(what, 0) + 1

    def pick(self, choice: int, stage: str) -> Actor:
        fitting = [actor for actor in self.actors if actor.stage == stage]
        return fitting[choice % len(fitting)]

    def any_in(self, stage: str) -> bool:
        return any(actor.stage == stage for actor in self.actors)

    def lands(self, actor: Actor) -> bool:
        """Whether a write of this run finds what it knows."""
        return actor.knows == self.model.writes

    # ------------------------------------------------------------------ runs

    @precondition(lambda self: sum(actor.stage == "asks" for actor in self.actors) < 3)
    @rule(where=st.integers(0, 4))
    def arrives(self, where: int) -> None:
        """Another caller; one of five is on another machine."""
        elsewhere = where == 0
        self.actors.append(hire(self.backend, self.task, self.order, elsewhere=elsewhere))

    @precondition(lambda self: self.any_in("asks"))
    @rule(choice=st.integers(0, 99), lost=st.booleans())
    def asks(self, choice: int, lost: bool) -> None:
        actor = self.pick(choice, "asks")
        self._asks_cache(actor) if self.effect is EffectClass.PURE else self._asks_for_intent(actor, lost)

    def _asks_cache(self, actor: Actor) -> None:
        answer, model = actor.run.cached(), self.model
        actor.knows = model.writes
        if model.state is S.COMMITTED:
            self.is_told(actor, answer)
        else:
            assert answer is None
            actor.stage = "executes"

    def _asks_for_intent(self, actor: Actor, lost: bool) -> None:
        model, actor.looked = self.model, True
        foreseen = self._foreseen(actor)
        writes = foreseen in ("begins", "begins again", "takes over", "parks")
        actor.register.armed = lost and writes
        try:
            answer = actor.run.look()
        except StoreUnavailable:
            self.count(f"{foreseen}, reply lost")
            self._changed_by(actor, foreseen)
            return
        finally:
            actor.register.armed = False
        self.count(foreseen)
        self._changed_by(actor, foreseen)
        if foreseen in ("begins", "begins again", "takes over"):
            assert answer is BEGUN
            actor.stage, actor.epoch, actor.knows = "executes", model.epoch, model.writes
            assert actor.run.fencing_token == model.epoch, "the token is the epoch of the register"
        elif foreseen == "waits":
            assert isinstance(answer, Held)
            actor.waited = model.epoch
            with pytest.raises(NotPossible):
                self.parked.say_not_applied(self.key)
        elif foreseen in ("parks", "is parked"):
            assert isinstance(answer, State), "it may not begin"
            assert answer.is_paused()
            actor.stage = "over"
        elif foreseen == "is told":
            self.is_told(actor, answer)
        else:
            assert isinstance(answer, State), "it may not begin"
            assert answer.is_failed()
            actor.stage = "over"

    def _foreseen(self, actor: Actor) -> str:
        """What this run will find."""
        model, holder = self.model, self.model.holder
        if model.state is S.RELEASED and actor.waited and model.epoch >= actor.waited and model.failed:
            return "has the failure"
        if model.state in (S.ABSENT, S.RELEASED):
            return "begins"
        if model.state is S.INTENT:
            assert holder is not None
            if holder is actor:
                return "begins again"
            if holder.alive or holder.elsewhere:
                return "waits"
            return "parks" if self.effect is EffectClass.AT_MOST_ONCE else "takes over"
        return {S.COMMITTED: "is told", S.PARKED: "is parked", S.GRAVE: "is too late"}[model.state]

    def _changed_by(self, actor: Actor, foreseen: str) -> None:
        if foreseen in ("begins", "takes over"):
            self.model.becomes(S.INTENT, actor)
        elif foreseen == "begins again":
            self.model.becomes(S.INTENT)
        elif foreseen == "parks":
            self.model.becomes(S.PARKED)
            self.model.refused_until = 0.0

    @precondition(lambda self: self.any_in("executes"))
    @rule(choice=st.integers(0, 99))
    def acts(self, choice: int) -> None:
        """The effect happens."""
        actor, model = self.pick(choice, "executes"), self.model
        if actor.acted:
            return
        actor.acted = True
        model.effects.append((actor.epoch, actor.name))
        if self.effect is not EffectClass.PURE:
            assert model.state is S.INTENT and model.holder is actor, "an effect began that may not"  # noqa: PT018

    @precondition(lambda self: self.effect is not EffectClass.PURE and self.any_in("executes"))
    @rule(choice=st.integers(0, 99), lost=st.booleans())
    def guards(self, choice: int, lost: bool) -> None:
        actor = self.pick(choice, "executes")
        self._written(actor, actor.run.guard, lost=lost)
        self.count("guards")
        self.model.writes += lost  # it was written once more
        actor.knows = self.model.writes = self.model.writes + 1

    @precondition(lambda self: self.any_in("executes"))
    @rule(choice=st.integers(0, 99), lost=st.booleans())
    def commits(self, choice: int, lost: bool) -> None:
        actor, model = self.pick(choice, "executes"), self.model
        self.acts(self.executing().index(actor))
        state = Completed(data=actor.name)
        if self.effect is EffectClass.PURE:
            self._publishes(actor, state)
            return
        told = self._written(actor, lambda: actor.run.commit(state), lost=lost)
        assert told is None or told.result() == actor.name
        model.becomes(S.COMMITTED)
        model.result = actor.name
        model.told.add(actor.name)
        actor.stage = "over"
        self.count("commits")

    def _publishes(self, actor: Actor, state: Any) -> None:
        model = self.model
        told = actor.run.publish(state).result()
        self.count("publishes" if self.lands(actor) else "publishes too late")
        if self.lands(actor):
            model.becomes(S.COMMITTED, actor)
            model.result = actor.name
        actor.stage = "over"
        assert told == (model.result if model.state is S.COMMITTED else actor.name)

    @precondition(lambda self: self.effect is not EffectClass.PURE and self.any_in("executes"))
    @rule(choice=st.integers(0, 99), lost=st.booleans(), raises=st.booleans())
    def releases(self, choice: int, lost: bool, raises: bool) -> None:
        """The code raises, or is told to go before it began: it says that it did nothing."""
        actor = self.pick(choice, "executes")
        if actor.acted:
            return
        failure = Failed(data=ValueError(actor.name)) if raises else None
        self._written(actor, lambda: actor.run.release(failure), lost=lost)
        self.model.becomes(S.RELEASED, failed=raises)
        actor.stage = "over"
        self.count("releases")

    def _written(self, actor: Actor, write: Callable[[], Any], *, lost: bool) -> Any:
        """``write``, made again where its reply was lost."""
        actor.register.armed = lost
        if lost:
            with pytest.raises(StoreUnavailable):
                write()
        return write()

    # ------------------------------------------------------------------ deaths, and what comes after them

    @precondition(lambda self: self.any_in("asks"))
    @rule(choice=st.integers(0, 99))
    def caller_dies(self, choice: int) -> None:
        self.pick(choice, "asks").die()

    @precondition(lambda self: self.any_in("executes"))
    @rule(choice=st.integers(0, 99), sent=st.booleans(), acts=st.booleans())
    def dies(self, choice: int, sent: bool, acts: bool) -> None:
        """Before its effect or after it; what it had sent last may arrive later."""
        if acts:
            self.acts(choice)
        actor = self.pick(choice, "executes")
        entry = actor.known()
        if sent and self.effect is not EffectClass.PURE:
            fields = {"outcome": "completed", "result": self.sealed(actor.name)} if actor.acted else {}
            event, register = (E.COMMIT if actor.acted else E.RELEASE), self.backend.register

            def deliver() -> Any:
                return register.change(actor.run.key, entry, event, self.effect, **fields)

            self.flying.append(Flying(actor, event, fields, deliver))
        actor.die()
        self.count("dies")

    @precondition(lambda self: self.flying)
    @rule(choice=st.integers(0, 99))
    def arrives_late(self, choice: int) -> None:
        late = self.flying.pop(choice % len(self.flying))
        lands = self.lands(late.actor)
        assert (late.deliver() is not None) is lands, "a late write counts only where nobody wrote since"
        self.count("late, and counts" if lands else "late, and does not count")
        if lands:
            self.model.becomes(S.COMMITTED if late.event is E.COMMIT else S.RELEASED)
            self.model.result = late.actor.name if late.event is E.COMMIT else self.model.result

    @precondition(lambda self: self.model.state is S.INTENT and self.model.holder.is_out_of_sight)
    @rule()
    def person_says_that_it_has_ended(self) -> None:
        self.parked.say_ended(self.key)
        self.model.becomes(S.PARKED)
        self.model.refused_until = RegisterMachine.ahead + HORIZON
        self.count("a person says that it has ended")

    @precondition(lambda self: self.model.state is S.PARKED)
    @rule(epoch_is_right=st.integers(0, 4).map(bool))
    def person_decides(self, epoch_is_right: bool) -> None:
        """Truthfully, of the execution that was looked at."""
        model = self.model
        happened = [name for epoch, name in model.effects if epoch == model.epoch]
        looked_at = model.epoch if epoch_is_right else model.epoch + 1

        def say() -> None:
            if happened:
                self.parked.say_applied(self.key, happened[-1], looked_at)
            else:
                self.parked.say_not_applied(self.key, looked_at)

        early = not happened and RegisterMachine.ahead < model.refused_until
        if early or not epoch_is_right:
            with pytest.raises(NotPossible):
                say()
            self.count("a person may not decide")
            return
        say()
        self.count("a person decides")
        model.becomes(S.COMMITTED if happened else S.RELEASED)
        model.result = happened[-1] if happened else model.result

    @precondition(lambda self: self.model.refused_until > RegisterMachine.ahead)
    @rule()
    def time_passes(self) -> None:
        """Requests that were under way have arrived, or never do."""
        RegisterMachine.ahead += HORIZON

    @precondition(lambda self: self.model.state is S.COMMITTED)
    @rule()
    def retention_is_over(self) -> None:
        register = self.backend.register
        assert register.change(self.key, register.read(self.key), E.BURY, self.effect, result=b"") is not None
        self.model.becomes(S.GRAVE)
        self.count("buried")

    # ------------------------------------------------------------------ what holds

    def sealed(self, value: str) -> bytes:
        return self.backend.codec.encode(value, "result", self.backend.register.path(self.key))

    def is_told(self, actor: Actor, answer: Any) -> None:
        assert isinstance(answer, State), "it may not begin"
        assert answer.result() == self.model.result, "two results of one key"
        self.model.told.add(self.model.result)
        actor.stage = "over"

    def executing(self) -> list[Actor]:
        return [actor for actor in self.actors if actor.stage == "executes"]

    @invariant()
    def register_is_as_modelled(self) -> None:
        if not hasattr(self, "key") or not self.touched:
            return
        self.touched = False
        model, entry = self.model, self.backend.register.read(self.key)
        if entry is None:
            assert model.state is S.ABSENT
            return
        record = entry.record
        assert (record.state, record.epoch) == (model.state, model.epoch)
        if model.state is S.INTENT:
            assert model.holder is not None
            assert record.holder == model.holder.holder
        if model.state is S.COMMITTED:
            path = self.backend.register.path(self.key)
            assert values.open_value(self.backend, record.result, "result", path) == model.result

    @invariant()
    def effects_are_as_the_class_promises(self) -> None:
        if not hasattr(self, "key") or self.effect is EffectClass.PURE:
            return
        epochs = [epoch for epoch, _ in self.model.effects]
        assert epochs == sorted(set(epochs)), "two effects of one token, or one behind a later one"
        assert self.effect is not EffectClass.AT_MOST_ONCE or len(epochs) <= 1, "an effect of at_most_once, twice"
        assert len(self.model.told) <= 1, "callers were told different results"

    def teardown(self) -> None:
        if hasattr(self, "key") and sys.exc_info()[0] is None:
            self.end_key()
        for actor in getattr(self, "actors", []):
            actor.leave()

    def end_key(self) -> None:
        try:
            self.everything_ends()
        finally:
            for actor in self.actors:
                actor.leave()
            self.actors.clear()

    def everything_ends(self) -> None:
        """Ordinary steps lead to an end: whoever holds it commits or dies, a person decides, and somebody is told."""
        for actor in self.executing():
            self.commits(self.executing().index(actor), False)
        for _ in range(4):
            if self.model.state is S.INTENT:
                assert self.model.holder is not None
                self.model.holder.die()
                if self.model.holder.elsewhere:
                    self.person_says_that_it_has_ended()
            if self.model.state is S.PARKED:
                self.time_passes()
                self.person_decides(True)
            self.arrives(1)
            last = len([actor for actor in self.actors if actor.stage == "asks"]) - 1
            self.asks(last, False)
            for actor in self.executing():
                self.commits(self.executing().index(actor), False)
            if self.model.state in (S.COMMITTED, S.GRAVE):
                break
        self.touched = True
        self.register_is_as_modelled()
        self.effects_are_as_the_class_promises()
        assert self.model.state in (S.COMMITTED, S.GRAVE), "it does not come to an end"

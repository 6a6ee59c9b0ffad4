"""What a rollback undid does not stay done for its key."""

from __future__ import annotations

from typing import Any

import pytest

from kapstan import backend, flow, task
from kapstan.cache_policies import INPUTS
from kapstan.context import get_run_context
from kapstan.engine import flow_engine
from kapstan.engine.execution import TaskExecution
from kapstan.engine.flow_run import FlowRun
from kapstan.engine.undoing import Undoable
from kapstan.errors import HandBack
from kapstan.ids import new_id
from kapstan.ports import RegisterEvent, RegisterState
from kapstan.states import State
from kapstan.transactions import Transaction, transaction

told: list[str] = []
bank = {"open": True}


@pytest.fixture(autouse=True)
def nothing_told() -> None:
    told.clear()
    bank["open"] = True


def pay(who: str) -> str:
    token = get_run_context().fencing_token
    told.append(f"pay {who} {token}")
    return f"paid {who} {token}"


def refund(txn: Transaction) -> None:
    if not bank["open"]:
        raise OSError("the bank is closed")
    told.append(f"refund {txn.parameters['who']}")


CLASSES: dict[str, Any] = {
    name: task(pay, name=f"txnreg.{name}", cache_policy=INPUTS, effect=name, on_rollback=[refund])
    for name in ("pure", "idempotent", "at_most_once", "transactional")
}


class Undo(Exception):
    pass


@pytest.mark.parametrize("name", CLASSES)
def test_what_was_undone_is_executed_anew_by_the_next_call(name: str) -> None:
    charge = CLASSES[name]
    with pytest.raises(Undo), transaction():  # noqa: PT012
        charge("ada")
        charge("bob")
        raise Undo
    assert told[2:] == ["refund bob", "refund ada"]
    assert charge("ada", return_state=True).name == "Completed"
    assert charge("ada", return_state=True).name == "Cached"
    tokens = ("None", "None") if name == "pure" else (1, 2)
    assert [line for line in told if line.startswith("pay ada")] == [f"pay ada {token}" for token in tokens]


@pytest.mark.parametrize("name", ["pure", "at_most_once"])
def test_what_has_no_hook_for_a_rollback_was_not_undone(name: str) -> None:
    charge = task(pay, name=f"txnreg.{name}_kept", cache_policy=INPUTS, effect=name)
    with pytest.raises(Undo), transaction():  # noqa: PT012
        charge("ada")
        raise Undo
    assert charge("ada", return_state=True).name == "Cached"


def test_what_was_cached_before_is_not_undone() -> None:
    charge = CLASSES["at_most_once"]
    charge("cyd")
    with pytest.raises(Undo), transaction():  # noqa: PT012
        assert charge("cyd", return_state=True).name == "Cached"
        raise Undo
    assert charge("cyd", return_state=True).name == "Cached"
    assert told == ["pay cyd 1"]


def test_what_its_hook_did_not_undo_stays_done() -> None:
    charge = CLASSES["idempotent"]
    bank["open"] = False
    with pytest.raises(Undo), transaction():  # noqa: PT012
        charge("dan")
        raise Undo
    assert charge("dan", return_state=True).name == "Cached"


def test_what_an_eager_one_committed_stays_done() -> None:
    charge = CLASSES["at_most_once"]
    with pytest.raises(Undo), transaction():  # noqa: PT012
        with transaction(commit_mode="EAGER"):
            charge("eve")
        raise Undo
    assert charge("eve", return_state=True).name == "Cached"


def test_a_flow_that_starts_over_pays_again() -> None:
    charge = CLASSES["at_most_once"]

    @flow(name="txnreg.starts_over", retries=1)
    def starts_over() -> str:
        with transaction():
            paid = charge("fay")
            if len(told) == 1:
                raise Undo
        return paid

    assert starts_over() == "paid fay 2"
    assert told == ["pay fay 1", "refund fay", "pay fay 2"]


def test_a_task_that_is_tried_again_pays_again() -> None:
    charge = CLASSES["at_most_once"]

    @task(name="txnreg.tries", retries=1)
    def tries() -> str:
        paid = charge("gus")
        if len(told) == 1:
            raise Undo
        return paid

    @flow(name="txnreg.tries_in_flow")
    def in_flow() -> str:
        with transaction():
            return tries()

    assert in_flow() == "paid gus 2"
    assert told == ["pay gus 1", "refund gus", "pay gus 2"]


def test_a_flow_whose_hook_fails_parks_and_releases_nothing() -> None:
    charge = CLASSES["at_most_once"]
    bank["open"] = False

    @flow(name="txnreg.parks")
    def parks() -> None:
        with transaction():
            charge("hal")
            raise Undo

    assert parks(return_state=True).name == "Parked"
    assert charge("hal", return_state=True).name == "Cached"


def test_only_what_was_looked_at_is_released() -> None:
    """A rollback that was overtaken: the key was undone by another attempt, and paid for again by the same run."""
    charge = CLASSES["at_most_once"]
    undoable: list[Undoable] = []
    with transaction() as txn:
        charge("ida")
        undoable += [member.undoable for member in txn.members() if member.undoable is not None]
    (late,) = undoable
    register = backend.current().register
    seen = late.found()
    assert seen is not None
    released = register.change(late.key, seen, RegisterEvent.UNDO, late.effect, outcome="", result=b"")
    again = register.change(late.key, released, RegisterEvent.BEGIN, late.effect, holder=seen.record.holder)
    register.change(late.key, again, RegisterEvent.COMMIT, late.effect, outcome="completed", result=seen.record.result)
    late.release(seen, "too late")
    found = register.read(late.key)
    assert found is not None
    assert (found.record.state, found.record.epoch) == (RegisterState.COMMITTED, 2)


@pytest.mark.parametrize("name", ["pure", "at_most_once"])
def test_its_own_commit_that_the_journal_does_not_have_is_undone_too(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first attempt ends between the commit of the key and the outcome in the journal."""
    charge, lost = CLASSES[name], [True]
    keep = FlowRun.keep

    def keeps(self: FlowRun, execution: TaskExecution, state: State) -> Any:
        if execution.spec is charge.spec and lost.pop():
            raise HandBack("SIGTERM")
        return keep(self, execution, state)

    monkeypatch.setattr(FlowRun, "keep", keeps)

    @flow(name=f"txnreg.own_{name}")
    def own() -> None:
        with transaction():
            charge("jil")
            raise Undo

    run_id = new_id()
    with pytest.raises(HandBack):
        flow_engine.run(flow_engine.make_run(own.spec, run_id, {}), attempt=1)
    lost.append(False)
    state = flow_engine.run(flow_engine.make_run(own.spec, run_id, {}), attempt=2)
    assert isinstance(state.result(raise_on_failure=False), Undo)
    assert [line.rpartition(" ")[0] if "pay" in line else line for line in told] == ["pay jil", "refund jil"]
    assert charge("jil", return_state=True).name == "Completed"

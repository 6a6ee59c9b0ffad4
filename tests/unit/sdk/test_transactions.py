"""What a transaction does, without a crash: which hooks are called, in which order, with what."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from kapstan import flow, task
from kapstan.errors import ConfigurationError, TaskTimeout, TransactionError, ValueTooLarge
from kapstan.transactions import CommitMode, Transaction, get_transaction, transaction

told: list[Any] = []


@pytest.fixture(autouse=True)
def nothing_told() -> None:
    told.clear()


class undone:  # noqa: N801
    """What it holds raises ZeroDivisionError."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, where: Any) -> bool:
        assert isinstance(error, ZeroDivisionError), error
        return True


@task(name="txn.charge")
def charge(who: str) -> str:
    found = get_transaction()
    assert found is not None
    found.set("receipt", {"of": who})
    told.append(f"charge {who}")
    return f"charged {who}"


@charge.on_commit
def _confirm(txn: Transaction) -> None:
    told.append(f"confirm {txn.result}")


@charge.on_rollback
def _refund(txn: Transaction) -> None:
    told.append(f"refund {txn.get('receipt')['of']} {txn.parameters['who']}")


@task(name="txn.ship")
def ship(fails: bool = False) -> None:
    told.append("ship")
    if fails:
        raise RuntimeError("no van")


@ship.on_rollback
async def _recall(txn: Transaction) -> None:
    await asyncio.sleep(0)
    told.append("recall")


@flow(name="txn.buy")
def buy(fails: bool) -> str:
    scope = transaction()
    txn = scope.__enter__()
    error: RuntimeError | None = None
    try:
        charge("ada")
        charge.submit("bob")
        ship(False)
        ship(fails)
    except RuntimeError as raised:
        error = raised
    scope.__exit__(type(error), error, None)
    return f"{txn.state} {error}"


def test_what_completed_is_committed_at_the_end() -> None:
    assert buy(False) == "COMMITTED None"
    assert set(told[:2]) == {"charge ada", "charge bob"} or told[0] == "charge ada"
    assert sorted(told[-2:]) == ["confirm charged ada", "confirm charged bob"]
    assert told.count("ship") == 2
    assert not [line for line in told if line.startswith(("refund", "recall"))]


def test_a_body_that_raises_is_undone_the_last_task_first() -> None:
    assert buy(True) == "ROLLED_BACK no van"
    assert told[-3:].count("recall") == 1  # of the one that completed; the one that raised has nothing to undo
    assert sorted(line for line in told if line.startswith("refund")) == ["refund ada ada", "refund bob bob"]
    assert not [line for line in told if line.startswith("confirm")]


def test_outside_of_a_flow_too() -> None:
    with undone(), transaction():
        charge("ada")
        charge("bob")
        raise ZeroDivisionError
    assert told == ["charge ada", "charge bob", "refund bob bob", "refund ada ada"]


def test_in_asyncio() -> None:
    @task(name="txn.acharge")
    async def acharge(who: str) -> None:
        told.append(f"charge {who}")

    @acharge.on_rollback
    async def back(txn: Transaction) -> None:
        told.append(f"refund {txn.parameters['who']}")

    async def main() -> None:
        async with transaction():
            await asyncio.gather(acharge("ada"), acharge("bob"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(main())
    assert told == ["charge ada", "charge bob", "refund bob", "refund ada"]


def test_without_a_transaction_a_task_commits_alone() -> None:
    charge_alone = charge.with_options(name="txn.alone")

    @flow(name="txn.no_transaction")
    def alone() -> None:
        charge_alone("ada")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        alone()
    assert told == ["charge ada", "confirm charged ada"]


def test_a_nested_one_goes_with_the_outer_one_unless_it_is_eager() -> None:
    inner: list[Transaction] = []
    with undone(), transaction():
        with transaction(commit_mode=CommitMode.EAGER) as eager:
            charge("eager")
        with transaction() as lazy:
            charge("lazy")
        assert lazy.is_staged()
        inner += eager, lazy
        raise ZeroDivisionError
    assert [txn.state for txn in inner] == ["COMMITTED", "ROLLED_BACK"]
    assert told == ["charge eager", "confirm charged eager", "charge lazy", "refund lazy lazy"]


def test_a_nested_one_that_is_undone_takes_the_outer_one_with_it() -> None:
    with transaction() as outer:
        charge("ada")
        with undone(), transaction():
            raise ZeroDivisionError
    assert outer.is_rolled_back()
    assert told == ["charge ada", "refund ada ada"]


def test_with_the_mode_off_the_code_commits() -> None:
    with transaction(commit_mode="OFF") as txn:
        charge("ada")
    assert txn.is_rolled_back()
    with transaction(commit_mode="OFF") as txn:
        charge("bob")
        txn.commit()
    assert txn.is_committed()
    assert told == ["charge ada", "refund ada ada", "charge bob", "confirm charged bob"]
    with pytest.raises(TransactionError, match="it is over"):
        txn.rollback()


def test_a_hook_that_raises_keeps_no_other_from_its_call(caplog: pytest.LogCaptureFixture) -> None:
    def fails(txn: Transaction) -> None:
        raise OSError("no bank")

    with undone(), transaction() as txn:
        charge("ada")
        txn.stage(on_rollback_hooks=[fails])
        charge("bob")
        raise ZeroDivisionError
    assert told[2:] == ["refund bob bob", "refund ada ada"]
    assert "no bank" in caplog.text


def test_what_is_set_is_read_inwards_as_a_copy() -> None:
    with transaction() as outer:
        outer.set("list", [1])
        with transaction() as inner:
            inner.get("list").append(2)
            assert inner.get("list") == [1]
            inner.set("own", 1)
        with pytest.raises(ValueError, match="nothing was set as 'own' in this transaction; it has list"):
            outer.get("own")
        assert outer.get("own", 5) == 5
        assert get_transaction() is outer
    assert get_transaction() is None


def test_what_a_task_calls_is_committed_with_it_and_undone_where_it_fails() -> None:
    tries: list[int] = []

    @task(name="txn.trip", retries=1)
    def trip() -> None:
        charge(f"try {len(tries)}")
        tries.append(1)
        if len(tries) == 1:
            raise RuntimeError("the first try")

    @flow(name="txn.travel")
    def travel() -> None:
        with undone(), transaction():
            trip()
            raise ZeroDivisionError

    travel()
    assert told == ["charge try 0", "refund try 0 try 0", "charge try 1", "confirm charged try 1"]


@pytest.mark.parametrize("mode", ["eager", 1, "NEVER"])
def test_a_wrong_mode_is_named(mode: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"give one of EAGER, LAZY, OFF"):
        transaction(commit_mode=mode)


def test_hooks_are_options_too() -> None:
    def first(txn: Transaction) -> None:
        told.append("first")

    hooked = ship.with_options(name="txn.hooked", on_rollback=[first])
    with undone(), transaction():
        hooked()
        raise ZeroDivisionError
    assert told == ["ship", "first"]
    with pytest.raises(ConfigurationError, match="on_rollback=5: give functions of one argument"):
        ship.with_options(on_rollback=5)  # type: ignore[arg-type]


def test_a_flow_that_starts_over_does_what_was_undone_again() -> None:
    @flow(name="txn.starts_over", retries=1)
    def starts_over() -> str:
        with transaction():
            charge("ada")
            ship(told.count("ship") == 0)
        return "shipped"

    assert starts_over() == "shipped"
    assert told == ["charge ada", "ship", "refund ada ada", "charge ada", "ship", "confirm charged ada"]


def test_what_cannot_be_kept_for_the_hooks_is_refused_where_it_is_set() -> None:
    @task(name="txn.sets")
    def sets(value: Any) -> None:
        found = get_transaction()
        assert found is not None
        found.set("value", value)

    @flow(name="txn.sets_much")
    def sets_much() -> None:
        with transaction():
            sets("x" * 300_000)

    with pytest.raises(ValueTooLarge, match=r"with 'value' the values of this transaction have 300,012 bytes"):
        sets_much()


def test_a_rollback_whose_hook_fails_parks_the_flow_and_a_resume_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    bank = {"open": False}

    @task(name="txn.careful")
    def careful() -> None:
        told.append("charge")

    @careful.on_rollback
    def back(txn: Transaction) -> None:
        if not bank["open"]:
            raise OSError("the bank is closed")
        told.append("refund")

    @flow(name="txn.parks")
    def parks() -> None:
        with transaction():
            charge("ada")
            careful()
            raise ZeroDivisionError

    state = parks(return_state=True)
    assert state.name == "Parked"
    assert "a rollback is not complete (ZeroDivisionError: )" in state.message
    assert "back of task run 'txn.careful" in state.message
    assert "the bank is closed" in state.message
    assert told == ["charge ada", "charge", "refund ada ada"]  # the others were called


@pytest.mark.parametrize("kind", ["flow", "task", "async"])
def test_a_rollback_goes_to_its_end_when_the_time_is_up(kind: str) -> None:
    """The time is up while the body waits, and again, as code that goes on is told each second, in the hook."""

    @task(name=f"txn.limited_{kind}")
    def limited() -> None:
        told.append("charge")

    @limited.on_rollback
    def back(txn: Transaction) -> None:
        told.append("refund begins")
        threading.Event().wait(1.2)
        told.append("refund ends")

    def body() -> None:
        with transaction():
            limited()
            threading.Event().wait(20)

    async def abody() -> None:
        async with transaction():
            limited()
            await asyncio.Event().wait()

    if kind == "task":
        slow = task(body, name="txn.limited_body", timeout_seconds=1.0)
        runs = flow(lambda: slow(), name="txn.limited_outer")  # noqa: PLW0108  (a flow of a task)
    else:
        runs = flow(abody if kind == "async" else body, name=f"txn.limited_flow_{kind}", timeout_seconds=1.0)
    call: Any = runs
    with pytest.raises(TaskTimeout):
        asyncio.run(call()) if kind == "async" else call()
    assert told == ["charge", "refund begins", "refund ends"]


def test_a_subflow_is_no_part_of_it() -> None:
    @flow(name="txn.inner_flow")
    def inner() -> None:
        charge("ada")

    @flow(name="txn.outer_flow")
    def outer() -> None:
        with undone(), transaction():
            inner()
            raise ZeroDivisionError

    outer()
    assert told == ["charge ada", "confirm charged ada"]

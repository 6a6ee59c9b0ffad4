"""Transactions with a key: committed once, found by the next one, ordered by a lock where that is asked for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest

from kapstan import flow, records, task
from kapstan.engine import flow_engine
from kapstan.errors import (
    ConfigurationError,
    HandBack,
    MissingResult,
    SerializationError,
    TransactionError,
    TransactionRolledBack,
)
from kapstan.flows import Flow
from kapstan.ids import RunId, new_id
from kapstan.locking import MemoryLockManager
from kapstan.results import ResultStore
from kapstan.states import State
from kapstan.transactions import IsolationLevel, Transaction, get_transaction, transaction

told: list[str] = []


@pytest.fixture(autouse=True)
def nothing_told() -> None:
    told.clear()


@pytest.fixture
def locking() -> ResultStore:
    return ResultStore(lock_manager=MemoryLockManager())


@task(name="txnkey.pay")
def pay(who: str) -> str:
    told.append(f"pay {who}")
    return who


@pay.on_commit
def _confirm(txn: Transaction) -> None:
    told.append(f"confirm {txn.result}")


@pay.on_rollback
def _refund(txn: Transaction) -> None:
    told.append(f"refund {txn.result}")


def order(who: str, **options: Any) -> Any:
    """What the transaction of this key came to."""
    with transaction(f"orders/{who}", **options) as txn:
        if txn.is_committed():
            record = txn.read()
            assert record is not None
            return record.result
        txn.stage({"paid": pay(who)})
    return "new"


def test_what_was_committed_is_found_by_the_next_one() -> None:
    assert order("ada") == "new"
    assert order("ada") == {"paid": "ada"}
    assert order("bob") == "new"
    assert told == ["pay ada", "confirm ada", "pay bob", "confirm bob"]
    assert ResultStore().read("orders/ada").result == {"paid": "ada"}


def test_overwrite_does_it_again_and_write_on_commit_off_stores_nothing() -> None:
    assert [order("cyd"), order("cyd", overwrite=True)] == ["new", "new"]
    assert [order("dan", write_on_commit=False), order("dan")] == ["new", "new"]
    assert told.count("pay cyd") == told.count("pay dan") == 2


def test_what_was_undone_is_not_stored() -> None:
    with pytest.raises(ZeroDivisionError), transaction("undone"):  # noqa: PT012
        pay("ada")
        raise ZeroDivisionError
    with transaction("undone", commit_mode="OFF") as txn:
        assert not txn.is_committed()
    with transaction("undone") as txn:
        assert not txn.is_committed()
        with pytest.raises(MissingResult):
            txn.read()


def test_a_nested_one_is_stored_with_the_outermost() -> None:
    store = ResultStore()
    with transaction(), transaction("inner") as inner:
        inner.stage(1)
    assert store.read("inner").result == 1
    with pytest.raises(ZeroDivisionError), transaction():  # noqa: PT012
        with transaction("undone with the outer one"):
            pay("ada")
        with transaction("eager", commit_mode="EAGER") as eager:
            eager.stage(2)
        raise ZeroDivisionError
    assert not store.exists("undone with the outer one")
    assert store.read("eager").result == 2


def test_what_is_called_in_one_that_was_found_is_no_part_of_it() -> None:
    with transaction("found"):
        pass
    with pytest.raises(ZeroDivisionError), transaction():  # noqa: PT012
        with transaction("found") as found:
            assert found.is_committed()
            assert get_transaction() is found
            pay("ada")
        raise ZeroDivisionError
    assert told == ["pay ada", "refund ada"]
    with transaction("found"):
        pay("bob")
    assert told[2:] == ["pay bob", "confirm bob"]


def test_a_value_that_cannot_be_stored_undoes_it(locking: ResultStore) -> None:
    scope = transaction("lock", locking, isolation_level="SERIALIZABLE")
    with pytest.raises(SerializationError), scope as txn:  # noqa: PT012
        pay("ada")
        txn.stage(threading.Lock())
    assert txn.is_rolled_back()
    assert told == ["pay ada", "refund ada"]
    assert not locking.is_locked("lock")


@pytest.mark.parametrize("bad", ["outer", "a", "b"])
@pytest.mark.parametrize("where", ["alone", "flow"])
def test_of_those_in_one_another_all_are_stored_or_none(where: str, bad: str) -> None:
    def staged(name: str) -> Any:
        return threading.Lock() if name == bad else name

    def body() -> None:
        with transaction(f"{where} {bad}/outer") as outer:
            pay("ada")
            for name in "ab":
                with transaction(f"{where} {bad}/{name}", overwrite=True) as txn:
                    txn.stage(staged(name))
            outer.stage(staged("outer"))

    with pytest.raises(SerializationError):
        flow(body, name=f"txnkey.all_{bad}")() if where == "flow" else body()
    assert told == ["pay ada", "refund ada"]
    assert [ResultStore().exists(f"{where} {bad}/{name}") for name in ("outer", "a", "b")] == [False] * 3


@pytest.mark.parametrize("where", ["with", "async with"])
@pytest.mark.parametrize("expired", [False, True])
def test_of_two_that_commit_at_once_the_first_counts(
    monkeypatch: pytest.MonkeyPatch, where: str, expired: bool
) -> None:
    """The other one commits when this one has seen that nothing is there, and has not stored its own yet."""
    key, found, armed = f"at once/{where}/{expired}", records.found, list[bool]()
    if expired:
        ResultStore().write("over", key, expiration=timedelta(0))

    def commit(value: str) -> None:
        with transaction(key) as txn:
            assert not txn.is_committed()
            txn.stage(value)
            armed.extend([True] * (value == "second"))

    @contextmanager
    def overtaken(*arguments: Any) -> Iterator[Any]:
        with found(*arguments) as there:
            if armed:
                armed.clear()
                commit("first")
            yield there

    async def body() -> None:
        async with transaction(key) as txn:
            txn.stage("second")
            armed.append(True)

    monkeypatch.setattr(records, "found", overtaken)
    if where == "with":
        commit("second")
    else:
        asyncio.run(body())
    assert not armed
    assert ResultStore().read(key).result == "first"


def test_a_task_whose_key_cannot_be_stored_has_failed() -> None:
    @task(name="txnkey.keeps_a_lock")
    def keeps_a_lock() -> None:
        with transaction("lock in a task") as txn:
            pay("ada")
            txn.stage(threading.Lock())

    with transaction():
        assert isinstance(keeps_a_lock(return_state=True).result(raise_on_failure=False), SerializationError)
    assert told == ["pay ada", "refund ada"]


@pytest.mark.parametrize("ends", ["commits", "raises"])
def test_the_next_one_waits_and_sees_how_it_ended(locking: ResultStore, ends: str) -> None:
    results: list[Any] = []
    other = threading.Thread(
        target=lambda: results.append(order("eve", store=locking, isolation_level=IsolationLevel.SERIALIZABLE))
    )
    scope = transaction("orders/eve", locking, isolation_level=IsolationLevel.SERIALIZABLE)
    with pytest.raises(ZeroDivisionError), scope as first:  # noqa: PT012
        other.start()
        first.stage("first")
        assert locking.is_lock_holder("orders/eve", first.keyed.holder if first.keyed else "")
        if ends == "commits":
            first.commit()
        raise ZeroDivisionError
    other.join()
    assert results == (["first"] if ends == "commits" else ["new"])
    assert not locking.is_locked("orders/eve")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"key": ""}, "give a relative path"),
        ({"key": 5}, "give a relative path"),
        ({"isolation_level": "SERIALIZABLE"}, "there is nothing to lock; give a key"),
        ({"isolation_level": "NONE"}, "give one of READ_COMMITTED, SERIALIZABLE"),
        ({"key": "x", "isolation_level": "SERIALIZABLE"}, "its store has no lock manager; give store=ResultStore"),
    ],
)
def test_what_cannot_be_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message), transaction(**options):
        pass


def test_the_options_of_the_outer_one_are_the_inner_ones(locking: ResultStore) -> None:
    with transaction("outer", locking, isolation_level="SERIALIZABLE"), transaction("inner") as inner:
        assert (inner.store, inner.isolation_level) == (locking, "SERIALIZABLE")
        assert locking.is_locked("inner")
        with pytest.raises(TransactionError, match="a transaction around it has this key"):
            transaction("outer").__enter__()
    assert not locking.is_locked("inner")
    assert not locking.is_locked("outer")


# ---------------------------------------------------------------------------------------------- in a flow


def attempt(of: Flow[..., Any], run_id: RunId, number: int) -> State:
    return flow_engine.run(flow_engine.make_run(of.spec, run_id, {}), attempt=number)


@pytest.mark.parametrize("other", [True, False])
def test_an_attempt_that_goes_on_does_not_take_its_own_key_for_anothers(locking: ResultStore, other: bool) -> None:
    """Its lock was free meanwhile; another run may have had the key."""
    stops = [True]

    @flow(name="txnkey.goes_on")
    def goes_on() -> Any:
        with transaction("goes on", locking, isolation_level="SERIALIZABLE") as txn:
            if txn.is_committed():
                return "found"
            pay("ada")
            if stops.pop():
                raise HandBack("SIGTERM")
            txn.stage(pay("bob"))
        return "new"

    run_id = new_id()
    with pytest.raises(HandBack):
        attempt(goes_on, run_id, 1)
    assert not locking.is_locked("goes on")
    stops.append(False)
    if other:
        with transaction("goes on", locking) as txn:
            txn.stage("the other one")
        state = attempt(goes_on, run_id, 2)
        assert isinstance(state.result(raise_on_failure=False), TransactionRolledBack)
        assert told == ["pay ada", "refund ada"]
        assert locking.read("goes on").result == "the other one"
    else:
        assert attempt(goes_on, run_id, 2).result() == "new"
        assert told == ["pay ada", "pay bob", "confirm ada", "confirm bob"]
        assert locking.read("goes on").result == "bob"
    assert not locking.is_locked("goes on")


def test_what_was_found_is_found_again_whatever_became_of_it() -> None:
    store = ResultStore()
    store.write("first", "found once")
    stops = [False, True]

    @flow(name="txnkey.found_again")
    def found_again() -> Any:
        with transaction("found once", overwrite=False) as txn:
            assert txn.is_committed()
        if stops.pop():
            store.write("other", "found once")
            raise HandBack("SIGTERM")
        return "done"

    run_id = new_id()
    with pytest.raises(HandBack):
        attempt(found_again, run_id, 1)
    assert attempt(found_again, run_id, 2).result() == "done"


def test_a_flow_that_starts_over_looks_anew() -> None:
    @flow(name="txnkey.starts_over", retries=1)
    def starts_over() -> Any:
        with transaction("starts over") as txn:
            if txn.is_committed():
                return "found"
            ResultStore().write("another's", "starts over")
            raise ZeroDivisionError

    assert starts_over() == "found"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"store": 5}, r"store=5\): give a kapstan.results.ResultStore"),
        ({"store": "s3://lake"}, r"store='s3://lake'\): give a kapstan.results.ResultStore"),
        ({"store": ResultStore}, r"store=<class .*\): give a kapstan.results.ResultStore"),
        ({"overwrite": "no"}, r"overwrite='no'\): give True or False"),
        ({"write_on_commit": None}, r"write_on_commit=None\): give True or False"),
    ],
)
def test_what_a_transaction_cannot_take_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        transaction("a", **options)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("key", ["values/x", "a/../b", "x" * 300, "a\ud800b"])
def test_a_key_that_cannot_be_is_refused_before_the_body(key: str, overwrite: bool) -> None:
    with (
        pytest.raises(ConfigurationError, match=r"the key .* of a result cannot be"),
        transaction(key, overwrite=overwrite),
    ):
        pay("ada")
    assert told == []


@pytest.mark.parametrize("hooks", [5, [5], "hook", ["hook"]])
def test_a_hook_that_cannot_be_called_is_refused_when_it_is_staged(hooks: Any) -> None:
    with transaction() as txn:
        for options in ({"on_rollback_hooks": hooks}, {"on_commit_hooks": hooks}):
            with pytest.raises(ConfigurationError, match=r"stage\(on_.*_hooks\)=.*: give functions of one argument"):
                txn.stage(1, **options)

"""Transactions used in ways that are easy to get wrong: calls that outlive them, hooks that end in odd ways, results
that a later attempt does not have."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from kapstan import flow, task
from kapstan.engine import flow_engine
from kapstan.errors import HandBack, SerializationError, TransactionError
from kapstan.flows import Flow
from kapstan.ids import RunId, new_id
from kapstan.states import State
from kapstan.transactions import Transaction, transaction

told: list[str] = []


@pytest.fixture(autouse=True)
def nothing_told() -> None:
    told.clear()


class Undo(Exception):
    pass


def refund(txn: Transaction) -> None:
    told.append(f"refund {txn.parameters['who']} {txn.result}")


@task(name="txnedge.charge", on_rollback=[refund])
def charge(who: str) -> str:
    told.append(f"charge {who}")
    return who.upper()


def attempt(of: Flow[..., Any], run_id: RunId, number: int, on_stop: Callable[[], object] | None = None) -> State:
    run = flow_engine.make_run(of.spec, run_id, {})
    run.on_stop = on_stop
    return flow_engine.run(run, attempt=number)


# ---------------------------------------------------------------------------------------------- calls that outlive it


def slow(gate: asyncio.Event) -> Any:
    async def body(who: str) -> str:
        await gate.wait()
        told.append(f"charge {who}")
        return who.upper()

    return task(body, name="txnedge.slow", on_rollback=[refund])


@pytest.mark.parametrize("where", ["flow", "outside"])
@pytest.mark.parametrize("kind", ["async with", "with"])
def test_what_completes_after_its_transaction_is_undone_by_itself(where: str, kind: str) -> None:
    """``gather`` raises at the first failure, while its other calls go on."""

    async def body() -> None:
        gate = asyncio.Event()
        late = asyncio.ensure_future(asyncio.sleep(0))

        async def fails() -> None:
            await asyncio.sleep(0)
            raise Undo

        async def both() -> None:
            nonlocal late
            late = asyncio.ensure_future(slow(gate)("bob"))
            await asyncio.gather(late, fails())

        with pytest.raises(Undo):  # noqa: PT012
            if kind == "with":
                with transaction():
                    charge("ada")
                    await both()
            else:
                async with transaction():
                    charge("ada")
                    await both()
        told.append("over")
        gate.set()
        with pytest.raises(TransactionError, match="ended after the transaction"):
            await late

    asyncio.run(flow(body, name=f"txnedge.late_{kind}")() if where == "flow" else body())
    assert told == ["charge ada", "refund ada ADA", "over", "charge bob", "refund bob BOB"]


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_nothing_begins_in_one_that_is_over(end: str) -> None:
    with transaction() as txn:
        getattr(txn, end)()
        with pytest.raises(TransactionError, match="called in a transaction that is over"):
            charge("ada")
    assert told == []


def test_a_generator_that_is_closed_in_a_flow_is_undone() -> None:
    def orders() -> Iterator[str]:
        with transaction():
            yield charge("ada")
            yield charge("bob")

    @flow(name="txnedge.closes")
    def closes() -> str:
        items = orders()
        first = next(items)
        items.close()  # type: ignore[attr-defined]
        return first

    assert closes() == "ADA"
    assert told == ["charge ada", "refund ada ADA"]


def test_an_async_generator_that_another_task_closes_is_undone() -> None:
    async def orders() -> AsyncIterator[str]:
        async with transaction():
            yield charge("ada")

    async def main() -> None:
        items = orders()
        await asyncio.create_task(anext(items))  # type: ignore[arg-type]
        await asyncio.create_task(items.aclose())  # type: ignore[attr-defined]

    asyncio.run(main())
    assert told == ["charge ada", "refund ada ADA"]


# ---------------------------------------------------------------------------------------------- hooks


def raising(error: BaseException) -> Any:
    def hook(txn: Transaction) -> None:
        told.append(f"raises {type(error).__name__}")
        raise error

    return hook


@pytest.mark.parametrize("error", [SystemExit(3), GeneratorExit(), asyncio.CancelledError(), KeyError("x")])
@pytest.mark.parametrize("kind", ["with", "async with"])
def test_whatever_a_hook_raises_the_others_are_called(error: BaseException, kind: str) -> None:
    def body() -> None:
        with transaction() as txn:
            charge("ada")
            txn.stage(on_rollback_hooks=[raising(error)])
            raise Undo

    async def on_a_loop() -> None:
        async with transaction() as txn:
            charge("ada")
            txn.stage(on_rollback_hooks=[raising(error)])
            raise Undo

    with pytest.raises(Undo):
        body() if kind == "with" else asyncio.run(on_a_loop())
    assert told == ["charge ada", f"raises {type(error).__name__}", "refund ada ADA"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), HandBack("by the hook"), SystemExit(1)])
def test_in_a_flows_process_a_hook_cannot_end_the_attempt(error: BaseException) -> None:
    """There a signal is noted before it is raised: what was not noted is the hook's own, and parks the run."""

    @flow(name=f"txnedge.ends_{type(error).__name__}")
    def ends() -> None:
        with transaction() as txn:
            charge("ada")
            txn.stage(on_rollback_hooks=[raising(error)])
            raise Undo

    state = attempt(ends, new_id(), 1, on_stop=lambda: None)
    assert state.name == "Parked"
    assert told == ["charge ada", f"raises {type(error).__name__}", "refund ada ADA"]


def says(what: str) -> Callable[[Transaction], object]:
    return lambda _: told.append(what)


def tells(what: str, txn: Transaction) -> None:
    told.append(what)


def test_hooks_of_all_kinds_are_called_once_over_attempts() -> None:
    """Lambdas and partials with one name, generators, bound methods; the first attempt ends in the middle of them."""
    stops = [False, True]

    def stop(txn: Transaction) -> None:
        if stops.pop():
            raise HandBack("SIGTERM")
        told.append("stop")

    def items(txn: Transaction) -> Iterator[None]:
        told.append("generator")
        yield

    async def aitems(txn: Transaction) -> AsyncIterator[None]:
        told.append("async generator")
        yield

    class Bank:
        def undo(self, txn: Transaction) -> None:
            told.append("method")

    hooks: list[Any] = [
        says("first"),
        says("second"),
        functools.partial(tells, "third"),
        functools.partial(tells, "fourth"),
        items,
        stop,
        aitems,
        Bank().undo,
    ]

    @flow(name="txnedge.all_kinds")
    def all_kinds() -> None:
        with transaction() as txn:
            txn.stage(on_rollback_hooks=hooks)
            raise Undo

    run_id = new_id()
    with pytest.raises(HandBack):
        attempt(all_kinds, run_id, 1)
    assert told == ["method", "async generator"]
    attempt(all_kinds, run_id, 2)
    assert told[2:] == ["stop", "generator", "fourth", "third", "second", "first"]


def test_a_limit_within_a_hook_fails_that_hook_alone() -> None:
    @task(name="txnedge.limited", timeout_seconds=0.05)
    def limited() -> None:
        threading.Event().wait(5)

    @flow(name="txnedge.limit_in_a_hook")
    def limit_in_a_hook() -> None:
        with transaction() as txn:
            charge("ada")
            txn.stage(on_rollback_hooks=[lambda _: limited()])
            raise Undo

    state = limit_in_a_hook(return_state=True)
    assert state.name == "Parked"
    assert "TaskTimeout" in state.message or "limit" in state.message
    assert told == ["charge ada", "refund ada ADA"]


# ---------------------------------------------------------------------------------------------- later attempts


def over_two_attempts(pay: Any, name: str) -> State:
    """The first one ends in the first hook."""
    stops = [False, True]

    def stop(txn: Transaction) -> None:
        if stops.pop():
            raise HandBack("SIGTERM")

    @flow(name=name)
    def undone() -> None:
        with transaction() as txn:
            charge("ada")
            told.append(f"got {type(pay('bob')).__name__}")
            charge("cyd")
            txn.stage(on_rollback_hooks=[stop])
            raise Undo

    run_id = new_id()
    with pytest.raises(HandBack):
        attempt(undone, run_id, 1)
    return attempt(undone, run_id, 2)


def test_what_need_not_be_kept_is_kept_for_the_rollback() -> None:
    state = over_two_attempts(charge.with_options(name="txnedge.kept", persist_result=False), "txnedge.keeps")
    assert isinstance(state.data, Undo)
    assert told == [
        *("charge ada", "charge bob", "got str", "charge cyd", "got str"),
        *("refund cyd CYD", "refund bob BOB", "refund ada ADA"),
    ]


def test_a_rollback_that_cannot_find_all_again_does_what_it_can_and_parks() -> None:
    """The result of one task was never stored: the body cannot go on behind it, and its code does not run again."""

    def body(who: str) -> Any:
        told.append(f"charge {who}")
        return threading.Lock()

    state = over_two_attempts(task(body, name="txnedge.lock", on_rollback=[refund]), "txnedge.loses")
    assert state.name == "Parked"
    assert "The result of task run 'txnedge.lock" in state.message
    assert told == ["charge ada", "charge bob", "got lock", "charge cyd", "refund bob None", "refund ada ADA"]


def test_an_off_one_in_a_lazy_one_takes_it_along() -> None:
    with transaction() as outer:
        charge("ada")
        with transaction(commit_mode="OFF"):
            charge("bob")
    assert outer.is_rolled_back()
    assert told == ["charge ada", "charge bob", "refund bob BOB", "refund ada ADA"]


@pytest.mark.parametrize("undone", [False, True])
def test_what_is_staged_when_it_is_over_is_refused(undone: bool) -> None:
    with suppress(Undo), transaction() as txn:
        if undone:
            raise Undo
    with pytest.raises(TransactionError, match="what is staged now would never be called or stored"):
        txn.stage(1, [says("undone")], [says("committed")])
    assert told == []


def test_what_is_staged_in_a_nested_one_that_is_not_over_counts() -> None:
    with transaction():
        with transaction() as inner:
            pass
        inner.stage(on_commit_hooks=[says("committed")])
    assert told == ["committed"]


@pytest.mark.parametrize("where", ["alone", "flow"])
def test_a_value_that_cannot_be_copied_is_named(where: str) -> None:
    def body() -> None:
        with transaction() as txn:
            txn.set("lock", threading.Lock())

    with pytest.raises(SerializationError, match="the value 'lock' cannot be copied for the hooks"):
        flow(body, name="txnedge.lock")() if where == "flow" else body()

"""``persist_result=True`` over every place where results can be: a run whose result is stored is not executed again."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.contract.results.conftest import Place

from kapstan import backend as backends
from kapstan import flow
from kapstan.cache_policies import INPUTS
from kapstan.engine import values
from kapstan.engine.background import BackgroundEngine
from kapstan.errors import IdempotencyConflict, SignatureError
from kapstan.ids import RunId, Token, derived_id, new_id
from kapstan.ports import Claim, Outcome
from kapstan.runs import persisted
from kapstan.specs import TaskSpec
from kapstan.states import EffectClass
from kapstan.tasks import Task

ran: list[int] = []
SIZES = pytest.mark.parametrize("size", [10, 30_000])


@pytest.fixture(autouse=True)
def _anew() -> Iterator[None]:
    yield
    ran.clear()


def text(size: int) -> str:
    ran.append(size)
    return f"{len(ran)}".ljust(size, ".")


def spec_of(place: Place, fn: Callable[..., Any] = text) -> TaskSpec:
    return Task(fn, name="kept", persist_result=True, result_storage=place.storage).spec


def keyed(key: str = "order-7") -> RunId:
    return derived_id("idempotency key", "default", "kept", key)


def claim(run_id: RunId, *args: Any, epoch: int = 1, crashes: int = 0) -> Claim:
    """As the queue gives it; of a run that was submitted anew when its record had expired, the epoch is 1 again."""
    backend = backends.current()
    envelope = backend.codec.encode([list(args), {}], "arguments", values.arguments_key(run_id, "kept"))
    return Claim(run_id, "kept", Token(1, epoch), 1, crashes, EffectClass.PURE, envelope)


def executed(spec: TaskSpec, claimed: Claim) -> Outcome:
    """What a worker of its own hands in."""
    engine = BackgroundEngine({"kept": spec}, backends.current())
    try:
        outcome = engine.run(claimed)
        assert type(outcome) is Outcome
        outcome = engine.stored(outcome)
        assert not engine.must_store
    finally:
        engine.close()
    return outcome


def value(outcome: Outcome) -> Any:
    assert outcome.state == "completed"
    return values.open_result(backends.current(), outcome.envelope, outcome.run_id)


def failure(outcome: Outcome) -> BaseException:
    assert outcome.state == "failed"
    return values.open_failure(backends.current(), outcome.envelope, outcome.run_id)


@SIZES
def test_a_key_that_is_used_again_is_not_executed(place: Place, size: int) -> None:
    spec, run_id = spec_of(place), keyed()
    first = executed(spec, claim(run_id, size))
    again = executed(spec, claim(run_id, size))
    assert ran == [size]
    assert value(first) == value(again) == "1".ljust(size, ".")
    executed(spec, claim(keyed("order-8"), size))
    assert ran == [size, size], "another key is another run"


@SIZES
def test_a_key_that_is_used_for_something_else_is_a_conflict(place: Place, size: int) -> None:
    spec, run_id = spec_of(place), keyed()
    executed(spec, claim(run_id, size))
    error = failure(executed(spec, claim(run_id, size + 1)))
    assert isinstance(error, IdempotencyConflict)
    assert "was used with other arguments: run " in str(error)
    assert "kapstan task-run delete" in str(error)
    assert ran == [size]
    assert value(executed(spec, claim(run_id, size))) == "1".ljust(size, ".")


def test_arguments_are_compared_with_their_defaults(place: Place) -> None:
    def sized(size: int, fill: str = ".") -> str:
        return text(size) + fill

    spec, run_id = spec_of(place, sized), keyed()
    first = executed(spec, claim(run_id, 3))
    assert value(executed(spec, claim(run_id, 3, "."))) == value(first)
    assert ran == [3]
    assert isinstance(failure(executed(spec, claim(run_id, 3, ","))), IdempotencyConflict)


@SIZES
def test_a_run_whose_worker_died_before_the_commit_is_not_executed_again(place: Place, size: int) -> None:
    spec, run_id = spec_of(place), new_id()
    executed(spec, claim(run_id, size))
    for crashes in (0, 1, 1000):  # its pod died, which charges nobody; its process; once too often
        assert value(executed(spec, claim(run_id, size, epoch=2, crashes=crashes))) == "1".ljust(size, ".")
    assert ran == [size]
    given_up = executed(spec, claim(new_id(), size, epoch=2, crashes=1000))
    assert given_up.state == "crashed"


def test_a_run_that_failed_is_executed_again(place: Place) -> None:
    def fails_once(size: int) -> str:
        if not ran:
            ran.append(0)
            raise ValueError("no")
        return text(size)

    spec, run_id = spec_of(place, fails_once), keyed()
    assert isinstance(failure(executed(spec, claim(run_id, 3))), ValueError)
    assert value(executed(spec, claim(run_id, 4))) == "2   ".replace(" ", ".")


@pytest.mark.parametrize("fails", [False, True])
@SIZES
def test_of_two_at_once_the_first_that_is_stored_counts(place: Place, size: int, fails: bool) -> None:
    """One's claim was taken for lost, and both execute."""
    both, first_is_stored = threading.Barrier(2), threading.Event()
    numbers = iter(range(1, 3))

    def together(size: int) -> str:
        number = next(numbers)
        both.wait(30)
        if number == 2:
            assert first_is_stored.wait(30)
            if fails:
                raise ValueError("no")
        return f"{number}".ljust(size, ".")

    spec, run_id = spec_of(place, together), keyed()
    outcomes: list[Outcome] = []

    def work(epoch: int) -> None:
        outcomes.append(executed(spec, claim(run_id, size, epoch=epoch)))
        first_is_stored.set()

    threads = [threading.Thread(target=work, args=(epoch,)) for epoch in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [value(outcome) for outcome in outcomes] == ["1".ljust(size, ".")] * 2
    assert outcomes[0].envelope == outcomes[1].envelope == persisted.envelope_of(backends.current(), run_id)


def test_a_late_worker_with_other_arguments_is_not_answered_for(place: Place) -> None:
    """A worker stood still for longer than the record was kept; meanwhile the key was submitted for something else."""
    run_id, late = keyed(), list[Outcome]()

    def overtaken(size: int) -> str:
        if size == 2:
            other = threading.Thread(target=lambda: late.append(executed(spec_of(place), claim(run_id, 1))))
            other.start()
            other.join(60)
        return text(size)

    error = failure(executed(spec_of(place, overtaken), claim(run_id, 2)))
    assert isinstance(error, IdempotencyConflict)
    assert value(late[0]) == "1"
    assert persisted.envelope_of(backends.current(), run_id) == late[0].envelope


def test_a_result_whose_value_is_gone_is_made_anew(place: Place, tmp_path: Any) -> None:
    spec, run_id, backend = spec_of(place), keyed(), backends.current()
    first = executed(spec, claim(run_id, 30_000))
    reference = backend.codec.reference(first.envelope, "result", run_id)
    assert reference is not None
    objects = backend.objects(reference.storage)
    if hasattr(objects, "delete"):
        objects.delete([reference.key])  # type: ignore[attr-defined]
    else:
        (tmp_path / "block" / reference.key.replace("/", "__")).unlink()
    again = executed(spec, claim(run_id, 30_000))
    assert value(again) == "2".ljust(30_000, ".")
    assert value(executed(spec, claim(run_id, 30_000))) == value(again)
    assert ran == [30_000, 30_000]


@pytest.mark.parametrize("moment", ["before", "while it runs"])
def test_what_is_not_ours_ends_the_run(place: Place, moment: str) -> None:
    """It is told, and does not hold up the lane as a store that is away does."""
    run_id, backend = keyed(), backends.current()

    def forge() -> None:
        backend.store.put(f"values/{run_id}/{run_id}/outcome", b"\x01j no envelope of ours, though as long as one")

    def forged(size: int) -> str:
        forge()
        return text(size)

    if moment == "before":
        forge()
    error = failure(executed(spec_of(place, text if moment == "before" else forged), claim(run_id, 1)))
    assert isinstance(error, SignatureError)
    assert ran == [1] * (moment != "before")


def test_a_key_whose_run_is_executed_again_is_the_same_run_to_what_it_starts(place: Place) -> None:
    """Its result was not persisted, and its record has expired. A task with an effect needs a key to be found again."""
    began: list[str] = []

    @flow(name="kept.begun")
    def begun(order: str) -> str:
        began.append(f"flow {order}")
        return order

    def charge(order: str) -> str:
        began.append(f"charge {order}")
        return order

    plain = Task(charge, name="kept.plain", exactly_once=True)
    with_key = Task(charge, name="kept.with_key", exactly_once=True, cache_policy=INPUTS)

    def body(size: int) -> str:
        ran.append(size)
        return begun(f"{size}") + plain(f"plain {size}") + with_key(f"with a key {size}")

    spec = Task(body, name="kept").spec
    for _ in range(2):
        assert value(executed(spec, claim(keyed(), 3))) == "3plain 3with a key 3"
    assert ran == [3, 3]
    assert Counter(began) == {"flow 3": 1, "charge plain 3": 1, "charge with a key 3": 1}
    executed(spec, claim(keyed("order-8"), 3))
    assert began.count("flow 3") == 2

"""Valid envelopes in other places: of another run, task, namespace, purpose or state. None is taken for another."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest
from tests.contract.queue.makers import worker

from kapstan import pickling, task
from kapstan.backend import Backend
from kapstan.codec import PICKLE, Codec
from kapstan.engine import definition, values
from kapstan.engine.background import BackgroundEngine
from kapstan.engine.definition import Definition
from kapstan.errors import ParameterError, SignatureError, StoreUnsafe
from kapstan.futures import Future
from kapstan.ids import RunId, new_id, parse
from kapstan.queue.wire import pack
from kapstan.runs import parameters
from kapstan.signing_key import local_key
from kapstan.store.era import StoredEra

executed: list[int] = []


@task
def charge_of_the_splices(amount: int) -> int:
    executed.append(amount)
    return amount


@task
def refund_of_the_splices(amount: int) -> int:
    executed.append(-amount)
    return -amount


@task
def declined_of_the_splices(amount: int) -> int:
    raise ValueError(f"declined: {amount}")


TASKS = (charge_of_the_splices, refund_of_the_splices, declined_of_the_splices)


def record(used: Backend, run_id: RunId) -> bytes:
    return used.queue.command(pack("GET", f"{used.queue.prefix}t:{run_id}"))


def overwrite(used: Backend, run_id: RunId, text: bytes) -> None:
    used.queue.command(pack("SET", f"{used.queue.prefix}t:{run_id}", text))


def envelope_of(text: bytes) -> bytes:
    return text[40:].split(b"\0", 2)[2]


def run_of(future: Future[int]) -> RunId:
    return parse(str(future.task_run_id))


def work(used: Backend, runs: int) -> None:
    """A lane that takes and executes so many runs, in this process."""
    specs = {each.spec.identity: each.spec for each in TASKS}
    each = worker(used.queue, tuple(specs))
    engine = BackgroundEngine(specs, used)
    try:
        for _ in range(runs):
            (claim,) = each.lane.step([], 1).claims
            outcome = engine.run(claim)
            each.lane.step([engine.stored(outcome)], 0)  # type: ignore[arg-type]
    finally:
        engine.close()
        each.close()


@pytest.mark.parametrize("size", [1, 60_000], ids=["inline", "in the store"])
def test_arguments_of_another_run_or_task_are_not_executed(used: Backend, size: int) -> None:
    executed.clear()
    number = 10 ** (size - 1) if size == 1 else int("7" * 300)
    cheap, dear = charge_of_the_splices.delay(number), charge_of_the_splices.delay(1000)
    refund = refund_of_the_splices.delay(5)
    for victim, other in ((dear, cheap), (refund, dear)):
        text = record(used, run_of(victim))
        overwrite(used, run_of(victim), text.replace(envelope_of(text), envelope_of(record(used, run_of(other)))))
    work(used, 3)
    assert executed == [number]
    for victim in (dear, refund):
        with pytest.raises(Exception, match=r"its arguments cannot be read.*was changed or moved"):
            victim.result(timeout=5)


def test_a_run_that_is_renamed_to_another_task_is_not_executed(used: Backend) -> None:
    """Its arguments are signed for the task."""
    executed.clear()
    future = charge_of_the_splices.delay(7)
    text = record(used, run_of(future))
    names = [each.spec.identity for each in TASKS]
    used.queue.command(pack("DEL", f"{used.queue.prefix}q:{names[0]}"))
    overwrite(used, run_of(future), text.replace(names[0].encode(), names[1].encode()))
    used.queue.command(pack("RPUSH", f"{used.queue.prefix}q:{names[1]}", run_of(future)))
    work(used, 1)
    assert executed == []


def test_a_result_of_another_run_is_nobodys(used: Backend) -> None:
    first, second = charge_of_the_splices.delay(1), charge_of_the_splices.delay(2)
    work(used, 2)
    text = record(used, run_of(second))
    overwrite(used, run_of(second), text.replace(envelope_of(text), envelope_of(record(used, run_of(first)))))
    with pytest.raises(SignatureError, match="changed or moved"):
        second.result(timeout=5)
    assert first.result(timeout=5) == 1


def test_objects_in_the_store_that_are_exchanged_are_noticed(used: Backend) -> None:
    runs = [new_id(), new_id()]
    sealed = [
        values.seal_value(used, [number] * 50_000, "result", run_id, what="a result")
        for number, run_id in enumerate(runs)
    ]
    keys = [used.codec.reference(envelope, "result", run_id).key for envelope, run_id in zip(sealed, runs, strict=True)]
    bodies = [used.store.get(key).body for key in keys]
    used.store.put(keys[0], bodies[1])
    with pytest.raises(SignatureError, match="not the one that was stored"):
        values.open_value(used, sealed[0], "result", runs[0])
    with pytest.raises(SignatureError, match="changed or moved"):
        values.open_value(used, sealed[1], "result", runs[0])
    assert values.open_value(used, sealed[1], "result", runs[1]) == [1] * 50_000


def test_summaries_and_definitions_hold_for_their_run_and_for_what_they_are(used: Backend) -> None:
    one, other = new_id(), new_id()
    used.flow_runs.save(one, {"state": "Completed"})
    used.flow_runs.save(other, {"state": "Running"})
    summary = used.queue.command(pack("GET", f"{used.queue.prefix}f:{one}"))
    used.queue.command(pack("SET", f"{used.queue.prefix}f:{other}", summary))
    assert used.flow_runs.load(other) is None
    definition.write(used, one, Definition("shop:main", "main", "main.py:main", "/app", {}, "", frozenset()))
    written = used.store.get(f"definitions/{one}").body
    used.store.put(f"definitions/{other}", written)
    with pytest.raises(SignatureError):
        definition.read(used, other)
    used.queue.command(pack("SET", f"{used.queue.prefix}f:{one}", written))
    assert used.flow_runs.load(one) is None, "a definition is no summary"
    used.store.put(f"definitions/{one}", summary)
    with pytest.raises(SignatureError):
        definition.read(used, one)


def test_parameters_hold_for_their_key(used: Backend) -> None:
    cheap, dear = (parameters.write(used, {"amount": amount}) for amount in (1, 1000))
    used.store.put(cheap, used.store.get(dear).body)
    with pytest.raises(ParameterError, match="changed or moved"):
        parameters.read(used, cheap)


def test_an_era_of_another_namespace_or_shard_is_refused(used: Backend) -> None:
    mine, shard = StoredEra(used.store, used.codec), StoredEra(used.store, used.codec, "1")
    mine.raise_for("start", 7)
    used.store.put("era/1", used.store.get("era/0").body)
    with pytest.raises(SignatureError):
        shard.current()
    foreign = StoredEra(used.store, Codec("other", [local_key(used.settings.home_path)]))
    with pytest.raises(SignatureError):
        foreign.current()
    used.store.put("era/0", used.codec.encode({"v": 99, "era": 1}, "register", "era/0"))
    with pytest.raises(StoreUnsafe, match="format 99"):
        mine.current()


FLIPS: list[tuple[Callable[[int], Future[int]], str, str]] = [
    (declined_of_the_splices.delay, "f", "c"),
    (charge_of_the_splices.delay, "c", "f"),
    (charge_of_the_splices.delay, "c", "x"),
]


@pytest.mark.parametrize(("submit", "state", "claimed"), FLIPS, ids=["failed", "completed", "crashed"])
def test_how_a_run_ended_is_signed_with_its_outcome(
    used: Backend, submit: Callable[[int], Future[int]], state: str, claimed: str
) -> None:
    """Or a failure would be shown as a result, and a result as a failure."""
    future = submit(3)
    work(used, 1)
    text = record(used, run_of(future))
    assert text[1:2] == state.encode()
    overwrite(used, run_of(future), text[:1] + claimed.encode() + text[2:])
    with pytest.raises(SignatureError):
        future.result(timeout=5)


def test_the_exception_in_a_failure_is_no_result(used: Backend) -> None:
    """It has a signature of its own, and is pickled."""
    future = declined_of_the_splices.delay(3)
    work(used, 1)
    text = record(used, run_of(future))
    failure = used.codec.decode_json(envelope_of(text), "result", run_of(future))
    inner = base64.b64decode(failure["exception"])
    overwrite(used, run_of(future), text[:1] + b"c" + text[2:].replace(envelope_of(text), inner))
    with pytest.raises(SignatureError, match="changed or moved"):
        future.result(timeout=5)


def test_a_failure_of_the_release_before_is_read(used: Backend) -> None:
    """It had no mark, and its exception was signed for the run."""
    run_id = new_id()
    pickled = base64.b64encode(used.codec.seal(PICKLE, pickling.dumps(ValueError("old")), "result", run_id)).decode()
    body = {"type": "ValueError", "message": "old", "traceback": "", "exception": pickled, "lost": [], "local": False}
    error = values.open_failure(used, used.codec.encode(body, "result", run_id), run_id)
    assert (type(error), str(error)) == (ValueError, "old")

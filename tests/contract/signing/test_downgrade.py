"""With KAPSTAN_ALLOW_PICKLE=false nothing is unpickled, whatever stands in Redis or in the store.
And nobody without the key can say that JSON is a pickle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from tests.contract.queue.makers import worker

from kapstan import backend, pickling, task
from kapstan.backend import Backend
from kapstan.codec import JSON, NAMED, PICKLE, PIECE, RAW, REFERENCE
from kapstan.engine import values
from kapstan.engine.background import BackgroundEngine
from kapstan.errors import KapstanError, RunFailed, SignatureError, Unreadable
from kapstan.ids import new_id
from kapstan.serializers import named
from kapstan.settings import Settings

executed: list[object] = []


class Weapon:
    """A value that only a pickle carries."""


@task
def takes_a_weapon(weapon: Any) -> int:
    executed.append(weapon)
    return 1


@task
def gives_a_weapon(size: int) -> Any:
    return [Weapon()] * size


@task(result_serializer="compressed/pickle")
def gives_a_compressed_weapon(size: int) -> Any:
    return [Weapon()] * size


@task
def raises_a_weapon(size: int) -> None:
    raise ValueError(Weapon(), "x" * size)


TASKS = (takes_a_weapon, gives_a_weapon, gives_a_compressed_weapon, raises_a_weapon)


def work(settings: Settings) -> None:
    """A worker of these settings takes one run and ends it."""
    own, specs = Backend(settings), {each.spec.identity: each.spec for each in TASKS}
    each, engine = worker(own.queue, tuple(specs)), BackgroundEngine(specs, own)
    try:
        (claim,) = each.lane.step([], 1).claims
        each.lane.step([engine.stored(engine.run(claim))], 0)  # type: ignore[arg-type]
    finally:
        engine.close()
        each.close()
        own.close()


@pytest.fixture
def strict(given: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Settings]]:
    """From its call on this process is strict, and to unpickle ends the test."""

    def becomes_strict() -> Settings:
        def refuse(*_: object) -> Any:
            raise SystemExit("something was unpickled")

        monkeypatch.setattr(pickling, "loads", refuse)
        backend.use(replace(given, allow_pickle=False))
        return backend.current().settings

    backend.use(given)
    executed.clear()
    yield becomes_strict
    backend.use(None)


@pytest.mark.parametrize("size", [1, 50_000], ids=["inline", "in the store"])
def test_pickled_arguments_are_not_executed(given: Settings, strict: Callable[[], Settings], size: int) -> None:
    future = takes_a_weapon.delay([Weapon() for _ in range(size)])
    work(strict())
    with pytest.raises(KapstanError, match="KAPSTAN_ALLOW_PICKLE is false"):
        future.result(timeout=10)
    assert executed == []


@pytest.mark.parametrize("size", [1, 200_000], ids=["inline", "large"])
@pytest.mark.parametrize("given_by", [gives_a_weapon, gives_a_compressed_weapon], ids=["pickle", "compressed"])
def test_pickled_results_are_not_read(
    given: Settings, strict: Callable[[], Settings], given_by: Any, size: int
) -> None:
    future = given_by.delay(size)
    work(given)
    strict()
    with pytest.raises(Unreadable, match="KAPSTAN_ALLOW_PICKLE is false"):
        future.result(timeout=10)


@pytest.mark.parametrize("size", [1, 200_000], ids=["inline", "in the store"])
def test_the_exception_in_a_failure_is_told_and_not_unpickled(
    given: Settings, strict: Callable[[], Settings], size: int
) -> None:
    future = raises_a_weapon.delay(size)
    work(given)
    strict()
    with pytest.raises(RunFailed, match="ValueError"):
        future.result(timeout=10)


@pytest.mark.parametrize("name", ["pickle", "compressed/pickle"])
def test_a_strict_process_does_not_write_pickles_either(
    given: Settings, strict: Callable[[], Settings], name: str
) -> None:
    strict()
    with pytest.raises(KapstanError, match="KAPSTAN_ALLOW_PICKLE is false"):
        backend.current().codec.encode([1], "result", new_id(), serializer=named(name))


@pytest.mark.parametrize("kind", [JSON, PICKLE, RAW, REFERENCE, NAMED, PIECE])
@pytest.mark.parametrize("name", ["json", "pickle", "compressed/json", "compressed/pickle"])
def test_the_name_of_the_serializer_is_signed(
    given: Settings, strict: Callable[[], Settings], name: str, kind: bytes
) -> None:
    """Neither the kind nor the name of what reads a value can be changed without the key."""
    ours, run_id = backend.current(), new_id()
    envelope = ours.codec.encode([1, "a"], "result", run_id, serializer=named(name))
    changed = [
        envelope[:1] + kind + envelope[2:],
        envelope.replace(b"json", b"pickle"),
        envelope.replace(b"\x0f", b"\x06"),
    ]
    for text in changed:
        if text != envelope:
            with pytest.raises(SignatureError):
                values.open_value(ours, text, "result", run_id)

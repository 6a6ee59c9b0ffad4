"""Rotation under load: clients and workers are restarted one after the other, and no run is lost (docs/security.md)."""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest
from tests.contract.queue.makers import worker

from kapstan import backend, task
from kapstan.backend import Backend
from kapstan.engine.background import BackgroundEngine
from kapstan.errors import CrashedRun, SignatureError
from kapstan.futures import Future
from kapstan.settings import Settings

OLD, NEW = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2))
STEPS = [(OLD, ""), (OLD, NEW), (NEW, OLD), (NEW, "")]
"""KAPSTAN_SIGNING_KEY and KAPSTAN_SIGNING_KEY_PREVIOUS: before, in the two steps of a rotation, and when it is over."""


@task
def doubled_in_a_rotation(number: int) -> int:
    return 2 * number


def at_step(given: Settings, step: int) -> Settings:
    key, previous = STEPS[step]
    return replace(given, signing_key=key, signing_key_previous=previous)


def submit(given: Settings, step: int, number: int) -> Future[int]:
    backend.use(at_step(given, step))
    return doubled_in_a_rotation.delay(number)


def work(given: Settings, step: int) -> None:
    """A worker at that step takes one run and ends it."""
    own = Backend(at_step(given, step))
    spec = doubled_in_a_rotation.spec
    each, engine = worker(own.queue, (spec.identity,)), BackgroundEngine({spec.identity: spec}, own)
    try:
        (claim,) = each.lane.step([], 1).claims
        each.lane.step([engine.run(claim)], 0)  # type: ignore[list-item]
    finally:
        engine.close()
        each.close()
        own.close()


@pytest.fixture(autouse=True)
def closed() -> object:
    yield
    backend.use(None)


@pytest.mark.parametrize("client", range(4))
@pytest.mark.parametrize("serving", range(4))
def test_neighbouring_steps_read_each_other(given: Settings, client: int, serving: int) -> None:
    future = submit(given, client, 21)
    work(given, serving)
    if abs(client - serving) <= 1:
        assert future.result(timeout=5) == 42
    elif {client, serving} == {0, 2} or {client, serving} == {0, 3}:
        with pytest.raises((CrashedRun, SignatureError), match="which is not of namespace"):
            future.result(timeout=5)


def test_a_client_that_goes_on_reads_what_was_written_before(given: Settings) -> None:
    future = submit(given, 0, 4)
    work(given, 0)
    backend.use(at_step(given, 2))
    assert Future(future.memo_reference).result(timeout=5) == 8

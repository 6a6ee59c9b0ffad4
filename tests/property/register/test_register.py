"""The register as the engine uses it, against a model, on both stores; and that the test finds designs that are wrong.

In CI the same cases are drawn every time. ``make chaos-night`` sets KAPSTAN_TEST_SEQUENCES and draws others.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.errors import Flaky
from hypothesis.stateful import run_state_machine_as_test
from tests.property.found import failures_of
from tests.property.register import actors
from tests.property.register.machine import RegisterMachine
from tests.servers.minio import Minio, minio

from kapstan import backend as backends
from kapstan.engine.keyed import KeyedRun
from kapstan.ids import new_nonce
from kapstan.ports import RegisterEvent, RegisterState
from kapstan.runs import deaths
from kapstan.settings import Settings

__all__ = ["minio"]
SEQUENCES = {"local": 70, "s3": 30}
NIGHT = int(os.environ.get("KAPSTAN_TEST_SEQUENCES", "0"))
STEPS = 50
HAPPENED = ("waits", "takes over", "parks", "late, and counts", "late, and does not count", "is told", "buried")


def walk(given: Settings, sequences: int, **further: Any) -> dict[str, int]:
    """How often what happened."""
    backends.use(given)
    RegisterMachine.backend, RegisterMachine.counted = backends.current(), {}
    try:
        run_state_machine_as_test(
            RegisterMachine,
            settings=settings(
                max_examples=sequences,
                stateful_step_count=STEPS,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                **further,
            ),
        )
    finally:
        actors.close()
        backends.use(None)
    return RegisterMachine.counted


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("store", ["local", "s3"])
def test_every_order_of_events_keeps_the_promises(
    store: str, request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home, namespace = str(tmp_path / "home"), f"p{new_nonce()}x"
    given = Settings(home=home, namespace=namespace)
    if store == "s3":
        server: Minio = request.getfixturevalue("minio")
        given = server.settings(home=home, namespace=namespace)
    sequences = NIGHT or SEQUENCES[store]
    counted = walk(given, sequences, derandomize=not NIGHT)
    with capsys.disabled():
        print(f"\nregister on {store}: sequences={sequences} steps={STEPS} {counted}", file=sys.stderr)
    for what in HAPPENED if NIGHT else ():
        assert sum(count for name, count in counted.items() if name.startswith(what)) > 0, f"never {what}: {counted}"


def silence_is_death(patch: pytest.MonkeyPatch) -> None:
    """Whoever finds an intent believes that its holder has ended."""
    patch.setattr(deaths, "end_of", lambda backend, holder: {"seen": "nothing of it"})


def everything_is_taken_over(patch: pytest.MonkeyPatch) -> None:
    """An effect that must not happen twice is begun again when its process has died."""
    from kapstan.store import register

    once = register.TRANSITIONS[(RegisterState.INTENT, RegisterEvent.TAKE_OVER)]
    anybody = once._replace(
        classes=once.classes | register.TRANSITIONS[(RegisterState.INTENT, RegisterEvent.PARK)].classes
    )
    changed = {**register.TRANSITIONS, (RegisterState.INTENT, RegisterEvent.TAKE_OVER): anybody}
    patch.setattr(register, "TRANSITIONS", changed)
    patch.setattr(KeyedRun, "_park", lambda run, entry, evidence: run._try(entry, RegisterEvent.TAKE_OVER))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mutant", [silence_is_death, everything_is_taken_over])
def test_a_design_that_is_wrong_is_found(
    mutant: Callable[[pytest.MonkeyPatch], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutant(monkeypatch)
    with pytest.raises((AssertionError, Flaky)) as found:
        walk(
            Settings(home=str(tmp_path), namespace="mutant"),
            200,
            derandomize=True,
            database=None,
            phases=[Phase.generate],  # found is enough: no smallest case
            print_blob=False,
        )
    assert failures_of(found.value)

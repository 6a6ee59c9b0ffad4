"""What the code of a keyed run leaves behind when it ends: its guard lets nothing more pass."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kapstan import backend as backends
from kapstan.context import RunContext, get_run_context
from kapstan.errors import Fenced
from kapstan.settings import Settings
from kapstan.tasks import Task

left: list[RunContext] = []


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    left.clear()
    yield
    backends.use(None)


def leaves(fails: bool) -> None:
    run = get_run_context()
    run.guard()
    left.append(run)
    if fails:
        raise ValueError("declined")


@pytest.mark.parametrize("effect", ["at_most_once", "idempotent"])
def test_the_guard_of_a_run_that_has_ended_is_fenced(setting: Settings, effect: str) -> None:
    subject = Task(leaves, name=f"leaves-{effect}", effect=effect, cache_key_fn=lambda context, parameters: "one")
    with pytest.raises(ValueError, match="declined"):
        subject(True)
    subject(True, return_state=True)
    for run, token in zip(left, (1, 2), strict=True):
        with pytest.raises(Fenced, match="not this run's any more"):
            run.guard()
        assert run.fencing_token == token

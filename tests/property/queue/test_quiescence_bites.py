"""The property test of quiescence finds the fault for which it was written: each mutant puts a piece of the old lane
back, which decided by what it remembered whether it was idle. The same cases are drawn every time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.errors import Flaky
from hypothesis.stateful import run_state_machine_as_test
from tests.property.found import failures_of
from tests.property.queue.test_quiescence import Quiescence
from tests.property.queue.test_quiescence import server as server
from tests.servers.redis import RedisServer

from kapstan.ids import RunId
from kapstan.ports import Claim, Stepped
from kapstan.queue import redis
from kapstan.queue.lane import RedisLane
from kapstan.queue.wire import pack


class DecidesByWhatItRemembers(RedisLane):
    """Idle only where it remembers no claim; what a give-back does not answer, it goes on to remember."""

    def read_step(self) -> Stepped:
        stepped = super().read_step()
        if self._status == b"IDLE" and self._held:
            assert self._wire is not None
            self._wire.call(pack("HDEL", f"{self._prefix}w:{self._session}", f"#{self._lane}"))
        return stepped

    def give_back(self, executing: Sequence[RunId], begun: RunId = "") -> list[RunId]:
        before = dict(self._held)
        back = super().give_back(executing)
        self._held.update({run_id: claim for run_id, claim in before.items() if run_id not in back})
        return back


class KeepsWhatItDoesNotKnow(RedisLane):
    """Claims whose answer was lost stay its own, and it waits."""

    def _ask(self) -> list[Claim]:
        claims = super().step([], 1).claims
        if self._status == b"HOLDS":
            self._status = b"IDLE"
        return claims


@pytest.mark.parametrize("mutant", [DecidesByWhatItRemembers, KeepsWhatItDoesNotKnow])
def test_a_lane_that_decides_by_itself_is_found(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch, mutant: type[RedisLane]
) -> None:
    monkeypatch.setattr(redis, "RedisLane", mutant)

    class Mutant(Quiescence):
        found: ClassVar[bool] = False

    Mutant.server = server
    # Time decides with what is drawn: a history that failed need not go the same way when Hypothesis repeats it.
    with pytest.raises((AssertionError, Flaky)) as found:
        run_state_machine_as_test(
            Mutant,
            settings=settings(
                max_examples=100,
                stateful_step_count=40,
                deadline=None,
                derandomize=True,
                database=None,
                phases=[Phase.generate],  # found is enough: no smallest case
                suppress_health_check=list(HealthCheck),
                print_blob=False,
            ),
        )
    assert any(re.search(r"are ready, and lane|something never ends", str(error)) for error in failures_of(found.value))

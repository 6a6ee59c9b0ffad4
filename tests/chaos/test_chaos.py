"""Runs of all effect classes on real workers, under faults that are real: what was lost, what happened twice, what
hangs, how long it takes to go on. One line of figures for each campaign, and one for all of them.

``make chaos`` is one round; ``make chaos-night`` sets KAPSTAN_TEST_CHAOS_ROUNDS.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.chaos import places
from tests.chaos.campaign import Campaign
from tests.chaos.faults import FAULTS, KILLS
from tests.chaos.figures import Figures, figures_of
from tests.chaos.places import Place

from kapstan import backend

SEED = 20_261_129
ROUNDS = int(os.environ.get("KAPSTAN_TEST_CHAOS_ROUNDS", "1"))
LEASE = float(os.environ.get("KAPSTAN_TEST_CHAOS_LEASE", "3"))


@dataclass(frozen=True)
class Plan:
    """How many calls at least, and how often each fault comes."""

    place: Callable[[Path], AbstractContextManager[Place]]
    runs: int
    faults: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def kills(self) -> int:
        return sum(count for name, count in self.faults.items() if name in KILLS)


STORE_FAULTS = ("down", "slow", "500", "503", "drop_request", "drop_reply", "cut_reply", "late")
PLANS = {
    "workers": Plan(
        places.alone,
        15_000,
        {"child": 52, "worker": 16, "supervisor": 6, "stop": 3, "tail": 2, "refuse": 2},
    ),
    "store": Plan(places.on_s3, 3_000, {"child": 12, "worker": 4, **dict.fromkeys(STORE_FAULTS, 1)}),
    "sentinel": Plan(places.behind_sentinel, 2_000, {"child": 8, "worker": 4, "failover": 1}),
}
"""In every round."""
sums: list[Figures] = []


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    def tell(text: str) -> None:
        with capsys.disabled():
            print(f"\nchaos: {text}", file=sys.stderr)  # a process of pytest-xdist has no other way out

    return tell


@pytest.fixture
def begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Place, int], Campaign]]:
    begun: list[Campaign] = []

    def begin(place: Place, seed: int) -> Campaign:
        (tmp_path / "ledgers").mkdir()
        common = {
            "EFFECTS": tmp_path / "effects",
            "LEDGERS": tmp_path / "ledgers",
            "KAPSTAN_LEASE_SECONDS": LEASE,
            "KAPSTAN_BEAT_SECONDS": LEASE / 4,
            # Chance may hit one run three times; that a poisonous one is quarantined then is no subject here.
            "KAPSTAN_MAX_CRASHES": 9,
        }
        for name, value in {**common, **place.environment}.items():
            monkeypatch.setenv(name, str(value))
        backend.use(None)
        begun.append(Campaign(place, tmp_path, LEASE, seed))
        begun[0].start()
        return begun[0]

    yield begin
    for campaign in begun:
        campaign.close()
    backend.use(None)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("number", range(ROUNDS))
def test_campaign(
    number: int,
    name: str,
    begin: Callable[[Place, int], Campaign],
    tell: Callable[[str], None],
    tmp_path: Path,
) -> None:
    plan, began = PLANS[name], time.monotonic()
    with plan.place(tmp_path) as place:
        campaign = begin(place, SEED + number)
        faults = [fault for fault, count in plan.faults.items() for _ in range(count)]
        campaign.random.shuffle(faults)
        for done, fault in enumerate(faults, 1):
            campaign.advance(plan.runs * done // (len(faults) + 1))
            campaign.fault = fault
            FAULTS[fault](campaign)
            campaign.counts[fault] += 1
        campaign.advance(plan.runs)
        figures = figures_of(campaign, plan.kills, campaign.finish())
        bit = " ".join(f"{name}={count}" for name, count in sorted(campaign.counts.items()))
        tell(f"{name} {figures.line()} | {bit} | {time.monotonic() - began:.0f} s")
        if figures.stuck:
            tell(campaign.told())
        campaign.close()
    figures.check()
    assert figures.in_body >= 1, "no kill hit a body that was executing"
    sums.append(figures)


def test_all_campaigns_together(tell: Callable[[str], None]) -> None:
    """The sum of what ran before in this process."""
    assert len(sums) == ROUNDS * len(PLANS)
    figures = sum(sums[1:], sums[0])
    tell(figures.line())
    assert figures.runs >= 20_000 * ROUNDS
    assert figures.kills >= 100 * ROUNDS
    assert figures.in_body >= 33 * ROUNDS
    figures.check()

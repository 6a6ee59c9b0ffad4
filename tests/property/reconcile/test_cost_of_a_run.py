"""A run costs the same however many wait behind it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.property.reconcile.queued import Cost, cost_of_a_run


def test_turns_reads_and_writes_do_not_grow_with_what_waits(tmp_path: Path) -> None:
    few = asyncio.run(cost_of_a_run(tmp_path / "few", 10))
    many = asyncio.run(cost_of_a_run(tmp_path / "many", 150))
    assert few == many
    assert few.listed == 0
    assert few.turns <= 15, few
    assert few.writes <= 8, few
    assert isinstance(few, Cost)

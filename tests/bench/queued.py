"""Row queued: turns, reads, listed objects and writes that a run costs while 100, 1,000 and 5,000 others wait."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Iterator

from tests.bench.measuring import Bench, Line
from tests.property.reconcile.queued import cost_of_a_run

QUEUED = (100, 1000, 5000)


def queued(bench: Bench) -> Iterator[Line]:
    for waiting in QUEUED:
        begun = time.perf_counter()
        cost = asyncio.run(cost_of_a_run(bench.folder / f"queued-{waiting}", waiting))
        print(f"  {waiting} wait: {time.perf_counter() - begun:.0f} s, most of them to create the runs", flush=True)
        for name, figure in dataclasses.asdict(cost).items():
            yield Line("queued", f"{name} a run, {waiting} wait", "none", "", [figure])

"""A standby of the operator hears everything, keeps no queue, and looks at what there is once it leads."""

from __future__ import annotations

import asyncio
from typing import Any

from kapstan.ports import Key, Manifest
from kapstan.reconcile.loop import Loop
from kapstan.resources import API_VERSION


def flow_run(number: int, phase: str = "") -> Manifest:
    return {
        "apiVersion": API_VERSION,
        "kind": "FlowRun",
        "metadata": {"name": f"run-{number}", "namespace": "shop", "uid": f"uid-{number}", "resourceVersion": "7"},
        "spec": {"deploymentRef": {"name": "nightly"}},
        "status": {"phase": phase, "attempts": [{"number": 1, "job": f"run-{number}-1"}]},
    }


def test_runs_that_end_while_it_stands_by_leave_nothing() -> None:
    async def body() -> None:
        unused: Any = None
        loop = Loop(unused, {}, None, unused, unused, clock=lambda: 0.0)
        for number in range(100):
            loop.changed(flow_run(number, "Running"))
            loop.enqueue(Key("FlowRun", "shop", f"run-{number}"))  # its pod was heard of
        for number in range(98):
            loop.deleted(flow_run(number, "Running"))
        assert len(loop.queue) == 0
        assert loop.queue.next_due is None
        assert loop._world._memory == {}, "nothing is remembered of what went"
        loop.begin()
        taken = [await loop.queue.take(), await loop.queue.take()]
        assert taken == [Key("FlowRun", "shop", "run-98"), Key("FlowRun", "shop", "run-99")]
        assert len(loop.queue) == 2, "those two, in work"
        loop.enqueue(Key("WorkPool", "shop", "pool"))
        assert len(loop.queue) == 3, "from now on whatever is heard is looked at"
        loop.close()

    asyncio.run(body())

"""Row cluster: from a FlowRun's creation to its first line of user code, beside a bare Job of the same image."""

from __future__ import annotations

from collections.abc import Iterator

from tests.bench.measuring import Bench, Line, NotApplicable


def start(bench: Bench) -> Iterator[Line]:
    raise NotApplicable("needs a cluster with the installed chart: `make cluster-up`, then --cluster")

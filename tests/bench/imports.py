"""Row import: how much longer an interpreter takes that imports kapstan."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

from tests.bench.measuring import Bench, Line, in_turns, p50


def imports(bench: Bench) -> Iterator[Line]:
    seconds = in_turns(bench.rounds, {"kapstan": lambda: _start("import kapstan"), "bare": lambda: _start("pass")})
    over = [1e3 * (ours - bare) for ours, bare in zip(seconds["kapstan"], seconds["bare"], strict=True)]
    yield Line("import", "import kapstan, over a bare interpreter", "none", "ms", over)


def _start(code: str) -> float:
    """Seconds, the best of a few: whatever else the machine does only adds."""
    return min(p50(lambda: subprocess.run([sys.executable, "-c", code], check=True), 1) for _ in range(5))

"""What a program loads by importing the decorators: no client of any service, and no event loop."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("asyncio", "concurrent.futures", "redis", "hiredis", "minio", "urllib3", "pydantic", "cloudpickle", "click")


def test_the_decorators_load_no_client() -> None:
    program = (
        "import sys\nfrom kapstan import Future, flow, get_run_logger, serve, task\n"
        "@task\ndef t(): ...\n@flow\ndef f(n: int): ...\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": "operator"}, capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"

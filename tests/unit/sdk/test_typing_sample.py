from __future__ import annotations

import subprocess
import sys


def test_pyright_sees_the_types_of_the_sample() -> None:
    """The sample asserts every type and marks every mistake that must be found."""
    answer = subprocess.run(
        [sys.executable, "-m", "pyright", "tests/typing/sample.py"], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stdout

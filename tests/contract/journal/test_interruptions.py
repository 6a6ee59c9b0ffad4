"""Runs ``interruptions.py`` in an interpreter of its own.

Its tests raise from a trace function. CPython 3.11 may then spin for ever inside a call of code that it has optimised
before, which the tests that ran earlier in this process see to.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PLACE = Path(__file__).with_name("interruptions.py")


def test_exceptions_of_signals_between_any_two_lines() -> None:
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(PLACE)]
    ran = subprocess.run(words, cwd=PLACE.parents[3], capture_output=True, text=True, timeout=110)
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-2000:]

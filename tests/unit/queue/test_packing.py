"""A command is packed, whatever the handler of a signal raises meanwhile."""

from __future__ import annotations

import subprocess
import sys

import pytest

from kapstan.queue.packing import packed

_PACKS = """
import signal
from kapstan.queue.packing import packed

class Interrupt(BaseException):
    pass

def ring(*_):
    raise Interrupt

signal.signal(signal.SIGALRM, ring)
parts, rang = (12345678,) * 200, 0
for number in range(2000):
    try:
        signal.setitimer(signal.ITIMER_REAL, 2e-6 + (number % 40) * 1e-7)
        for _ in range(6):
            packed(parts)
        signal.setitimer(signal.ITIMER_REAL, 0)
    except Interrupt:
        rang += 1
print(rang > 100)
"""


def test_a_time_limit_or_ctrl_c_while_a_command_is_packed_is_an_exception() -> None:
    """hiredis' own conversion of a number ended the process: a segmentation fault."""
    done = subprocess.run([sys.executable, "-c", _PACKS], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


@pytest.mark.parametrize("number", [0, -1, 7, 2**70])
def test_numbers_are_packed_as_their_digits(number: int) -> None:
    assert packed(("SET", b"k", number)) == packed(("SET", "k", str(number)))

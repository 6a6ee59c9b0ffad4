"""What became of runs that were broken off is written, whatever the writing of another one raises."""

from __future__ import annotations

import threading

from kapstan import backend as backends
from kapstan.engine.key_ends import settle_later


class Odd(BaseException):
    """Neither an error nor a wish to end."""


def test_an_end_whose_writing_raises_anything_holds_up_no_other() -> None:
    backend, raised, written = backends.current(), threading.Event(), threading.Event()

    def raises() -> None:
        raised.set()
        raise Odd

    settle_later(backend, raises, "odd")
    assert raised.wait(30)
    settle_later(backend, written.set, "other")
    assert written.wait(30)

"""Ctrl-C at any line of a flow's own steps: this thread is in no flow afterwards, and the next one runs."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest

from kapstan import context, flow, tags
from kapstan.engine import branch, flow_engine, transaction


@flow(name="interrupts-1-flow")
def whole() -> int:
    return 7


@contextmanager
def interrupted_at(number: int) -> Generator[Callable[[], bool]]:
    """KeyboardInterrupt before the line of ``flow_engine`` that is executed as the ``number``-th; whether it came."""
    lines = itertools.count()
    raised: list[int] = []

    def at_line(frame: FrameType, event: str, _: Any) -> Any:
        if event == "line" and next(lines) == number:
            raised.append(frame.f_lineno)
            raise KeyboardInterrupt
        return at_line

    def at_call(frame: FrameType, _event: str, _: Any) -> Any:
        return at_line if frame.f_code.co_filename == flow_engine.__file__ else None

    before = sys.gettrace()
    sys.settrace(at_call)
    try:
        yield lambda: bool(raised)
    finally:
        sys.settrace(before)


def test_nothing_of_the_flow_stays_on_the_thread() -> None:
    with tags("mine"):
        for number in range(1000):
            with interrupted_at(number) as came:
                try:
                    whole()
                except KeyboardInterrupt:
                    assert came()
            assert context.current_flow.get() is None
            assert context.current_task.get() is None
            assert (branch.current.get(), transaction.current.get()) == (None, None)
            assert context.current_tags.get() == {"mine"}
            if not came():
                break
        else:
            pytest.fail("it was never over")
    assert number > 20
    assert whole() == 7

"""What Hypothesis found, in whichever way it reports it."""

from __future__ import annotations


def failures_of(error: BaseException) -> list[AssertionError]:
    """The assertions that failed. A history that time decides need not fail again when Hypothesis repeats it: then it
    raises a FlakyFailure, which is a group, or another Flaky in whose context the failure is."""
    found: list[AssertionError] = []
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, AssertionError):
            found.append(one)
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions
        waiting += (one.__cause__, one.__context__)
    return found

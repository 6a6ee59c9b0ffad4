"""Every way in which Hypothesis tells of a failure is read."""

from __future__ import annotations

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky, FlakyFailure
from tests.property.found import failures_of


def test_a_failure_that_does_not_come_again_is_found() -> None:
    calls: list[int] = []

    @settings(database=None, phases=[Phase.generate], derandomize=True)
    @given(st.integers())
    def fails_once(number: int) -> None:
        calls.append(number)
        assert len(calls) != 1, "the fault"

    with pytest.raises(Flaky) as found:
        fails_once()
    assert isinstance(found.value, FlakyFailure)
    assert [str(error).partition("\n")[0] for error in failures_of(found.value)] == ["the fault"]


def test_a_failure_in_the_context_of_another_is_found_and_no_failure_is_none() -> None:
    with pytest.raises(Flaky) as found:  # noqa: PT012  (the context is what it is about)
        try:
            raise AssertionError("the fault")
        except AssertionError:
            raise Flaky("drew something else") from None
    assert [str(error) for error in failures_of(found.value)] == ["the fault"]
    assert failures_of(Flaky("drew something else")) == []

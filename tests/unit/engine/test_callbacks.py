"""What a callback of a run raises reaches neither the thread that calls it nor the callbacks after it."""

from __future__ import annotations

import pytest

from kapstan import states
from kapstan.engine.pending import Pending
from kapstan.ids import new_id


@pytest.mark.parametrize("error", [ZeroDivisionError("mine"), SystemExit(3), KeyboardInterrupt()])
def test_a_callback_that_raises_is_logged_by_name_and_the_others_are_called(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    pending, called = Pending(new_id()), list[str]()

    def broken() -> None:
        raise error

    pending.on_done(broken)
    pending.on_done(lambda: called.append("second"))
    pending.finish(states.Completed())
    assert called == ["second"]
    assert "Error in the callback" in caplog.text
    assert "broken" in caplog.text

"""What a callback of a run raises reaches neither the thread that calls it nor the callbacks after it."""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest

from kapstan import flow, states, task
from kapstan.engine.pending import Pending
from kapstan.futures import Future
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


class TestOfARunThatHasEnded:
    """A callback that is added late is called at once, on the thread of whoever adds it."""

    @pytest.fixture
    def future(self) -> Future[int]:
        pending = Pending(new_id())
        pending.finish(states.Completed(data=1))
        return Future(str(pending.run_id), pending=pending)

    def test_an_error_is_logged_by_name_and_whoever_adds_the_callback_goes_on(
        self, future: Future[int], caplog: pytest.LogCaptureFixture
    ) -> None:
        def broken(_: Future[int]) -> None:
            raise ZeroDivisionError("mine")

        future.add_done_callback(broken)
        assert "Error in the callback" in caplog.text
        assert "broken" in caplog.text

    def test_what_is_meant_for_whoever_adds_the_callback_reaches_it(self, future: Future[int]) -> None:
        def interrupted(_: Future[int]) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            future.add_done_callback(interrupted)


def test_a_run_that_ends_after_the_loop_that_waited_for_it_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    pending = Pending(new_id())
    asyncio.run(Future[int](str(pending.run_id), pending=pending).wait_async(timeout=0))
    with caplog.at_level(logging.DEBUG):
        pending.finish(states.Completed())
    assert caplog.text == ""


@task
def answers_later(go_on: threading.Event) -> int:
    assert go_on.wait(30)
    return 1


@flow
def adds_a_broken_callback() -> int:
    go_on = threading.Event()
    future = answers_later.submit(go_on)

    def broken(_: Future[int]) -> None:
        raise ZeroDivisionError("mine")

    future.add_done_callback(broken)
    go_on.set()
    return future.result()


def test_the_log_shows_the_callbacks_error_and_no_other(caplog: pytest.LogCaptureFixture) -> None:
    assert adds_a_broken_callback() == 1
    (record,) = [record for record in caplog.records if "Error in the callback" in record.message]
    assert record.exc_info is not None
    error = record.exc_info[1]
    assert isinstance(error, ZeroDivisionError)
    assert error.__context__ is None

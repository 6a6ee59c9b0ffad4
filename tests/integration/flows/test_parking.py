"""A resumed flow never executes what it cannot tell from what it has executed: it waits, or parks."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kapstan import backend as backends
from kapstan import flow, settings, task
from kapstan.engine import flow_engine
from kapstan.errors import HandBack, Parked, PausedRun, UnkeyableInput
from kapstan.ids import RunId, new_id
from kapstan.journal import read_journal
from kapstan.states import AttemptOutcome, EffectClass, ExitCode, State
from kapstan.tasks import Task
from kapstan.worker.attempt_end import as_told

ran: list[Any] = []


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    backends.use(None)
    ran.clear()
    yield
    backends.use(None)


@task(name="parking-charge")
def charge(amount: Any) -> Any:
    ran.append(amount)
    return amount if isinstance(amount, str) else str(amount)


def with_effect(subject: Task[..., Any], effect: EffectClass) -> Task[..., Any]:
    """The task in an effect class."""
    copy = subject.with_options()
    copy.spec = replace(copy.spec, effect=effect)
    return copy


def attempt(body: Callable[[], Any], run_id: RunId, number: int, *, again: bool = False) -> State:
    spec = flow(name="parks")(body).spec
    return flow_engine.run(flow_engine.make_run(spec, run_id, {}), attempt=number, again=again)


def lost_after(body: Callable[[], Any]) -> RunId:
    """A run whose first attempt ended after ``body``."""
    run_id = new_id()

    def first() -> None:
        body()
        raise HandBack

    with pytest.raises(HandBack):
        attempt(first, run_id, 1)
    return run_id


def test_a_call_with_other_inputs_than_before_parks_where_it_has_an_effect(caplog: pytest.LogCaptureFixture) -> None:
    effectful = with_effect(charge, EffectClass.AT_MOST_ONCE)
    run_id = lost_after(lambda: effectful("order 1 of uuid 7f"))
    state = attempt(lambda: effectful("order 1 of uuid 9c"), run_id, 2)
    assert (state.name, ran) == ("Parked", ["order 1 of uuid 7f"])
    assert "order 1 of uuid 9c" in state.message
    assert "kapstan flow-run resume" in caplog.text
    with pytest.raises(PausedRun, match="its effect is not repeated"):
        state.result()
    end = read_journal(backends.current().store, backends.current().codec, run_id).end
    assert end is not None
    assert end.end is AttemptOutcome.SUSPENDED
    assert attempt(lambda: effectful("order 1 of uuid 7f"), run_id, 3).result() == "order 1 of uuid 7f"
    assert len(ran) == 1


def test_a_pure_call_with_other_inputs_says_so_and_runs(caplog: pytest.LogCaptureFixture) -> None:
    run_id = lost_after(lambda: charge("a"))
    with caplog.at_level(logging.WARNING):
        assert attempt(lambda: charge("b"), run_id, 2).result() == "b"
    assert "it runs again" in caplog.text


def test_calls_that_were_not_made_before_are_made() -> None:
    effectful = with_effect(charge, EffectClass.AT_MOST_ONCE)
    run_id = lost_after(lambda: effectful("a"))
    assert attempt(lambda: [effectful("a"), effectful("b")], run_id, 2).result() == ["a", "b"]
    assert ran == ["a", "b"]


def test_a_value_that_cannot_be_read_here_parks(tmp_path: Path) -> None:
    run_id = lost_after(lambda: charge("x" * 100_000))
    shutil.rmtree(Path(settings.current().home) / "store" / "values", ignore_errors=True)
    found = [path for path in Path(settings.current().home).rglob("values") if path.is_dir()]
    for path in found:
        shutil.rmtree(path)
    state = attempt(lambda: charge("x" * 100_000), run_id, 2)
    assert state.name == "Parked"
    assert "it is not executed again" in state.message
    assert len(ran) == 1


def test_a_store_that_is_away_is_waited_for() -> None:
    run_id = lost_after(lambda: charge("x" * 100_000))
    home = Path(settings.current().home)
    values = next(path for path in home.rglob("values") if path.is_dir())
    told = threading.Event()

    class Tells(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "cannot be read now; waiting" in record.getMessage():
                told.set()

    handler = Tells()
    logging.getLogger("kapstan").addHandler(handler)
    (values.parent / "kept").mkdir()
    away = values.parent / "kept" / "values"
    values.rename(away)
    values.symlink_to(values)  # a link to itself: reading below it fails, and not because something is not there

    def back() -> None:
        assert told.wait(30)
        values.unlink()
        away.rename(values)

    thread = threading.Thread(target=back)
    thread.start()
    try:
        assert attempt(lambda: charge("x" * 100_000), run_id, 2).result() == "x" * 100_000
    finally:
        thread.join()
        logging.getLogger("kapstan").removeHandler(handler)
    assert len(ran) == 1


WAYS: dict[str, Callable[[Task[..., Any], Any], Any]] = {
    "called": lambda subject, value: subject(value),
    "submitted": lambda subject, value: subject.submit(value).result(),
    "mapped": lambda subject, value: subject.map([value]).result(),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("effect", [effect for effect in EffectClass if effect is not EffectClass.PURE])
def test_an_input_that_no_key_can_tell_is_refused_where_there_is_an_effect(way: str, effect: EffectClass) -> None:
    """Two different locks would have one key: a resumed flow could take the one call for the other."""
    effectful = with_effect(charge, effect)
    with pytest.raises(
        UnkeyableInput, match=r"parking-charge has an effect .* argument 'amount' holds _thread.lock.*pass"
    ):
        attempt(lambda: WAYS[way](effectful, threading.Lock()), new_id(), 1).result()
    assert ran == []


def test_a_task_without_effect_takes_it() -> None:
    assert attempt(lambda: charge(threading.Lock()), new_id(), 1).is_completed()


@pytest.mark.parametrize("end", [HandBack, Parked])
def test_a_run_that_was_resumed_and_goes_on_executes_what_failed_no_third_time(end: type[BaseException]) -> None:
    """The operator says that a person asked for every attempt after that."""

    def fails() -> None:
        ran.append("fails")
        raise ValueError("no")

    failing, run_id = task(name="fails")(fails), new_id()

    def body(last: BaseException | None) -> Callable[[], str]:
        def caught() -> str:
            with contextlib.suppress(ValueError):
                failing()
            if last is not None:
                raise last
            return "over"

        return caught

    assert attempt(body(RuntimeError("no")), run_id, 1).is_failed()
    with contextlib.suppress(HandBack):
        attempt(body(end("not now")), run_id, 2, again=True)
    assert ran == ["fails", "fails"], "once more, since a person asked for that"
    assert attempt(body(None), run_id, 3, again=True).result() == "over"
    assert ran == ["fails", "fails"]


def test_code_that_ends_the_process_of_a_parked_run_does_not_change_its_exit_code() -> None:
    effectful = with_effect(charge, EffectClass.AT_MOST_ONCE)
    run_id = lost_after(lambda: effectful("a"))
    assert attempt(lambda: effectful("b"), run_id, 2).name == "Parked"
    told, nobody = os.pipe()
    os.set_blocking(told, False)
    assert as_told(run_id, 2, 0, told).code == ExitCode.FAILED
    os.close(told)
    os.close(nobody)

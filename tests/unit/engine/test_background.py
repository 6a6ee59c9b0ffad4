"""One claimed run: from its envelope to its outcome."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from kapstan import backend as backends
from kapstan import settings, states
from kapstan.codec import Codec
from kapstan.context import current_task
from kapstan.engine import chain, values
from kapstan.engine.background import BackgroundEngine, RetryLater
from kapstan.engine.pending import Resolvable
from kapstan.errors import HandBack, RunFailed, SerializationError, TaskTimeout
from kapstan.ids import Token, new_id
from kapstan.ports import Claim, Outcome
from kapstan.settings import Settings
from kapstan.signing_key import SigningKey
from kapstan.states import State
from kapstan.tasks import Task


def spec(fn: Callable[..., Any], **options: Any) -> Any:
    return Task(fn, name="subject", **options).spec


def claim(*args: Any, attempt: int = 1, envelope: bytes | None = None, **kwargs: Any) -> Claim:
    run_id = new_id()
    key = values.arguments_key(run_id, "subject")
    sealed = values.seal_value(backends.current(), [list(args), kwargs], "arguments", key, what="arguments")
    return Claim(run_id, "subject", Token(1, 1), attempt, 0, "p", sealed if envelope is None else envelope)


def run(subject: Any, given: Claim) -> Outcome | RetryLater:
    with closing(BackgroundEngine({"subject": subject}, backends.current())) as engine:
        return engine.run(given)


def outcome(subject: Any, given: Claim) -> Outcome:
    ended = run(subject, given)
    assert isinstance(ended, Outcome)
    return ended


def value(ended: Outcome) -> Any:
    return values.open_value(backends.current(), ended.envelope, "result", ended.run_id)


def error(ended: Outcome) -> BaseException:
    return values.open_failure(backends.current(), ended.envelope, ended.run_id, state=ended.state)


def test_a_result_is_signed_for_its_run() -> None:
    given = claim(2, y=3)
    ended = outcome(spec(lambda x, y: x * y), given)
    assert (ended.state, ended.token, value(ended)) == ("completed", given.token, 6)


def test_the_task_sees_its_run() -> None:
    def look(x: int) -> Any:
        task = current_task.get()
        assert task is not None
        return [task.run_id, task.run_count, task.parameters, sorted(task.tags)]

    given = claim(7, attempt=2)
    assert value(outcome(spec(look, tags=["a"]), given)) == [given.run_id, 2, {"x": 7}, ["a"]]
    assert current_task.get() is None


def test_async_tasks_run_on_a_loop() -> None:
    async def double(x: int) -> int:
        return 2 * x

    assert value(outcome(spec(double), claim(4))) == 8


def test_the_users_exception_comes_back_with_its_traceback() -> None:
    def fail() -> None:
        raise KeyError("lost")

    ended = outcome(spec(fail), claim())
    raised = error(ended)
    assert ended.state == "failed"
    assert isinstance(raised, KeyError)
    assert raised.args == ("lost",)
    assert "in fail" in raised.__notes__[0]


def test_an_exception_comes_back_without_what_cannot_be_pickled() -> None:
    class Odd(Exception):
        def __init__(self) -> None:
            super().__init__("odd")
            self.lock = threading.Lock()

    def fail() -> None:
        raise Odd

    raised = error(outcome(spec(fail), claim()))
    assert (type(raised).__name__, raised.args) == ("Odd", ("odd",))
    assert not hasattr(raised, "lock")
    assert "attribute 'lock' (_thread.lock)" in raised.__notes__[0]


def test_an_exception_whose_str_raises_is_an_end_like_others() -> None:
    def fail() -> None:
        raise Mute

    assert type(error(outcome(spec(fail), claim()))) is Mute


class Mute(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


def test_without_pickle_a_failure_is_text() -> None:
    backends.use(Settings(home=settings.current().home, allow_pickle=False))

    def fail() -> None:
        raise KeyError("lost")

    raised = error(outcome(spec(fail), claim()))
    assert type(raised) is RunFailed
    assert "KeyError: 'lost'" in str(raised)


def test_a_retry_frees_the_claim() -> None:
    def fail() -> None:
        raise ValueError

    subject = spec(fail, retries=2, retry_delay_seconds=[1, 20])
    first, second = claim(), claim(attempt=2)
    assert run(subject, first) == RetryLater(first.run_id, first.token, 1.0)
    assert run(subject, second) == RetryLater(second.run_id, second.token, 20.0)
    assert outcome(subject, claim(attempt=3)).state == "failed"


def test_the_retry_condition_decides() -> None:
    def fail() -> None:
        raise ValueError

    asked: list[Any] = []

    def condition(task: Any, task_run: Any, state: Any) -> bool:
        asked.append((task.name, task_run.run_count, type(state.data)))
        return False

    assert outcome(spec(fail, retries=5, retry_condition_fn=condition), claim()).state == "failed"
    assert asked == [("subject", 1, ValueError)]


def test_a_timeout_fails_the_run() -> None:
    ended = outcome(spec(threading.Event().wait, timeout_seconds=0.05), claim())
    assert ended.state == "failed"
    assert isinstance(error(ended), TaskTimeout)


def test_large_values_go_through_the_store() -> None:
    text = "x" * 20_000
    given = claim(text)
    ended = outcome(spec(lambda s: s + "y"), given)
    assert len(given.envelope) < 500
    assert value(ended) == text + "y", "it is whole, so that nothing is lost where the store does not take it"
    with closing(BackgroundEngine({}, backends.current())) as engine:
        stored = engine.stored(ended)
    assert len(stored.envelope) < 500
    assert value(stored) == text + "y"


def test_a_result_that_cannot_be_serialised_fails_the_run() -> None:
    def lock() -> object:
        return threading.Lock()

    ended = outcome(spec(lock), claim())
    assert ended.state == "failed"
    raised = error(ended)
    assert isinstance(raised, SerializationError)
    assert "the result of subject" in str(raised)


def never() -> None:
    raise AssertionError("it was executed")


def test_a_run_that_killed_its_process_too_often_is_not_executed_again() -> None:
    assert outcome(spec(lambda: 1), claim()._replace(crashes=2)).state == "completed"
    ended = outcome(spec(never), claim()._replace(crashes=3))
    assert ended.state == "crashed"
    assert "its process died 3 times" in str(error(ended))
    assert values.times(1) == "once"


def test_arguments_of_another_task_are_never_executed() -> None:
    given = claim()
    with closing(BackgroundEngine({"subject": spec(never), "other": spec(never)}, backends.current())) as engine:
        ended = engine.run(given._replace(task="other"))
    assert isinstance(ended, Outcome)
    assert ended.state == "crashed"
    assert "does not hold" in str(error(ended))


@pytest.mark.parametrize(
    ("tamper", "reason"),
    [
        (lambda envelope: b"hello", "is not signed"),
        (lambda envelope: envelope[:-1] + b"!", "does not hold"),
        (
            lambda envelope: Codec("default", [SigningKey.of(b"another key, 32 bytes long at least")]).encode(
                [[], {}], "arguments", "x"
            ),
            "is signed by key",
        ),
    ],
)
def test_what_was_not_signed_here_is_never_executed(tamper: Callable[[bytes], bytes], reason: str) -> None:
    good = claim()
    ended = outcome(spec(never), good._replace(envelope=tamper(good.envelope)))
    assert ended.state == "crashed"
    assert reason in str(error(ended))


def test_an_envelope_of_another_run_is_never_executed() -> None:
    other = claim()
    ended = outcome(spec(never), claim(envelope=other.envelope))
    assert ended.state == "crashed"
    assert "was changed or moved" in str(error(ended))


def test_an_unknown_task_is_named() -> None:
    ended = outcome(spec(never), claim()._replace(task="shop:charge"))
    assert ended.state == "crashed"
    assert "'shop:charge'" in str(error(ended))
    assert "subject" in str(error(ended))


def test_arguments_of_another_version_of_the_task_are_named() -> None:
    ended = outcome(spec(lambda x: x), claim(1, 2))
    assert ended.state == "failed"
    assert "do not fit" in str(error(ended))


def test_interrupt_ends_the_run_that_is_named_and_no_other() -> None:
    given = claim()

    def body() -> None:
        engine.interrupt("another")
        engine.interrupt(given.run_id)

    engine = BackgroundEngine({"subject": spec(body)}, backends.current())
    ended = engine.run(given)
    assert isinstance(ended, Outcome)
    assert ended.state == "cancelled"
    assert not engine.executing
    engine.interrupt(given.run_id)


def test_hand_back_leaves_the_run_without_an_outcome() -> None:
    def body() -> None:
        raise HandBack

    with pytest.raises(HandBack):
        run(spec(body), claim())


def test_a_failure_that_is_too_large_is_told_without_what_makes_it_so() -> None:
    backends.use(Settings(home=settings.current().home, max_value_bytes=4096))

    def fail() -> None:
        raise KeyError("x" * 100_000)

    raised = error(outcome(spec(fail), claim()))
    assert type(raised) is RunFailed
    assert str(raised).startswith("KeyError: 'xxx")


class Upstream(Resolvable):
    """A run that has failed, among the arguments of another."""

    done = True
    memo_reference = "0" * 22

    def final_state(self) -> State:
        return states.Failed(message="no")


def test_a_run_whose_upstream_failed_is_failed_and_not_executed() -> None:
    ended = outcome(spec(lambda value: pytest.fail("executed")), claim(Upstream()))
    assert ended.state == "failed"
    assert "something that it waits for ended as Failed" in str(error(ended))


def test_a_step_that_needs_nothing_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def cached(execution: Any, proceed: Any) -> Any:
        return states.Completed(data="from the cache")
        yield

    monkeypatch.setattr(chain, "STEPS", (chain.Link(cached), *chain.STEPS))
    assert value(outcome(spec(lambda: pytest.fail("executed")), claim())) == "from the cache"


class Exits:
    """A result that cannot be stored in the worst way."""

    def __reduce__(self) -> Any:
        raise SystemExit(3)


def exits(*_: Any) -> Any:
    raise SystemExit(3)


@pytest.mark.parametrize(
    ("fn", "options", "state"),
    [
        (Exits, {}, "crashed"),
        (lambda: 1 / 0, {"retries": 3, "retry_condition_fn": exits}, "failed"),
        (lambda: 1, {"task_run_name": exits}, "completed"),
    ],
)
def test_code_of_the_users_that_exits_where_nobody_expects_it_ends_its_run_only(
    fn: Callable[..., Any], options: dict[str, Any], state: str
) -> None:
    assert outcome(spec(fn, **options), claim()).state == state


def leaves() -> Any:
    raise SystemExit(9)


class LeavesWhenRead:
    def __reduce__(self) -> Any:
        return leaves, ()


def test_arguments_that_exit_when_they_are_read_end_their_run_only() -> None:
    ended = outcome(spec(lambda x: x), claim(LeavesWhenRead()))
    assert ended.state == "crashed"
    assert "its arguments cannot be read: reading them raised SystemExit(9)" in str(error(ended))

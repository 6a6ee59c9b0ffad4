"""``.submit()`` outside a flow: which function runs, on which queue, what waits for what, and how it ends."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.integration.worker import served
from tests.integration.worker.conftest import Gate, Sink
from tests.servers.redis import RedisServer

from kapstan import backend as backends
from kapstan import task
from kapstan.engine.background import BackgroundEngine
from kapstan.errors import CancelledRun, CrashedRun, ParkedRun, QueueUnavailable
from kapstan.ports import Claim
from kapstan.queue.lane import RedisLane
from kapstan.tasks import Task
from kapstan.worker import in_process


@pytest.fixture(autouse=True)
def background(server: RedisServer) -> Iterator[None]:
    """What ``.submit()`` starts in this process ends before its Redis does."""
    yield
    in_process.stop()


# ---------------------------------------------------------------------------------------------- which function runs


def test_a_closure_a_partial_and_an_object_run_as_what_they_are() -> None:
    def mail(to: str) -> Task[[], str]:
        @task
        def send() -> str:
            return to

        return send

    def add(a: int, b: int) -> int:
        return a + b

    class Scale:
        def __init__(self, by: int) -> None:
            self.by = by

        def __call__(self, value: int) -> int:
            return self.by * value

    calls: list[Any] = [mail("ann"), mail("bob")]
    assert [call.submit().result(timeout=30) for call in calls] == ["ann", "bob"]
    added = [Task(functools.partial(add, a)) for a in (1, 100)]
    assert [call.submit(1).result(timeout=30) for call in added] == [2, 101]
    scaled = [Task(Scale(by)) for by in (2, 7)]
    assert [call.submit(3).result(timeout=30) for call in scaled] == [6, 21]


def test_a_function_that_was_defined_anew_runs_as_it_is_now() -> None:
    results: list[int] = []
    for value in (20, 30):
        module: dict[str, Any] = {"task": task, "__name__": "cell"}
        exec(f"@task\ndef cell():\n    return {value}", module)
        results.append(module["cell"].submit().result(timeout=30))
    assert results == [20, 30]


def test_the_options_of_a_copy_hold() -> None:
    tries: list[int] = []

    @task(name="embedded-fails-often")
    def fails_often() -> int:
        tries.append(1)
        if len(tries) < 3:
            raise ValueError("not yet")
        return len(tries)

    assert fails_often.with_options(retries=5).submit().result(timeout=30) == 3


# ---------------------------------------------------------------------------------------------- waiting


def test_runs_that_submit_runs_and_wait_for_them_end() -> None:
    @task(name="embedded-nests")
    def nests(depth: int) -> int:
        return depth and 1 + nests.submit(depth - 1).result(timeout=60)

    assert [run.result(timeout=60) for run in [nests.submit(3) for _ in range(12)]] == [3] * 12


def test_tasks_that_are_defined_late_share_one_background() -> None:
    def submit(number: int) -> None:
        @task(name=f"late-{number}")
        def late() -> int:
            return number

        assert late.submit().result(timeout=30) == number

    submit(0)
    few = threading.active_count()
    for number in range(1, 6):
        submit(number)
    deadline = time.monotonic() + 20
    while threading.active_count() > few + 2 and time.monotonic() < deadline:
        time.sleep(0.05)  # lanes of earlier sets of tasks leave on their own
    assert threading.active_count() <= few + 2


# ---------------------------------------------------------------------------------------------- ends


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_what_is_no_exception_ends_its_run_and_no_lane(error: BaseException) -> None:
    @task(name=f"raises-{type(error).__name__}")
    def raises() -> None:
        raise error

    for run in [raises.submit() for _ in range(12)]:  # more than there are lanes
        with pytest.raises(CrashedRun, match=type(error).__name__):
            run.result(timeout=30)
    assert served.add.submit(1, 1).result(timeout=30) == 2


def test_generator_exit_fails_its_run() -> None:
    @task(name="raises-generator-exit")
    def raises() -> None:
        raise GeneratorExit

    with pytest.raises(RuntimeError, match="GeneratorExit"):
        raises.submit().result(timeout=30)


def test_a_run_is_cancelled_where_it_runs(sink: Sink) -> None:
    @task(name="embedded-spins-on")
    def spins_on() -> None:
        served.tell("began", "spin", os.getpid())
        while True:
            time.sleep(0.01)

    run = spins_on.submit()
    sink.expect("began", "spin")
    backends.current().queue.cancel(run.memo_reference)
    with pytest.raises(CancelledRun):
        run.result(timeout=30)
    assert served.add.submit(1, 1).result(timeout=30) == 2


def test_a_run_that_must_not_run_twice_is_parked_when_it_is_cancelled_in_its_body(sink: Sink) -> None:
    @task(name="embedded-charges", effect="at_most_once")
    def charges() -> None:
        served.tell("began", "charge", os.getpid())
        while True:
            time.sleep(0.01)

    run = charges.submit()
    sink.expect("began", "charge")
    backends.current().queue.cancel(run.memo_reference)
    with pytest.raises(ParkedRun):
        run.result(timeout=30)
    assert served.add.submit(1, 1).result(timeout=30) == 2


def test_a_retry_while_redis_is_away_is_made_when_it_is_back(server: RedisServer, sink: Sink, gate: Gate) -> None:
    tries: list[int] = []

    @task(name="embedded-flaky", retries=1)
    def flaky() -> int:
        tries.append(1)
        if len(tries) == 1:
            served.tell("began", "flaky", os.getpid())
            with open(gate.path, "rb", buffering=0) as pipe:
                pipe.read(1)
            raise ValueError("once")
        return len(tries)

    run = flaky.submit()
    sink.expect("began", "flaky")
    server.kill()
    gate.open()
    server.start()
    assert run.result(timeout=60) == 2


def test_lanes_that_could_not_be_opened_are_opened_later(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = backends.current().queue
    opens, refused = queue.open_lane, [0]

    def refuse(*words: Any, **options: Any) -> Any:
        if refused[0] < 2:  # the first lane of this process, and the first try at it again
            refused[0] += 1
            raise QueueUnavailable("away for a moment")
        return opens(*words, **options)

    monkeypatch.setattr(queue, "open_lane", refuse)
    assert served.add.submit(1, 1).result(timeout=30) == 2
    assert refused == [2]


@pytest.mark.parametrize("deaths", [2, 3])
def test_a_lane_that_dies_charges_its_run_and_is_replaced(monkeypatch: pytest.MonkeyPatch, deaths: int) -> None:
    runs, died = BackgroundEngine.run, [0]

    def run(self: BackgroundEngine, claim: Claim) -> Any:
        if died[0] < deaths:  # a fault of ours, since nothing of a user's gets that far
            died[0] += 1
            raise SystemExit("the lane's end")
        return runs(self, claim)

    monkeypatch.setattr(BackgroundEngine, "run", run)
    future = served.add.submit(1, 1)
    if deaths < backends.current().settings.max_crashes:
        assert future.result(timeout=60) == 2
    else:
        with pytest.raises(CrashedRun, match="its lane died 3 times while executing it; it is quarantined"):
            future.result(timeout=60)
    assert served.add.submit(2, 2).result(timeout=60) == 4
    assert died == [deaths]


def test_each_application_has_a_queue_of_its_own(tmp_path: Path) -> None:
    def name_in(folder: str, command: Callable[[Path], list[str]]) -> str:
        place = tmp_path / folder
        place.mkdir(exist_ok=True)
        (place / "main.py").write_text("from kapstan.worker.in_process import queue_name\nprint(queue_name())\n")
        return subprocess.run(command(place), cwd=place, capture_output=True, text=True, check=True).stdout

    server = tmp_path / "uvicorn"
    server.write_text("import os, sys\nsys.path.insert(0, os.getcwd())\nimport main\n")
    served_by = [name_in(folder, lambda _: [sys.executable, str(server)]) for folder in ("shop", "blog", "shop")]
    assert served_by[0] == served_by[2] != served_by[1]
    own = [name_in(folder, lambda place: [sys.executable, str(place / "main.py")]) for folder in ("shop", "blog")]
    assert own[0] != own[1]


def test_another_backend_gets_a_background_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @task
    def say(word: str) -> str:
        return word

    before = set(threading.enumerate())
    assert say.submit("first").result(timeout=30) == "first"
    threads = [new for new in set(threading.enumerate()) - before if new.name.startswith("kapstan-background")]
    other = RedisServer(tmp_path / "other")
    other.start()
    try:
        monkeypatch.setenv("KAPSTAN_REDIS_URL", other.url)
        backends.use(None)
        assert [thread.name for thread in threads if thread.is_alive()] == []
        assert say.submit("second").result(timeout=30) == "second"
    finally:
        in_process.stop()
        other.stop()


def test_what_a_lane_is_handed_as_it_leaves_goes_on_elsewhere(monkeypatch: pytest.MonkeyPatch, gate: Gate) -> None:
    """One place, and a further one while the first waits. As that one leaves, it is idle and handed a run."""
    monkeypatch.setenv("KAPSTAN_SUBMIT_LIMIT", "1")
    backends.use(None)
    handed: list[Any] = []
    real = RedisLane.give_back_all

    @task
    def inner() -> int:
        return 1

    @task
    def outer() -> int:
        value = inner.submit().result(timeout=30)
        with open(gate.path, "rb", buffering=0) as pipe:
            pipe.read(1)
        return value

    def leave(lane: RedisLane, begun: str = "") -> None:
        if threading.current_thread().name == "kapstan-background-1" and not handed:
            with ThreadPoolExecutor(1) as other:
                handed.append(other.submit(inner.submit).result())
            assert handed[0].state.is_running(), "the fault did not bite: nobody was handed it"
        real(lane, begun)

    monkeypatch.setattr(RedisLane, "give_back_all", leave)
    first = outer.submit()
    while not handed:
        time.sleep(0.01)
    gate.open()
    assert first.result(timeout=30) == 1
    assert handed[0].result(timeout=10) == 1

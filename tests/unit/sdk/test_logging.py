"""Log lines of runs: prints are captured in the run only, programs' own logging goes on, tracebacks are shown once."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import io
import logging
import logging.config
import sys
import threading
from collections.abc import Iterator

import pytest

from kapstan import flow, get_run_logger, task
from kapstan import logging as run_logging


@task(name="says", task_run_name="says-{word}")
def says(word: str) -> None:
    print(word)


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What runs log, as ``origin - message``."""
    found: list[str] = []

    class Note(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(f"{getattr(record, 'run', record.name)} - {record.getMessage()}")

    handler, top = Note(), logging.getLogger("kapstan")
    top.addHandler(handler)
    yield found
    top.removeHandler(handler)


def test_prints_are_captured_in_the_run_and_print_is_itself_again(
    lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = builtins.print
    elsewhere = io.StringIO()

    @flow(name="captures", flow_run_name="captures", log_prints=True)
    def captures() -> None:
        thread = threading.Thread(target=print, args=("from a thread of my own",))
        print("one", 2, sep="-")
        print("to a file", file=elsewhere)
        print("to standard error", file=sys.stderr)
        says("in a task")
        says.with_options(log_prints=False)("not logged")
        thread.start()
        thread.join()
        with contextlib.redirect_stdout(elsewhere):
            print("redirected")
            says("redirected in a task")

    captures()
    assert builtins.print is before
    print("after")
    assert "Flow run 'captures' - one-2" in lines
    assert "Flow run 'captures' - to standard error" in lines
    assert "Task run 'says-in a task' - in a task" in lines
    assert elsewhere.getvalue() == "to a file\nredirected\nredirected in a task\n"
    assert capsys.readouterr().out == "not logged\nfrom a thread of my own\nafter\n"


def test_prints_of_runs_that_overlap_are_their_own(lines: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    before = builtins.print

    @task(name="waits", task_run_name="waits-{name}")
    async def waits(name: str) -> None:
        print("begin", name)
        await asyncio.sleep(0)
        print("end", name)

    @flow(name="overlaps", log_prints=True)
    async def overlaps() -> None:
        silent = waits.with_options(log_prints=False)
        await asyncio.gather(waits("a"), silent("b"), waits("c"))

    asyncio.run(overlaps())
    said = [line for line in lines if "begin" in line or "end" in line]
    assert sorted(said) == sorted(f"Task run 'waits-{n}' - {w} {n}" for n in "ac" for w in ("begin", "end"))
    assert capsys.readouterr().out == "begin b\nend b\n"
    assert builtins.print is before


def test_a_handler_that_prints_does_not_print_for_ever(capsys: pytest.CaptureFixture[str]) -> None:
    class Shout(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            print("LOG:", record.getMessage())

    root, handler = logging.getLogger(), Shout()
    root.addHandler(handler)
    try:

        @flow(name="shouts", log_prints=True)
        def shouts() -> None:
            print("hello")
            logging.getLogger("shop").warning("careful")
            get_run_logger().info("done")

        shouts()
    finally:
        root.removeHandler(handler)
    said = [line for line in capsys.readouterr().out.splitlines() if "state" not in line and "Created" not in line]
    assert said == ["LOG: hello", "LOG: careful", "LOG: done"]


def test_runs_keep_their_lines_where_other_loggers_are_disabled(lines: list[str]) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    logging.config.dictConfig({"version": 1})
    try:
        assert logging.getLogger("kapstan.task_runs").disabled

        @flow(name="disabled", log_prints=True)
        def disabled() -> None:
            says("still heard")

        disabled()
    finally:
        root.handlers[:], root.level = before
    assert any("still heard" in line for line in lines)
    assert any("Created flow run" in line for line in lines)


def test_run_loggers_can_be_silenced_for_tests(lines: list[str]) -> None:
    with run_logging.disable_run_logger():
        get_run_logger().info("nobody hears")
        run_logging.set_up()
        get_run_logger().info("nobody hears")
    assert lines == []
    assert not logging.getLogger("kapstan.task_runs").disabled


@task(name="breaks")
def breaks() -> None:
    raise ValueError("broken")


def test_a_traceback_is_shown_once_and_without_our_frames(caplog: pytest.LogCaptureFixture) -> None:
    @flow(name="inner breaks")
    def inner() -> None:
        breaks()

    @flow(name="outer breaks")
    def outer() -> None:
        inner()

    with caplog.at_level(logging.INFO, "kapstan"), pytest.raises(ValueError, match="broken"):
        outer()
    shown = [record for record in caplog.records if record.exc_info]
    assert [getattr(record, "run", "").split("'")[0] for record in shown] == ["Task run "]
    text = logging.Formatter().formatException(shown[0].exc_info)  # type: ignore[arg-type]
    assert "in breaks" in text
    assert "ValueError: broken" in text
    assert "operator/kapstan" not in text
    assert sum("broken" in record.getMessage() for record in caplog.records) >= 3  # each run still says why


def test_what_a_flow_itself_raises_is_shown_by_the_flow(caplog: pytest.LogCaptureFixture) -> None:
    @flow(name="raises")
    def raises() -> None:
        raise LookupError("mine")

    @flow(name="wrong call")
    def wrong_call() -> None:
        says("a", "b")  # pyright: ignore[reportCallIssue]

    @flow(name="submits")
    def submits() -> None:
        breaks.submit().result()

    for each, error in ((raises, LookupError), (wrong_call, Exception), (submits, ValueError)):
        caplog.clear()
        with caplog.at_level(logging.INFO, "kapstan"), pytest.raises(error):
            each()
        assert len([record for record in caplog.records if record.exc_info]) == 1, each.name


def test_every_line_of_a_process_of_ours_names_its_run() -> None:
    stream = io.StringIO()
    root = logging.getLogger()
    before = root.handlers[:], root.level
    root.handlers[:] = []
    try:
        with contextlib.redirect_stderr(stream):
            run_logging.configure_process("INFO")

        @task(name="logs", task_run_name="logging")
        def logs() -> None:
            logging.getLogger("stall").info("from a user's logger")
            get_run_logger().info("from the run's logger")

        logs()
        logging.getLogger("stall").info("outside")
    finally:
        root.handlers[:], root.level = before
    said = [line.split(" | ")[-1] for line in stream.getvalue().splitlines()]
    assert "Task run 'logging' - stall - from a user's logger" in said
    assert "Task run 'logging' - from the run's logger" in said
    assert "stall - outside" in said

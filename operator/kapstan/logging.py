"""Run loggers and what the console shows: ``12:00:00.123 | INFO    | Flow run 'nimble-falcon' - message``.

Loggers are the standard library's, below ``kapstan``. The console handler stays silent where the program has configured
the root logger itself, so that nothing is printed twice.
"""

from __future__ import annotations

import builtins
import logging
import os
import sys
import threading
from collections.abc import Callable, Generator, MutableMapping
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from kapstan import settings
from kapstan.context import TaskRun, current_flow, current_task
from kapstan.errors import MissingContextError
from kapstan.states import State

if TYPE_CHECKING:
    _Adapter = logging.LoggerAdapter[logging.Logger]
else:
    _Adapter = logging.LoggerAdapter

_lock = threading.Lock()


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)

_ready = False
_silenced = False
_flow_runs = logging.getLogger("kapstan.flow_runs")
_task_runs = logging.getLogger("kapstan.task_runs")


class RunLogger(_Adapter):
    """Writes to ``kapstan.flow_runs`` or ``kapstan.task_runs`` in the name of one run.

    Records carry ``run`` (``Flow run 'nimble-falcon'``), ``flow_run_id`` and ``task_run_id`` as attributes.
    """

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs


def flow_run_logger(run_id: str, name: str) -> RunLogger:
    set_up()
    extra = {"run": f"Flow run '{name}'", "flow_run_id": run_id}
    return RunLogger(_flow_runs, extra)


def task_run_logger(run: TaskRun) -> RunLogger:
    set_up()
    extra = {"run": f"Task run '{run.name}'", "task_run_id": run.run_id, "flow_run_id": run.flow_run_id}
    return RunLogger(_task_runs, extra)


def task_run_info(run: TaskRun, message: str, *args: object) -> None:
    """An INFO line of ``run``; makes no logger where nobody wants to see it."""
    set_up()
    if _task_runs.isEnabledFor(logging.INFO):
        task_run_logger(run).info(message, *args)


def tell_end(run: TaskRun, state: State) -> None:
    """The lines of a task run that has ended in ``state``."""
    if state.is_completed():
        task_run_info(run, "Finished in state %s", state)
        return
    logger = task_run_logger(run)
    logger.error("%s", state.message, exc_info=told_of(state.data))
    logger.error("Finished in state %s", state)


def told_of(error: Any) -> Any:
    """``exc_info`` for the line of a run that ended by ``error``: without the frames that are ours, and None where the
    line of another run inside this one has shown the traceback, or there is none.
    """
    frames = _frames(error.__traceback__) if isinstance(error, BaseException) else []
    ours = [frame.tb_frame.f_code.co_filename.startswith(_PACKAGE) for frame in frames]
    first = ours.index(False) if False in ours else len(ours)
    if any(frame.tb_frame.f_code.co_filename.endswith(_RUNS) for frame in frames[first:]):
        return None
    kept: TracebackType | None = None
    for frame, own in reversed(list(zip(frames, ours, strict=True))):
        if not own:
            kept = TracebackType(kept, frame.tb_frame, frame.tb_lasti, frame.tb_lineno)
    return (type(error), error, kept) if frames else None


_PACKAGE = os.path.dirname(__file__) + os.sep
_RUNS = (os.path.join("engine", "steps", "call.py"), os.path.join("engine", "flow_engine.py"))
"""Where the code of a run is called."""


def _frames(traceback: TracebackType | None) -> list[TracebackType]:
    found: list[TracebackType] = []
    while traceback is not None:
        found.append(traceback)
        traceback = traceback.tb_next
    return found


def get_run_logger() -> RunLogger:
    """The logger of the task run or flow run that this is called in.

    Raises:
        MissingContextError: it is called outside of one.
    """
    task = current_task.get()
    if task is not None:
        return task_run_logger(task)
    flow = current_flow.get()
    if flow is not None:
        return flow_run_logger(flow.run_id, flow.name)
    raise MissingContextError("get_run_logger() was called outside a flow or task; use logging.getLogger there")


@contextmanager
def disable_run_logger() -> Generator[None]:
    """Silence the run loggers, for tests of functions that use ``get_run_logger``; those get a logger here anyway."""
    global _silenced
    mark, before = current_task.set(current_task.get() or TaskRun("-" * 22, "null", 1, {})), _silenced
    _silenced = True
    for logger in (_flow_runs, _task_runs):
        logger.disabled = True
    try:
        yield
    finally:
        current_task.reset(mark)
        _silenced = before
        for logger in (_flow_runs, _task_runs):
            logger.disabled = before


class _Console(logging.Handler):
    """Writes to the present ``sys.stderr``, unless the root logger has handlers of the program's own."""

    def emit(self, record: logging.LogRecord) -> None:
        if logging.getLogger().handlers:
            return
        try:
            sys.stderr.write(self.format(record) + "\n")
        except Exception:  # noqa: BLE001  (a closed stream must not end a run)
            self.handleError(record)


class _Format(logging.Formatter):
    """Each line names its run: also one of a user's own logger, by the context that it is written in."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s.%(msecs)03d | %(levelname)-7s | %(origin)s - %(message)s", datefmt="%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        run, task, flow = getattr(record, "run", ""), current_task.get(), current_flow.get()
        if not run and task is not None:
            run = f"Task run '{task.name}' - {record.name}"
        elif not run and flow is not None:
            run = f"Flow run '{flow.name}' - {record.name}"
        record.origin = run or record.name
        return super().format(record)


def set_up() -> None:
    """Give the logger ``kapstan`` its level and a console handler, once per process; called for every run.

    ``dictConfig`` and ``fileConfig`` disable the loggers that they do not name, unless configured otherwise. Nobody
    means the lines of runs by that, so those loggers are enabled again.
    """
    global _ready
    if _ready:
        if (_task_runs.disabled or _flow_runs.disabled) and not _silenced:
            for name, logger in logging.Logger.manager.loggerDict.items():
                if name.startswith("kapstan") and isinstance(logger, logging.Logger):
                    logger.disabled = False
        return
    with _lock:
        if _ready:
            return
        top = logging.getLogger("kapstan")
        if top.level == logging.NOTSET:
            top.setLevel(settings.current().log_level.upper())
        handler = _Console()
        handler.setFormatter(_Format())
        top.addHandler(handler)
        _ready = True


def configure_process(level: str) -> None:
    """Send the lines of every logger to standard error: for processes that are ours, such as workers."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Format())
    logging.basicConfig(level=level, handlers=[handler])


# ---------------------------------------------------------------------------------------------- log_prints


class _Capture:
    """While at least one run with ``log_prints`` executes, ``print`` in such a run is a line of its log.

    Elsewhere, and into a stream that the code has put in place of the console (``redirect_stdout``), it prints as ever;
    the original is back when the last of these runs has ended.
    """

    def __init__(self) -> None:
        self._running = 0
        self._print: Callable[..., None] = builtins.print
        self._console: tuple[Any, ...] = ()

    def begin(self) -> None:
        with _lock:
            self._running += 1
            if self._running == 1:
                self._console = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
                self._print, builtins.print = builtins.print, self._print_or_log

    def end(self) -> None:
        with _lock:
            self._running -= 1
            if self._running == 0 and builtins.print == self._print_or_log:
                builtins.print = self._print

    def _print_or_log(self, *values: Any, sep: str | None = None, file: Any = None, **options: Any) -> None:
        run = current_task.get() or current_flow.get()
        stream = sys.stdout if file is None else file
        if run is None or not run.log_prints or all(stream is not known for known in self._console) or _in_a_handler():
            self._print(*values, sep=sep, file=file, **options)
        else:
            get_run_logger().info("%s", (" " if sep is None else sep).join(map(str, values)))


def _in_a_handler() -> bool:
    """Whether a log line is being written: what a handler prints must not become another one."""
    frame: FrameType | None = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        if frame.f_code is logging.Logger.callHandlers.__code__:
            return True
        frame = frame.f_back
    return False


_capture = _Capture()


def capture_prints() -> None:
    """From now on, until ``release_prints`` is called as often, what a run with ``log_prints`` prints becomes lines of
    its log."""
    _capture.begin()


def release_prints() -> None:
    _capture.end()


@contextmanager
def prints_captured(wanted: bool) -> Generator[None]:
    """``capture_prints``, for the block; nothing happens unless ``wanted``."""
    if wanted:
        capture_prints()
    try:
        yield
    finally:
        if wanted:
            release_prints()

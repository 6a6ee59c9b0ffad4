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
from collections.abc import Generator, MutableMapping
from contextlib import contextmanager
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
    logger.error("%s", state.message, exc_info=state.data if isinstance(state.data, BaseException) else None)
    logger.error("Finished in state %s", state)


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
    loggers = [_flow_runs, _task_runs]
    before = [logger.disabled for logger in loggers]
    mark = current_task.set(current_task.get() or TaskRun("-" * 22, "null", 1, {}))
    for logger in loggers:
        logger.disabled = True
    try:
        yield
    finally:
        current_task.reset(mark)
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled


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
    def format(self, record: logging.LogRecord) -> str:
        record.origin = getattr(record, "run", record.name)
        return super().format(record)


def set_up() -> None:
    """Give the logger ``kapstan`` its level and a console handler, once per process."""
    global _ready
    if _ready:
        return
    with _lock:
        if _ready:
            return
        top = logging.getLogger("kapstan")
        if top.level == logging.NOTSET:
            top.setLevel(settings.current().log_level.upper())
        handler = _Console()
        handler.setFormatter(
            _Format("%(asctime)s.%(msecs)03d | %(levelname)-7s | %(origin)s - %(message)s", datefmt="%H:%M:%S")
        )
        top.addHandler(handler)
        _ready = True


# ---------------------------------------------------------------------------------------------- log_prints

_print = builtins.print
_redirected = False


def redirect_prints() -> None:
    """From now on ``print`` inside a run with ``log_prints`` becomes a log line of that run; elsewhere it prints."""
    global _redirected
    if not _redirected:
        _redirected = True
        builtins.print = _print_or_log


def _print_or_log(*values: Any, sep: str | None = None, end: str | None = None, file: Any = None, flush: bool = False):
    run = current_task.get() or current_flow.get()
    if run is None or not run.log_prints or file not in (None, sys.stdout, sys.stderr):
        _print(*values, sep=sep, end=end, file=file, flush=flush)
        return
    get_run_logger().info("%s", (" " if sep is None else sep).join(str(value) for value in values))

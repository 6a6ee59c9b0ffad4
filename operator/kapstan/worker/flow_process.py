"""The process of one attempt of a flow run: a supervisor that keeps the lease, and the child that runs user code.

Called by ``kapstan run`` and ``kapstan flow-run resume``. The supervisor imports nothing of the user's, so a flow
that holds the GIL for minutes keeps its lease; the child dies with it. The child alone writes the run's records. What
the flow has started and left behind is buried, and ended unless the run completed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from kapstan import backend as backends
from kapstan.backend import Backend
from kapstan.engine import ended, flow_engine
from kapstan.engine.flow_run import FlowRun
from kapstan.engine.loops import loops
from kapstan.errors import (
    BackendError,
    CancelRun,
    ConfigurationError,
    Fenced,
    HandBack,
    JournalLost,
    OtherFlow,
    RunExpired,
    SerializationError,
)
from kapstan.ids import RunId, executor_of, new_nonce
from kapstan.logging import set_up
from kapstan.ports import CANCEL_SIGNAL, RunLease
from kapstan.runs import deaths
from kapstan.specs import FlowSpec, bare_flow
from kapstan.states import ExitCode, State
from kapstan.worker.attempt_end import as_told, await_end, say
from kapstan.worker.deaths import cause_of, seen_end
from kapstan.worker.descendants import adopt, die_with_parent, kill_below, reset_signals_in_forks
from kapstan.worker.last_lines import FlowLines, Tail, keep

logger = logging.getLogger("kapstan.engine")
_LEASE_SECONDS = 5.0  # how long an attempt waits for Redis before it goes on without
_SUPERSEDED = signal.SIGUSR1  # from the supervisor: a later attempt has the lease, so record nothing more
_cancel_asked = threading.Event()  # of this process: look at the lease (supervisor), or end the run (its child)

Load = Callable[[], tuple[FlowSpec, dict[str, Any]]]
"""Imports the flow and reads its parameters; called in the child."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What to execute.

    Attributes:
        again: a person asked to go on with a run that failed: failed outcomes are dropped.
        name: of the run; "" for the generated one.
        tags: that it was begun with, beside the flow's own.
    """

    run_id: RunId
    number: int
    entrypoint: str
    name: str = ""
    deployment: str = ""
    again: bool = False
    tags: frozenset[str] = frozenset()


def execute(attempt: Attempt, load: Load) -> NoReturn:
    """Execute ``attempt`` in a child of this process, and exit with the code of ``kapstan run``.

    Call it before threads are started and connections opened: it forks.
    """
    go_read, go_write = os.pipe()
    told_read, told_write = os.pipe()
    tail = Tail()
    supervisor = os.getpid()
    adopt()
    signal.signal(CANCEL_SIGNAL, lambda _got, _frame: _cancel_asked.set())
    child = os.fork()
    if child == 0:
        os.close(go_write)
        os.close(told_read)
        code: int = ExitCode.NOT_RECORDED
        try:
            code = _child(attempt, load, go_read, told_write, supervisor, tail)
        except ConfigurationError as error:
            logger.error("%s", error)
            code = ExitCode.USAGE
        except Exception:
            logger.exception("Flow run %s: this attempt broke off", attempt.run_id)
        finally:
            say(told_write)
            _leave(code)
    os.close(go_read)
    os.close(told_write)
    os.set_blocking(told_read, False)  # what the run has started may hold the other end
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda got, _frame: _send(child, got))
    lease = _Lease(attempt, child)
    if lease.refused:
        logger.warning("Flow run %s: this or a later attempt is at work already", attempt.run_id)
    else:
        with contextlib.suppress(BrokenPipeError):  # it has died already: its end is seen next
            os.write(go_write, b"g")
    os.close(go_write)
    died = await_end(child)
    code, leaves_intents = as_told(attempt.run_id, attempt.number, died, told_read)
    if code != ExitCode.DONE or leaves_intents:
        kill_below(os.getpid())  # before others hear that nothing of it acts any more
        lease.note_end(cause_of(died), tail.lines())
    lease.end()
    _leave(code if code >= 0 else 128 - code)


def _leave(code: int) -> NoReturn:
    """Exit at once: threads of submitted tasks must not hold the process, and Python would take its modules apart for a
    third of the time that their import took."""
    logging.shutdown()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _send(process: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, number)


class _Lease:
    """Takes and renews the run's lease on a thread of its own. Without Redis the flow goes on: its journal fences."""

    def __init__(self, attempt: Attempt, child: int) -> None:
        ours = backends.current().settings
        # A call must not outlast a beat: another one follows.
        self._backend = Backend(replace(ours, redis_retry_seconds=min(ours.redis_retry_seconds, ours.beat_seconds)))
        self._attempt = attempt
        self._child = child
        self._beat = ours.beat_seconds
        self._lease: RunLease | None = None
        self._answered = threading.Event()
        self._ending = threading.Event()
        self._cancel_passed_on = False  # the child, of a cancel
        self.refused = False
        self._thread = threading.Thread(target=self._keep, name="kapstan-lease", daemon=True)
        self._thread.start()
        if not self._answered.wait(_LEASE_SECONDS):
            logger.warning("The queue is away; flow run %s goes on without a lease", attempt.run_id)

    def note_end(self, cause: str, lines: list[str]) -> None:
        """The child has ended: what it held at the time, an effect that must not happen twice, may be taken over. Where
        the queue does not answer within a second, the operator tells it what became of the container.

        Args:
            lines: what it has logged last, while it held a key.
        """
        if not self._backend.settings.redis_url:
            return

        def note() -> None:
            with contextlib.suppress(BackendError, ConfigurationError):
                evidence = seen_end(f"its supervisor saw the process end: {cause}", cause, lines)
                self._backend.queue.note_end(executor_of(self._attempt.run_id, self._attempt.number), evidence)

        thread = threading.Thread(target=note, name="kapstan-end", daemon=True)
        thread.start()
        thread.join(1.0)

    def end(self) -> None:
        """Give the lease back, if that can be done at once."""
        self._ending.set()
        _cancel_asked.set()
        self._thread.join(1.0)

    def _keep(self) -> None:
        while not self._ending.is_set():
            try:
                if not self._take_or_renew():
                    self.refused = True
                    if self._answered.is_set():
                        logger.warning("Flow run %s: a later attempt has taken over", self._attempt.run_id)
                        _send(self._child, _SUPERSEDED)
                    self._answered.set()
                    return
                self._answered.set()
            except BackendError as error:
                logger.warning("Flow run %s: its lease cannot be renewed: %s", self._attempt.run_id, error)
            if _cancel_asked.wait(self._beat):
                _cancel_asked.clear()
        if self._lease is not None:
            with contextlib.suppress(BackendError):
                self._lease.release()

    def _take_or_renew(self) -> bool:
        if self._lease is not None:
            kept = self._lease.renew()
            if kept and self._lease.cancel_asked and not self._cancel_passed_on:
                self._cancel_passed_on = True
                _send(self._child, CANCEL_SIGNAL)
            return kept
        holder = f"{os.uname().nodename}:{os.getpid()}:{new_nonce()}"
        self._lease = self._backend.flow_runs.lease(self._attempt.run_id, self._attempt.number, holder)
        return self._lease is not None


# ---------------------------------------------------------------------------------------------- the child


def _child(attempt: Attempt, load: Load, go: int, told: int, supervisor: int, tail: Tail) -> int:
    def hand_back(_got: int, _frame: Any) -> NoReturn:
        say(told)
        os._exit(ExitCode.HANDED_BACK)

    for number in (signal.SIGTERM, signal.SIGINT, _SUPERSEDED):
        signal.signal(number, hand_back)
    reset_signals_in_forks()
    die_with_parent()
    if os.getppid() != supervisor:
        return ExitCode.HANDED_BACK
    deaths.in_flow(attempt.run_id, attempt.number)
    backend = backends.current()
    with contextlib.suppress(BackendError):  # it is asked again, and answered, once the lease is there
        backend.store  # noqa: B018  (opened while the supervisor takes the lease; nothing of the run is touched)
    if os.read(go, 1) != b"g":
        return ExitCode.HANDED_BACK
    set_up()
    try:
        if attempt.number > 1 and not attempt.again:
            known = ended.state_of(backend, attempt.run_id)
            if known is not None:
                logger.info("Flow run %s has ended before: %s", attempt.run_id, known.name)
                return _code(known)
        flow = _flow(attempt, load, backend)
        keep(FlowLines(tail))
        return _run(attempt, flow)
    except (OtherFlow, RunExpired) as error:
        logger.error("%s", error)
        return ExitCode.USAGE
    except JournalLost as error:
        logger.error("Flow run %s: %s", attempt.run_id, error)
        return ExitCode.NOT_RECORDED
    except BackendError as error:
        logger.error(
            "Flow run %s cannot begin here: %s. Nothing was executed; start it again when the store answers",
            attempt.run_id, error,
        )  # fmt: skip
        return ExitCode.NOT_RECORDED
    except SerializationError as error:
        logger.error("Flow run %s cannot be continued here: %s", attempt.run_id, error)
        return ExitCode.NOT_RECORDED


def _flow(attempt: Attempt, load: Load, backend: Backend) -> FlowRun:
    """The run to execute; if the flow cannot be loaded, one that fails with the reason, so that it is recorded."""
    try:
        spec, parameters = load()
    except BackendError:
        raise
    except BaseException as error:  # noqa: BLE001  (importing user code raises anything, or calls sys.exit())
        failure = error

        def fail() -> None:
            raise failure

        spec, parameters = bare_flow(fail, name=attempt.entrypoint.rpartition(":")[2] or "flow"), {}
    return flow_engine.make_run(
        spec,
        attempt.run_id,
        parameters,
        name=attempt.name,
        deployment=attempt.deployment,
        tags=attempt.tags,
        backend=backend,
    )


def _run(attempt: Attempt, flow: FlowRun) -> int:
    started = time.monotonic()

    def break_off(got: int, _frame: Any) -> None:
        if flow.ending:
            return
        superseded = got == _SUPERSEDED
        error = flow.stop_here(Fenced("a later attempt has taken over") if superseded else HandBack("SIGTERM"))
        if flow.begun:  # before that, the engine looks as soon as the attempt can be ended in its journal
            raise error

    def interrupt(_got: int, _frame: Any) -> None:
        if flow.ending:
            return
        flow.stop_here(HandBack("SIGINT"))
        if flow.begun:
            raise KeyboardInterrupt

    def cancel(_got: int, _frame: Any) -> None:
        if flow.ending or flow.stopped is not None:
            return
        error = flow.stop_here(CancelRun("cancelled by a person"))
        if flow.begun:
            raise error

    flow.on_stop = lambda: _send(os.getpid(), signal.SIGTERM)
    for number in (signal.SIGTERM, _SUPERSEDED):
        signal.signal(number, break_off)
    signal.signal(signal.SIGINT, interrupt)
    signal.signal(CANCEL_SIGNAL, cancel)
    if _cancel_asked.is_set():  # while the flow was imported
        flow.stop_here(CancelRun("cancelled by a person"))
    try:
        if flow.spec.is_async:
            coroutine = flow_engine.arun(flow, attempt=attempt.number, again=attempt.again)
            state = loops.run_once(coroutine)
        else:
            state = flow_engine.run(flow, attempt=attempt.number, again=attempt.again)
        return _code(state)
    except Fenced as error:
        logger.warning("Flow run '%s' goes on elsewhere: %s", flow.name, error)
        return ExitCode.HANDED_BACK
    except CancelRun:
        return ExitCode.FAILED
    except JournalLost:
        raise
    except BaseException as error:
        if isinstance(error, Exception):
            raise
        if flow.stopped is None:  # the code's own doing, recorded as its failure: started again it would end so again
            return ExitCode.FAILED
        logger.info("Flow run '%s' is handed back after %.1f s", flow.name, time.monotonic() - started)
        return ExitCode.HANDED_BACK


def _code(state: State) -> int:
    return ExitCode.DONE if state.is_completed() else ExitCode.FAILED

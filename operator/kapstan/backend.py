"""The one place where settings become a queue, a store, a codec and the index of flow runs.

``current()`` is this process' backend; its parts are made when they are first used and shared by all threads. A forked
child keeps the settings and opens connections of its own. Everything above asks here and knows no adapter.
"""

from __future__ import annotations

import contextvars
import importlib
import os
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, cast

from kapstan import settings as settings_module
from kapstan.codec import Codec
from kapstan.settings import Settings
from kapstan.store import named

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    from kapstan.ports import (
        BackgroundRuns,
        EraRegister,
        FlowRuns,
        LockManager,
        LockTable,
        Objects,
        Queue,
        Register,
        Store,
    )
    from kapstan.store.marks import StorageMarks

T = TypeVar("T")
_ASYNC_THREADS = 8
_CLOCK_SECONDS = 60.0


class LockPlace(NamedTuple):
    """Where locks are kept. ``address``: a folder, or the address of a service; empty: the one of the settings."""

    kind: Literal["memory", "files", "redis", "postgres"]
    address: str = ""


class Backend:
    """Queue, store, codec and flow-run index of one ``Settings``; each made at its first use.

    The queue is ``redis_url``, else the embedded server of the home, which the first use starts. The store is
    ``s3_endpoint``, else files under the home. The index of flow runs is Redis where a ``redis_url`` is set, else
    files: ``python my_flow.py`` starts no server.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._lock = threading.RLock()
        self._parts: dict[str, Any] = {}
        self._users: list[Callable[[], object]] = []
        self._clock: tuple[float, float] | None = None  # the store's, and time.monotonic() then
        _alive.add(self)

    @property
    def codec(self) -> Codec:
        return self._part("codec", lambda: Codec.from_settings(self.settings))

    @property
    def queue(self) -> Queue:
        """Raises:
        QueueUnavailable: no Redis answers, or the embedded server does not start.
        """
        return self._part("queue", self._open_queue)

    @property
    def store(self) -> Store:
        """Raises:
        StoreUnsafe: the store's conditional writes do not hold (probed by the first process in ten minutes).
        StoreUnavailable: it does not answer.
        """
        return self._part("store", self._open_store)

    def objects(self, storage: str) -> Objects:
        """The result storage of that address (see ``store.named`` for ``block:``); "" is ``store``.

        Raises:
            ConfigurationError: an address that cannot be used with these settings.
            Unreadable: a block that this process does not have.
        """
        return (
            self._part(f"objects {storage}", lambda: named.objects(storage, self.settings)) if storage else self.store
        )

    def conditional(self, storage: str) -> Store:
        """As ``objects``, for what is changed by conditional writes.

        Raises:
            ConfigurationError: as ``objects``; or an object of the user's, which has none.
            StoreUnsafe, StoreUnavailable: as ``store``.
        """
        return (
            self._part(f"conditional {storage}", lambda: named.conditional(storage, self.settings))
            if storage
            else self.store
        )

    @property
    def marks(self) -> StorageMarks:
        """Raises:
        StoreUnsafe, StoreUnavailable: as ``store``.
        """
        from kapstan.store.marks import StorageMarks

        return self._part("marks", lambda: StorageMarks(self.store, self.codec))

    def mark(self, storage: str) -> str:
        """This namespace's mark in a result storage, below which its values there stand (see ``store.marks``).

        Raises:
            StoreUnavailable, StoreRefused: it cannot be read or noted now.
        """
        return self._part(f"mark {storage}", lambda: self.marks.of(storage))

    def store_time(self) -> float:
        """Unix seconds by the store's clock, which is asked once a minute and counted on from in between: a clock of
        this machine that is set decides nothing.

        Raises:
            StoreUnavailable: as ``store``.
        """
        now, known = time.monotonic(), self._clock
        if known is None or now - known[1] > _CLOCK_SECONDS:
            told = self.store.now()
            known = self._clock = told, time.monotonic()
            return told
        return known[0] + now - known[1]

    @property
    def register(self) -> Register:
        """Raises:
        StoreUnsafe, StoreUnavailable: as ``store``.
        """
        return self._part("register", self._open_register)

    @property
    def flow_runs(self) -> FlowRuns:
        return self._part("flow_runs", self._open_flow_runs)

    @property
    def background_runs(self) -> BackgroundRuns:
        """Raises:
        QueueUnavailable: as ``queue``.
        """
        return self._part("background_runs", self._open_background_runs)

    def locks(self, place: LockPlace) -> LockManager:
        """The locks that are kept at ``place``; one for each place, for all threads."""
        from kapstan.locks import memory

        if place.kind == "memory":
            return memory.of_this_process(self.settings.lease_seconds, self.settings.beat_seconds)
        return self._part(f"locks {place}", lambda: self._open_locks(place))

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """``function(*args)`` on a thread, in the caller's context: how asyncio callers reach the synchronous queue and
        store.

        For calls that end soon; what blocks until something happens gets a thread of its own.
        """
        import asyncio

        context = contextvars.copy_context()
        try:
            loop, threads = asyncio.get_running_loop(), self._part("threads", _make_threads)
            answer = loop.run_in_executor(threads, lambda: context.run(function, *args))
        except RuntimeError:  # the interpreter ends (an exit handler): no thread takes calls any more
            return function(*args)
        return await answer

    def later(self, function: Callable[..., object], *args: Any) -> None:
        """As ``call``, for whoever does not wait for the answer; what ``function`` raises is lost."""
        self._part("threads", _make_threads).submit(contextvars.copy_context().run, function, *args)

    def before_close(self, end: Callable[[], object]) -> None:
        """``end()`` is called once, before the parts are closed: it ends what uses them on threads of its own."""
        with self._lock:
            if end not in self._users:
                self._users.append(end)

    def close(self) -> None:
        """Close every part that was made; the backend may be used again and then makes new ones."""
        with self._lock:
            users, self._users = self._users, []
        for end in users:
            end()
        with self._lock:
            parts, self._parts = self._parts, {}
        threads: ThreadPoolExecutor | None = parts.pop("threads", None)
        if threads is not None:
            threads.shutdown(wait=False)
        parts.pop("codec", None)
        for part in parts.values():
            close = getattr(part, "close", None)
            if close is not None:
                close()

    def _part(self, name: str, make: Callable[[], T]) -> T:
        part = self._parts.get(name)
        if part is None:
            with self._lock:
                part = self._parts.get(name)
                if part is None:
                    part = self._parts[name] = make()
        return part

    def _open_queue(self) -> Queue:
        from kapstan.queue.redis import RedisQueue

        return RedisQueue(self.settings, _Era(self))

    def _open_store(self) -> Store:
        if not self.settings.s3_endpoint:
            from kapstan.store.local import LocalStore

            return LocalStore.from_settings(self.settings)
        from kapstan.store.s3 import S3Store

        store = S3Store.from_settings(self.settings)
        if store.probe_when_due():
            named.mark_as_a_namespace(store)
        return store

    def _open_locks(self, place: LockPlace) -> LockManager:
        from kapstan.locks.manager import Locks

        table: LockTable
        if place.kind == "files":
            from kapstan.locks.files import FileTable

            table = FileTable(Path(place.address), self.settings.redis_retry_seconds)
        elif place.kind == "postgres":
            from kapstan.locks.postgres import PostgresTable

            table = PostgresTable(place.address, self.settings.namespace, self.settings.redis_retry_seconds)
        else:
            from kapstan.locks.processes import said_for_people
            from kapstan.queue.locks import RedisTable

            settings = replace(self.settings, redis_url=place.address) if place.address else self.settings
            table = RedisTable(settings, said_for_people)
        return Locks(table, self.settings.lease_seconds, self.settings.beat_seconds, self)

    def _open_register(self) -> Register:
        from kapstan.store.register import StoredRegister

        return StoredRegister(self.store, self.codec, self.conditional)

    def _open_background_runs(self) -> BackgroundRuns:
        from kapstan.queue.background_runs import RedisBackgroundRuns
        from kapstan.queue.redis import RedisQueue

        return RedisBackgroundRuns(cast("RedisQueue", self.queue))

    def _open_flow_runs(self) -> FlowRuns:
        if self.settings.redis_url:
            from kapstan.queue.flow_runs import RedisFlowRuns
            from kapstan.queue.redis import RedisQueue

            return RedisFlowRuns(cast("RedisQueue", self.queue), self.codec)
        from kapstan.store.local_runs import LocalFlowRuns

        return LocalFlowRuns.from_settings(self.settings)

    def preload(self) -> None:
        """Import what the queue needs and connect to nothing: children that are forked afterwards share it."""
        importlib.import_module("kapstan.queue.redis")

    def forget_inherited(self) -> None:
        """Called in a forked child: the connections belong to the parent, so they are kept unused and untouched."""
        _inherited.append(self._parts)
        self._parts = {}
        self._users = []
        self._lock = threading.RLock()


class _Era:
    """The era register of a backend, opened when a session first asks: clients of the queue never need the store."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def current(self) -> int:
        return self._register.current()

    def raise_for(self, start: str, above: int) -> int:
        return self._register.raise_for(start, above)

    @property
    def _register(self) -> EraRegister:
        from kapstan.store.era import StoredEra

        return StoredEra(self._backend.store, self._backend.codec)


def _make_threads() -> ThreadPoolExecutor:
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(_ASYNC_THREADS, thread_name_prefix="kapstan-call")


_alive: weakref.WeakSet[Backend] = weakref.WeakSet()
_inherited: list[dict[str, Any]] = []
_current: Backend | None = None
_current_lock = threading.Lock()


def current() -> Backend:
    """This process' backend, from ``settings.current()`` at the first call."""
    global _current
    if _current is None:
        with _current_lock:
            _current = _current or Backend(settings_module.current())
    return _current


def use(settings: Settings | None) -> None:
    """Close this process' backend and go on with ``settings``; None reads the environment again."""
    global _current
    with _current_lock:
        before, _current = _current, None
        settings_module.use(settings)
    if before is not None:
        before.close()


def _after_fork() -> None:
    global _current_lock
    _current_lock = threading.Lock()
    for backend in list(_alive):
        backend.forget_inherited()


os.register_at_fork(after_in_child=_after_fork)

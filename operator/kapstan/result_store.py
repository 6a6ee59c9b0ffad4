"""``ResultStore``: results under keys of one's own. Users import it from ``kapstan.results``."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, cast

from kapstan import backend as backends
from kapstan import records, serializers, settings
from kapstan.context import current_flow, current_task
from kapstan.engine import cache_policy, storages
from kapstan.engine.options import ResultStorage
from kapstan.errors import ConfigurationError, Conflict, MissingResult
from kapstan.serializers import Serializer

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ResultRecordMetadata:
    """What is known of a stored result.

    Attributes:
        storage_key: its key in the storage.
        expiration: when it is over; None: never.
        created: when it was written.
        serializer: name of what wrote it.
        kind: class of the value, ``module.qualname``.
        version: of Kapstan.
    """

    storage_key: str
    expiration: datetime | None
    created: datetime
    serializer: str
    kind: str
    version: str


@dataclass(frozen=True, slots=True)
class ResultRecord:
    """A stored result: the value, and what is known of it."""

    result: Any
    metadata: ResultRecordMetadata

    @property
    def expiration(self) -> datetime | None:
        return self.metadata.expiration

    @property
    def serializer(self) -> Serializer:
        """Raises:
        ConfigurationError: no class here has that name.
        """
        return serializers.named(self.metadata.serializer)


@dataclass(frozen=True, kw_only=True)
class ResultStore:
    """Results under keys of one's own: written, read and looked for by any process that reaches the storage.

    Everything is signed for its key. A key is a relative path of at most 800 characters; one may not be the folder of
    another.

    Args:
        result_storage: a folder, ``s3://bucket/prefix``, or an object with ``read_path`` and ``write_path``. Default:
            the one of the settings.
        serializer: a name or a Serializer. Default: JSON where it is exact, else pickle.
        lock_manager: what ``acquire_lock`` and its like ask.

    Raises:
        ConfigurationError: an argument that cannot be, or a key that cannot be.
        BackendError: the storage does not answer, or refuses.
    """

    result_storage: ResultStorage | None = None
    serializer: Serializer | str | None = None
    lock_manager: Any = None

    def __post_init__(self) -> None:
        storage, configured = self.result_storage, settings.current()
        storage = configured.result_storage if storage is None else storage
        serializer = self.serializer or configured.result_serializer or None
        known = None if serializer is None else serializers.checked("serializer", serializer)
        cache_policy.check_lock_manager(self.lock_manager)
        object.__setattr__(self, "serializer", known)
        is_default = isinstance(storage, str) and not storage
        object.__setattr__(self, "_address", "" if is_default else storages.address("result_storage", storage))

    @property
    def address(self) -> str:
        """Of the storage, as text; "" for the store of the namespace."""
        return cast("str", vars(self)["_address"])

    def with_options(
        self,
        *,
        result_storage: ResultStorage | None = None,
        serializer: Serializer | str | None = None,
        lock_manager: Any = None,
    ) -> ResultStore:
        """A copy with other options; what is not named, or None, stays."""
        given = {"result_storage": result_storage, "serializer": serializer, "lock_manager": lock_manager}
        return replace(self, **{name: value for name, value in given.items() if value is not None})

    def read(self, key: str, holder: str | None = None) -> ResultRecord:
        """The result under ``key``; one that somebody else than ``holder`` has locked is waited for.

        Raises:
            MissingResult: nothing is there, or it is over.
            SignatureError: it was cut, changed or moved, or is signed by another key.
            UnreadableValue: it cannot be loaded here.
        """
        self._wait_for_others(key, holder)
        return self.read_now(key)

    def read_now(self, key: str) -> ResultRecord:
        """As ``read``, without waiting for who has locked the key."""
        with records.found(backends.current(), self.address, key) as found:
            if found is None:
                raise MissingResult(f"no result is stored under {key!r} in {self._where()}")
            if found.metadata.expires is not None and found.metadata.is_over(self._now()):
                raise MissingResult(f"the result under {key!r} in {self._where()} is over since {_shown(found)}")
            return ResultRecord(found.stream.value(), _public(found.metadata))

    def write(
        self,
        obj: Any,
        key: str | None = None,
        expiration: datetime | timedelta | None = None,
        holder: str | None = None,
    ) -> ResultRecord:
        """Store ``obj`` under ``key`` (default: a new one), in place of what was there.

        Args:
            expiration: when, or in how long, it is over.

        Raises:
            SerializationError, ValueTooLarge: the serializer does not carry it.
            Conflict: somebody else than ``holder`` has locked the key.
        """
        key = uuid.uuid4().hex if key is None else key
        self._check_not_locked(key, holder)
        written = self._given_to(records.write, obj, key, expires=self._moment(expiration))
        return ResultRecord(obj, _public(written))

    def write_new(self, obj: Any, key: str, *, holder: str | None = None) -> bool:
        """As ``write``, unless a result that is not over stands under ``key``: False then. Of several at once one is
        written; in an object with ``write_path`` that cannot be known, and the last one stands.

        Raises:
            SignatureError: what stands there was changed or moved.
            StoreUnsafe: the result has more than 8 MiB, and the store takes no conditions with an upload in parts.
        """
        self._check_not_locked(key, holder)
        return self._given_to(records.write_new, obj, key)

    def check_write(self, obj: Any, key: str) -> None:
        """Raise what ``write`` would for this value and key; nothing is written, and no lock is asked for."""
        self._given_to(records.check_write, obj, key)

    def exists(self, key: str) -> bool:
        """Whether a result stands under ``key`` that is not over. A storage that is away is an error, never a no.

        Raises:
            SignatureError: what stands there was changed or moved.
        """
        with records.found(backends.current(), self.address, key) as found:
            if found is None:
                return False
            return found.metadata.expires is None or not found.metadata.is_over(self._now())

    async def aread(self, key: str, holder: str | None = None) -> ResultRecord:
        """As ``read``."""
        call = backends.current().call
        if self.lock_manager is not None and await call(self._is_others, key, holder):
            await self.await_for_lock(key)  # on the loop: threads for calls that end soon are few
        return await call(self.read_now, key)

    async def awrite(
        self,
        obj: Any,
        key: str | None = None,
        expiration: datetime | timedelta | None = None,
        holder: str | None = None,
    ) -> ResultRecord:
        """As ``write``."""
        return await backends.current().call(self.write, obj, key, expiration, holder)

    async def awrite_new(self, obj: Any, key: str, *, holder: str | None = None) -> bool:
        """As ``write_new``."""
        return await backends.current().call(lambda: self.write_new(obj, key, holder=holder))

    async def aexists(self, key: str) -> bool:
        """As ``exists``."""
        return await backends.current().call(self.exists, key)

    # ------------------------------------------------------------------ locks

    def generate_default_holder(self) -> str:
        """A name for a holder of locks that nobody else has."""
        return uuid.uuid4().hex

    def acquire_lock(self, key: str, holder: str | None = None, timeout: float | None = None) -> bool:
        """Lock ``key`` for ``holder``; False if it was not free within ``timeout`` seconds.

        Raises (this and the others below):
            ConfigurationError: the store has no lock manager.
        """
        return self._locks.acquire_lock(key, _holder(holder), timeout)

    async def aacquire_lock(self, key: str, holder: str | None = None, timeout: float | None = None) -> bool:  # noqa: ASYNC109
        """As ``acquire_lock``."""
        return await self._locks.aacquire_lock(key, _holder(holder), timeout)

    def release_lock(self, key: str, holder: str | None = None) -> None:
        """Free ``key``."""
        self._locks.release_lock(key, _holder(holder))

    async def arelease_lock(self, key: str, holder: str | None = None) -> None:
        """As ``release_lock``."""
        await self._locks.arelease_lock(key, _holder(holder))

    def wait_for_lock(self, key: str, timeout: float | None = None) -> bool:
        """Wait until nobody holds ``key``; False after ``timeout`` seconds."""
        return self._locks.wait_for_lock(key, timeout)

    async def await_for_lock(self, key: str, timeout: float | None = None) -> bool:  # noqa: ASYNC109
        """As ``wait_for_lock``."""
        return await self._locks.await_for_lock(key, timeout)

    def is_locked(self, key: str) -> bool:
        return self._locks.is_locked(key)

    def is_lock_holder(self, key: str, holder: str | None = None) -> bool:
        return self._locks.is_lock_holder(key, _holder(holder))

    @property
    def _locks(self) -> Any:
        if self.lock_manager is None:
            raise ConfigurationError("this ResultStore has no lock_manager: give it one, such as MemoryLockManager()")
        return self.lock_manager

    # ------------------------------------------------------------------ inside

    def _given_to(self, function: Callable[..., T], obj: Any, key: str, **further: Any) -> T:
        """What a function of ``records`` makes of a value and its key."""
        options = {"serializer": self.serializer, "what": f"the result for {key!r}", **further}
        return function(backends.current(), self.address, key, obj, **options)

    def _wait_for_others(self, key: str, holder: str | None) -> None:
        if self.lock_manager is not None and self._is_others(key, holder):
            self.wait_for_lock(key)

    def _check_not_locked(self, key: str, holder: str | None) -> None:
        if self.lock_manager is not None and self._is_others(key, holder):
            raise Conflict(f"the result under {key!r} is locked by somebody else")

    def _is_others(self, key: str, holder: str | None) -> bool:
        return self.is_locked(key) and not self.is_lock_holder(key, holder)

    def _now(self) -> float:
        return records.now(backends.current(), self.address)

    def _moment(self, expiration: datetime | timedelta | None) -> float | None:
        if expiration is None:
            return None
        wanted = f"expiration={expiration!r}: give a timedelta or a datetime, of the years 1 to 9999; without it never"
        try:
            if isinstance(expiration, timedelta):
                moment = self._now() + expiration.total_seconds()
            elif isinstance(cast("Any", expiration), datetime):
                moment = (expiration if expiration.tzinfo is not None else expiration.replace(tzinfo=UTC)).timestamp()
            else:
                raise ConfigurationError(wanted)
            datetime.fromtimestamp(moment, UTC)
        except (ValueError, OverflowError):
            raise ConfigurationError(wanted) from None
        return moment

    def _where(self) -> str:
        return self.address or "the store of the namespace"


def get_result_store() -> ResultStore:
    """The store of the task or flow that runs here, with the storage and serializer that its results have; outside of
    a run that of the settings."""
    flow, task = current_flow.get(), current_task.get()
    options: list[Any] = [None if task is None else task.result_options, None if flow is None else flow.spec]
    storage = next((of.result_storage for of in options if of is not None and of.result_storage), None)
    serializer = next((of.result_serializer for of in options if of is not None and of.result_serializer), None)
    return ResultStore(result_storage=storage, serializer=serializer)


def get_default_result_storage() -> str:
    """Where results go that name no storage: what ``KAPSTAN_RESULT_STORAGE`` says, else ``namespace:``, which stands
    for the store of the namespace."""
    configured = settings.current().result_storage
    return storages.address("KAPSTAN_RESULT_STORAGE", configured) if configured else storages.NAMESPACE


def _holder(holder: str | None) -> str:
    """Without a name the holder is the task run, else the flow run, that asks."""
    if holder is not None:
        return holder
    run = current_task.get() or current_flow.get()
    return "nobody" if run is None else str(run.run_id)


def _public(metadata: records.Metadata) -> ResultRecordMetadata:
    expires = None if metadata.expires is None else datetime.fromtimestamp(metadata.expires, UTC)
    created = datetime.fromtimestamp(metadata.created, UTC)
    return ResultRecordMetadata(metadata.key, expires, created, metadata.serializer, metadata.kind, metadata.version)


def _shown(found: records.Found) -> str:
    return datetime.fromtimestamp(found.metadata.expires or 0, UTC).isoformat(timespec="seconds")

"""How the result of a run is kept: by which serializer, in which storage, under which key; whole or in pieces.

A result up to ``STREAMED_BYTES`` becomes one envelope. A larger one is never whole in memory beside the value: it goes
to the storage in signed pieces (``sealed_stream``) while it is serialised, and is read in the same way.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

from kapstan import records, sealed_stream, serializers
from kapstan.backend import Backend
from kapstan.codec import LongValue, Reference
from kapstan.engine import storages, values
from kapstan.ids import RunId
from kapstan.sealed_stream import Place
from kapstan.serializers import Serializer
from kapstan.settings import Settings
from kapstan.specs import FlowSpec, TaskSpec

STREAMED_BYTES = 16 * 1024 * 1024


class Keeping(NamedTuple):
    """How one result is kept.

    Attributes:
        serializer: None: JSON where that is exact, else pickle.
        storage: address of the result storage that takes it, whatever its size; "": results up to ``inline_bytes`` ride
            along, larger ones go to the store of the namespace.
        record: key in the storage under which it also stands for other readers, "" for none.
        swept: as ``values.new_name``.
    """

    serializer: Serializer | None = None
    storage: str = ""
    record: str = ""
    swept: bool = True

    @property
    def must_store(self) -> bool:
        """Whether the storage takes it, however small it is."""
        return bool(self.storage or self.record)

    def whole(self, backend: Backend, value: Any, key: str, name: str, *, however_long: bool = False) -> bytes | None:
        """The envelope of a result, signed for ``key``: its run, or the path of its register; None: it is longer than
        ``STREAMED_BYTES``.

        Raises:
            SerializationError, ValueTooLarge: it cannot be kept; the message names the task or flow ``name``.
        """
        most = 0 if however_long else STREAMED_BYTES
        what = f"the result of {name}"
        try:
            return backend.codec.encode(value, "result", key, what=what, serializer=self.serializer, most=most)
        except LongValue:
            return None

    def streamed(self, backend: Backend, value: Any, key: str, name: str, owner: RunId = "") -> bytes:
        """As ``whole``, of any length: the envelope that refers to the storage, which has it now. ``owner``: as
        ``values.to_store``.

        Raises:
            SerializationError, ValueTooLarge: as ``whole``.
            BackendError: the storage does not take it.
        """
        place, nonce = values.new_name(backend, key, owner, self.storage, swept=self.swept), sealed_stream.new_nonce()
        with backend.objects(self.storage).upload(place) as target:
            size = sealed_stream.write(
                backend.codec,
                value,
                target,
                Place("result", key),
                nonce=nonce,
                what=f"the result of {name}",
                serializer=self.serializer or serializers.chosen(value),
            )
        reference = Reference(place, sealed_stream.digest_of(nonce), size, self.storage)
        return backend.codec.refer(reference, "result", key)

    def stored(self, backend: Backend, envelope: bytes, key: str, owner: RunId = "") -> bytes:
        """The envelope that refers to ``envelope``, which the storage has now.

        Raises:
            BackendError: the storage does not take it.
        """
        return values.to_store(backend, envelope, "result", key, owner, self.storage, swept=self.swept)

    def sealed(self, backend: Backend, value: Any, key: str, name: str, register: str = "") -> bytes:
        """The envelope of a register's result, of whatever length: its storage has it now where it does not ride along.

        Args:
            register: the storage that the register is in. One of its own takes large results, too, since in the store
                of the namespace retention would look for the register and not find it.

        Raises:
            SerializationError, ValueTooLarge, BackendError: as ``streamed``.
        """
        envelope = self.whole(backend, value, key, name)
        if envelope is not None and not self.storage and len(envelope) <= backend.settings.inline_bytes:
            return envelope
        kept = self._replace(storage=self.storage or register, swept=False) if register else self
        if envelope is None:
            return kept.streamed(backend, value, key, name)
        return kept.stored(backend, envelope, key)

    def write_record(self, backend: Backend, value: Any, name: str) -> None:
        """Put ``value`` under ``record``, where ``ResultStore.read`` finds it.

        Raises:
            SerializationError, ValueTooLarge, BackendError: as ``streamed``.
        """
        if self.record:
            what = f"the result of {name}"
            records.write(backend, self.storage, self.record, value, serializer=self.serializer, what=what)


PLAIN = Keeping()


def keeping(spec: TaskSpec | FlowSpec, flow: FlowSpec | None, settings: Settings, record: str = "") -> Keeping:
    """How results of ``spec`` are kept: as it says, else as the flow that calls it, else as the settings.

    Raises:
        ConfigurationError: a setting that cannot be.
    """
    serializer, storage = spec.result_serializer, spec.result_storage
    if flow is not None:
        serializer, storage = serializer or flow.result_serializer, storage or flow.result_storage
    if settings.result_serializer or settings.result_storage:
        default = _default(settings.result_serializer, settings.result_storage)
        serializer, storage = serializer or default.serializer, storage or default.storage
    if serializer is None and not storage and not record:
        return PLAIN
    return Keeping(serializer, storage or "", record)


def check_default(backend: Backend) -> None:
    """See, before anything is executed, that results can go where the settings say.

    Raises:
        ConfigurationError: they cannot.
    """
    settings = backend.settings
    if settings.result_serializer or settings.result_storage:
        backend.objects(_default(settings.result_serializer, settings.result_storage).storage)


@lru_cache(8)
def _default(serializer: str, storage: str) -> Keeping:
    return Keeping(
        serializers.checked("KAPSTAN_RESULT_SERIALIZER", serializer) if serializer else None,
        storages.address("KAPSTAN_RESULT_STORAGE", storage) if storage else "",
    )

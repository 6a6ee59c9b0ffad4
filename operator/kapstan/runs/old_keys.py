"""Results of keys that are kept no longer: of a register that was committed long ago stays a grave, which tells that it
was done; then the result's object goes. Called by ``sweep``.

The grave is a conditional write of the very record that was looked at, so a call that has the key executed anew
meanwhile, or another sweep, wins or loses it whole. Who dies between the two leaves an object that nothing refers to.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator
from operator import itemgetter
from typing import Any, NamedTuple, Protocol
from urllib.parse import unquote

from kapstan.backend import Backend
from kapstan.codec import Reference
from kapstan.errors import ImpossibleChange, SerializationError, StoreUnsafe
from kapstan.ports import Entry, Listed, RegisterEvent, RegisterKey, RegisterRecord, RegisterState
from kapstan.runs.retention import Ages, Kept, is_old
from kapstan.states import EffectClass

GRAVE_BYTES = 185
"""A register's object of at most this size is a grave, which has neither holder nor result: it is not read again."""


class StoredKey(NamedTuple):
    """What a store holds of one key. ``name``: the folder of its task, a slash, and the key."""

    name: str
    register: Listed | None
    values: list[Listed]


class Gone(NamedTuple):
    """What goes of a key. ``buried``: its register, if that became a grave now."""

    buried: Listed | None
    values: list[Listed]


class _Listing(Protocol):
    def listed(self, prefix: str) -> Iterator[Listed]: ...


def keys_of(store: _Listing) -> Iterator[StoredKey]:
    """Every key that has a register or values; two listings side by side."""
    registers = ((entry.key.partition("/")[2], entry) for entry in store.listed("registers/"))
    values = ((entry.key.partition("/")[2].rpartition("/")[0], entry) for entry in store.listed("results/"))
    both = heapq.merge(registers, values, key=itemgetter(0))
    for name, group in itertools.groupby(both, key=itemgetter(0)):
        entries = [entry for _, entry in group]
        register = next((entry for entry in entries if entry.key.startswith("registers/")), None)
        yield StoredKey(name, register, [entry for entry in entries if entry is not register])


def look_at(
    backend: Backend, key: StoredKey, ages: Ages, now: float, *, dry_run: bool, storage: str = ""
) -> Gone | Kept | None:
    """Bury the register of ``key`` if its time is over; what is to be deleted then, or why it stays. None: nothing is
    old enough.

    Args:
        now: by the store's clock.
        storage: where the values are, "" for the store of the namespace.
    """
    due = _due(key.register, ages, now)
    age = ages.orphans
    if storage and ages.registers is not None:  # its register was buried a moment ago
        age = min(age, max(ages.registers, ages.grace))
    old = [value for value in key.values if is_old(value, age, now)]
    if due is None and not old:
        return None
    task, _, text = key.name.partition("/")
    place = RegisterKey(unquote(task), text)
    path = backend.register.path(place)
    if path != f"registers/{key.name}":
        return Kept.FOREIGN
    try:
        entry = backend.register.read(place)
        named = None if entry is None else _named(backend, entry.record, path, storage)
    except (StoreUnsafe, SerializationError):
        return Kept.UNREADABLE
    if entry is None:
        return Gone(None, old)
    record = entry.record
    if due is not None and record.state is RegisterState.COMMITTED:
        # Listed again: it may have been written anew between the first listing and the reading.
        if not all(_due(again, ages, now) for again in backend.store.listed(path)):
            return Kept.CHANGED
        if not dry_run and not _bury(backend, place, entry, now):
            return Kept.CHANGED
        everything = record.effect is not EffectClass.PURE  # nobody commits to a grave of these
        return Gone(due, [v for v in key.values if everything or v in old or v.key == named])
    if record.state in (RegisterState.INTENT, RegisterState.PARKED):
        return Kept.OPEN  # its result may be stored already, and be committed yet
    unnamed = [value for value in old if value.key != named]
    return Gone(None, unnamed) if unnamed else None


def _due(register: Listed | None, ages: Ages, now: float) -> Listed | None:
    """``register``, if it is old enough and no grave."""
    if register is None or ages.registers is None or register.size <= GRAVE_BYTES:
        return None
    return register if is_old(register, ages.registers, now) else None


def _bury(backend: Backend, key: RegisterKey, entry: Entry, now: float) -> bool:
    empty: dict[str, Any] = {"holder": None, "outcome": "", "result": b"", "evidence": {}, "told": {}, "begun": 0.0}
    try:
        grave = backend.register.change(
            key, entry, RegisterEvent.BURY, entry.record.effect, **empty, inputs="", inputs_shown="", at=now
        )
    except ImpossibleChange:
        return False
    return grave is not None


def _named(backend: Backend, record: RegisterRecord, path: str, storage: str) -> str | None:
    """The object of ``storage`` that a record refers to, as it is called among the values that are looked at.

    Raises:
        SignatureError, UnreadableValue: it cannot be told.
    """
    if not record.result:
        return None
    reference: Reference | None = backend.codec.reference(record.result, "result", path)
    if reference is None or reference.storage != storage:
        return None
    return reference.key[reference.key.index("results/") :] if storage else reference.key

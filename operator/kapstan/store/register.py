"""``ports.Register``: signed objects in a store, changed by conditional writes only. Made by ``backend``.

A write carries a nonce of its own, so the store tells its writer's bytes from everybody else's: a reply that was lost
is recognised by reading the object back.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import Any, cast
from urllib.parse import quote, unquote

from kapstan.codec import Codec
from kapstan.errors import ImpossibleChange, StoreUnsafe
from kapstan.ids import new_nonce
from kapstan.ports import Store, Stored
from kapstan.ports.register import (
    TRANSITIONS,
    Entry,
    Holder,
    RegisterEvent,
    RegisterKey,
    RegisterRecord,
    RegisterState,
)
from kapstan.states import EffectClass

FORMAT = 1
READABLE = (FORMAT,)
FOLDER = "registers"
_LONGEST_TASK = 150  # characters of a task's identity in a path; a file name may have 255, in which "%" takes three


class StoredRegister:
    """See ``ports.Register``."""

    def __init__(self, store: Store, codec: Codec, others: Callable[[str], Store] | None = None) -> None:
        """
        Args:
            others: the store of a key that has a storage of its own.
        """
        self._store = store
        self._codec = codec
        self._others = others

    def _store_of(self, storage: str) -> Store:
        if not storage:
            return self._store
        assert self._others is not None, storage
        return self._others(storage)

    def path(self, key: RegisterKey) -> str:
        return f"{FOLDER}/{_folder_of(key.task)}/{key.key}"

    def all_keys(self, storage: str = "") -> Iterator[RegisterKey]:
        """The task of a key whose identity is too long for a path is the path's."""
        for path in self._store_of(storage).keys(f"{FOLDER}/"):
            _, task, key = path.split("/", 2)
            yield RegisterKey(unquote(task), key, storage)

    def read(self, key: RegisterKey) -> Entry | None:
        path = self.path(key)
        stored = self._store_of(key.storage).get(path)
        return None if stored is None else Entry(self._record(stored, path), stored.version)

    def change(
        self, key: RegisterKey, before: Entry | None, event: RegisterEvent, effect: EffectClass, **fields: Any
    ) -> Entry | None:
        path = self.path(key)
        record = changed(None if before is None else before.record, event, effect, **fields)
        body = self._codec.encode(_to_json(record), "register", path, what=f"the register of {key.task}")
        if before is None:
            version = self._store_of(key.storage).create_version(path, body)
        else:
            version = self._store_of(key.storage).replace(path, body, before.version)
        return None if version is None else Entry(record, version)

    def _record(self, stored: Stored, path: str) -> RegisterRecord:
        value: Any = self._codec.decode_json(stored.body, "register", path)
        if not isinstance(value, dict) or cast("dict[str, Any]", value).get("v") not in READABLE:
            found = cast("dict[str, Any]", value).get("v") if isinstance(value, dict) else type(value).__name__
            raise StoreUnsafe(f"the register {path} has format {found!r}; this release reads {READABLE}")
        try:
            return _from_json(cast("dict[str, Any]", value))
        except (KeyError, TypeError, ValueError, binascii.Error) as error:
            raise StoreUnsafe(f"the register {path} cannot be read: {error!r}") from error


def changed(before: RegisterRecord | None, event: RegisterEvent, effect: EffectClass, **fields: Any) -> RegisterRecord:
    """The record that ``event`` makes of ``before``; a pure function but for its nonce.

    Raises:
        ImpossibleChange: ``TRANSITIONS`` has no such change.
    """
    state = RegisterState.ABSENT if before is None else before.state
    transition = TRANSITIONS.get((state, event))
    if transition is None or effect not in transition.classes:
        raise ImpossibleChange(f"a register that is {state} cannot {event} for a task of class {effect.name.lower()}")
    if before is None or transition.grows:
        kept = RegisterRecord(transition.after, 1, "")
        if before is not None:
            kept = replace(kept, epoch=before.epoch + 1, told=before.told)
    else:
        kept = replace(before, state=transition.after)
    return replace(kept, nonce=new_nonce(), effect=effect, **fields)


def _folder_of(task: str) -> str:
    """The folder of a task. It is that of its own name, too: ``all_keys`` gives the task of a long one in short."""
    quoted = _quoted(task)
    if len(quoted) <= _LONGEST_TASK:
        return quoted
    start = task[: _LONGEST_TASK - 33]
    while len(_quoted(start)) > _LONGEST_TASK - 33:
        start = start[:-1]
    return f"{_quoted(start)}-{hashlib.sha256(task.encode()).hexdigest()[:32]}"


def _quoted(task: str) -> str:
    quoted = quote(task, safe="-_.")
    return quoted.replace(".", "%2E") if task.startswith(".") else quoted


def _to_json(record: RegisterRecord) -> dict[str, Any]:
    """Without what is empty."""
    value: dict[str, Any] = {
        "v": FORMAT,
        "state": record.state.value,
        "epoch": record.epoch,
        "nonce": record.nonce,
        "effect": record.effect.value,
        "holder": None if record.holder is None else asdict(record.holder),
        "at": record.at,
        "begun": record.begun,
        "outcome": record.outcome,
        "result": base64.b64encode(record.result).decode(),
        "expires": record.expires,
        "evidence": dict(record.evidence),
        "told": dict(record.told),
        "inputs": record.inputs,
        "inputs_shown": record.inputs_shown,
    }
    return {name: entry for name, entry in value.items() if entry not in (None, "", {})}


def _from_json(value: dict[str, Any]) -> RegisterRecord:
    """Fields that this release does not know are left out: they do not change what it decides (see the format)."""
    holder = value.get("holder")
    known = Holder.__dataclass_fields__
    return RegisterRecord(
        RegisterState(value["state"]),
        int(value["epoch"]),
        str(value["nonce"]),
        EffectClass(value["effect"]),
        None if holder is None else Holder(**{name: entry for name, entry in holder.items() if name in known}),
        float(value.get("at", 0.0)),
        float(value.get("begun", 0.0)),
        str(value.get("outcome", "")),
        base64.b64decode(value.get("result", ""), validate=True),
        value.get("expires"),
        value.get("evidence", {}),
        value.get("told", {}),
        str(value.get("inputs", "")),
        str(value.get("inputs_shown", "")),
    )

"""What a register promises on both stores: the table of transitions and nothing else, and named errors for bad
objects."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from kapstan.backend import Backend
from kapstan.errors import ImpossibleChange, SignatureError, StoreUnsafe
from kapstan.ports.register import (
    TRANSITIONS,
    Entry,
    Holder,
    Proof,
    RegisterEvent,
    RegisterKey,
    RegisterState,
)
from kapstan.settings import Settings
from kapstan.states import EffectClass
from kapstan.store.register import StoredRegister

KEY = RegisterKey("shop.tasks:charge", "K" * 52)
HOLDER = Holder("run-1", "process-1", "boot", 7, 99)
_S, _E = RegisterState, RegisterEvent
ONCE, PURE, AGAIN = EffectClass.AT_MOST_ONCE, EffectClass.PURE, EffectClass.IDEMPOTENT
WAYS: dict[RegisterState, list[tuple[RegisterEvent, EffectClass]]] = {
    _S.ABSENT: [],
    _S.INTENT: [(_E.BEGIN, ONCE)],
    _S.COMMITTED: [(_E.BEGIN, ONCE), (_E.COMMIT, ONCE)],
    _S.RELEASED: [(_E.BEGIN, ONCE), (_E.RELEASE, ONCE)],
    _S.PARKED: [(_E.BEGIN, ONCE), (_E.PARK, ONCE)],
    _S.GRAVE: [(_E.BEGIN, ONCE), (_E.COMMIT, ONCE), (_E.BURY, ONCE)],
}
"""How to get to a state."""


def at(backend: Backend, state: RegisterState, key: RegisterKey) -> Entry | None:
    entry: Entry | None = None
    for event, effect in WAYS[state]:
        entry = backend.register.change(key, entry, event, effect)
        assert entry is not None
    return entry


def test_nothing_is_known_of_a_fresh_key(backend: Backend) -> None:
    assert backend.register.read(KEY) is None


def test_every_field_is_read_back(backend: Backend) -> None:
    fields = {"holder": HOLDER, "at": 12.5, "begun": 11.0, "evidence": {"guard": 3}, "expires": 99.5}
    made = backend.register.change(KEY, None, _E.BEGIN, ONCE, outcome="failed", result=b"\0\xff", **fields)
    assert made is not None
    read = backend.register.read(KEY)
    assert read == made
    assert (read.record.holder, read.record.result, read.record.epoch) == (HOLDER, b"\0\xff", 1)


def test_a_change_within_an_epoch_keeps_its_fields_and_a_new_epoch_begins_anew(backend: Backend) -> None:
    intent = backend.register.change(KEY, None, _E.BEGIN, ONCE, holder=HOLDER, begun=5.0, evidence={"a": 1})
    released = backend.register.change(KEY, intent, _E.RELEASE, ONCE, outcome="failed")
    assert released is not None
    assert (released.record.holder, released.record.begun, released.record.epoch) == (HOLDER, 5.0, 1)
    again = backend.register.change(KEY, released, _E.BEGIN, ONCE)
    assert again is not None
    assert (again.record.epoch, again.record.holder, again.record.outcome, again.record.evidence) == (2, None, "", {})


@pytest.mark.parametrize("state", list(RegisterState))
def test_the_register_makes_the_changes_of_the_table_and_no_other(backend: Backend, state: RegisterState) -> None:
    made = 0
    for number, (event, effect) in enumerate(itertools.product(RegisterEvent, EffectClass)):
        key = KEY._replace(key=f"{state}{number}")
        before = at(backend, state, key)
        transition = TRANSITIONS.get((state, event))
        if transition is None or effect not in transition.classes:
            with pytest.raises(ImpossibleChange, match=f"is {state} cannot {event}"):
                backend.register.change(key, before, event, effect)
            assert backend.register.read(key) == before
            continue
        after = backend.register.change(key, before, event, effect)
        assert after is not None
        epoch = 0 if before is None else before.record.epoch
        assert (after.record.state, after.record.epoch) == (transition.after, epoch + transition.grows)
        assert backend.register.read(key) == after
        made += 1
    assert made == sum(len(found.classes) for (start, _), found in TRANSITIONS.items() if start is state)


def test_the_table_is_what_the_protocol_says() -> None:
    """What must hold of every row, so that a wrong row is found before a wrong run is."""
    for (state, event), row in TRANSITIONS.items():
        assert row.after is not RegisterState.ABSENT, "a register never goes away"
        if state is RegisterState.GRAVE:
            assert row.classes == {PURE} or row.proof is Proof.EXPIRED, "what had an effect is not begun from a grave"
        if row.after is RegisterState.INTENT:
            assert PURE not in row.classes
            assert row.grows is (event is not RegisterEvent.GUARD), "every intent has an epoch of its own"
        if state is RegisterState.INTENT and row.after is RegisterState.INTENT and row.grows:
            assert ONCE not in row.classes, "nobody takes over what may happen once only"
        if state is RegisterState.COMMITTED:
            assert event in (_E.REFRESH, _E.RENEW, _E.BURY, _E.UNDO), "a result stands until it expires, or is undone"


def test_who_names_an_old_version_changes_nothing(backend: Backend) -> None:
    intent = backend.register.change(KEY, None, _E.BEGIN, ONCE)
    committed = backend.register.change(KEY, intent, _E.COMMIT, ONCE, result=b"42")
    assert committed is not None
    assert backend.register.change(KEY, intent, _E.RELEASE, ONCE) is None
    assert backend.register.change(KEY, intent, _E.COMMIT, ONCE, result=b"43") is None
    assert backend.register.change(KEY, None, _E.BEGIN, ONCE) is None
    assert backend.register.read(KEY) == committed


def _tampered(backend: Backend, how: str) -> bytes:
    entry = backend.register.change(KEY._replace(key="other"), None, _E.BEGIN, ONCE)
    assert entry is not None
    codec, path = backend.codec, backend.register.path(KEY)
    stored = backend.store.get(backend.register.path(KEY._replace(key="other")))
    assert stored is not None
    good = codec.decode_json(stored.body, "register", backend.register.path(KEY._replace(key="other")))
    return {
        "empty": b"",
        "unsigned": b'{"v":1,"state":"released","epoch":1,"nonce":"n","effect":"a"}',
        "moved": stored.body,
        "of another purpose": codec.encode(good, "result", path),
        "newer": codec.encode({**good, "v": 2}, "register", path),
        "no record": codec.encode([1, 2], "register", path),
        "without an epoch": codec.encode({k: v for k, v in good.items() if k != "epoch"}, "register", path),
        "of an unknown state": codec.encode({**good, "state": "half done"}, "register", path),
        "with a broken result": codec.encode({**good, "result": "?"}, "register", path),
        "with a broken holder": codec.encode({**good, "holder": {"pid": 3}}, "register", path),
    }[how]


HOWS = {
    "empty": SignatureError,
    "unsigned": SignatureError,
    "moved": SignatureError,
    "of another purpose": SignatureError,
    "newer": StoreUnsafe,
    "no record": StoreUnsafe,
    "without an epoch": StoreUnsafe,
    "of an unknown state": StoreUnsafe,
    "with a broken result": StoreUnsafe,
    "with a broken holder": StoreUnsafe,
}


@pytest.mark.parametrize("how", HOWS)
def test_a_bad_object_is_an_error_and_never_absent(backend: Backend, how: str) -> None:
    backend.store.put(backend.register.path(KEY), _tampered(backend, how))
    with pytest.raises(HOWS[how]):
        backend.register.read(KEY)
    assert backend.register.change(KEY, None, _E.BEGIN, ONCE) is None, "a bad object was replaced"


def test_an_object_of_another_namespace_is_refused(backend: Backend, setting: Settings) -> None:
    other = Backend(replace(setting, namespace=f"{setting.namespace}x"))
    try:
        assert other.register.change(KEY, None, _E.BEGIN, ONCE) is not None
        stored = other.store.get(other.register.path(KEY))
    finally:
        other.close()
    assert stored is not None
    backend.store.put(backend.register.path(KEY), stored.body)
    with pytest.raises(SignatureError):
        backend.register.read(KEY)


TASKS = [
    "a:b",
    "shop.tasks:charge",
    "..",
    ".",
    ".hidden",
    "päckchen",
    "a/b",
    "a b",
    "x" * 500,
    "x" * 499 + "y",
    "ü" * 90,
    "überweisung-" + "ä" * 60,
    "." + "a.b/c d:" * 25,
]


def test_tasks_of_any_name_have_a_place_of_their_own(backend: Backend) -> None:
    for number, task in enumerate(TASKS):
        assert backend.register.change(RegisterKey(task, "k"), None, _E.BEGIN, ONCE, begun=float(number)) is not None
    for number, task in enumerate(TASKS):
        read = backend.register.read(RegisterKey(task, "k"))
        assert read is not None
        assert read.record.begun == number
    keys = list(backend.register.all_keys())
    listed = [key.task for key in keys]
    assert len(listed) == len(TASKS)
    found = [backend.register.read(key) for key in keys]
    assert sorted(entry.record.begun for entry in found if entry is not None) == list(range(len(TASKS)))
    assert {"a:b", "shop.tasks:charge", "..", "a/b", "päckchen"} <= set(listed)


def test_a_register_of_a_store_alone_needs_no_backend(backend: Backend, tmp_path: Path) -> None:
    """Who has only store and codec (a sweep, a tool) reads the same."""
    made = backend.register.change(KEY, None, _E.PUBLISH, PURE, result=b"r")
    assert StoredRegister(backend.store, backend.codec).read(KEY) == made

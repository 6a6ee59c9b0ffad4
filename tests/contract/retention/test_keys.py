"""Results of keys: what goes of them, what never does, and sweeps that die or meet a call."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from tests.contract.retention.makers import LARGE, Shop
from tests.contract.retention.test_at_once import killed

from kapstan import backend as backends
from kapstan.codec import Reference, digest
from kapstan.engine import task_run
from kapstan.engine.keyed import BEGUN, KeyedRun
from kapstan.errors import KeyExpired
from kapstan.ids import new_id
from kapstan.ports.register import Entry, Holder, RegisterEvent, RegisterKey, RegisterState
from kapstan.runs import old_keys
from kapstan.runs.old_keys import GRAVE_BYTES
from kapstan.runs.retention import DAY, Ages, Kept
from kapstan.states import Completed, EffectClass
from kapstan.tasks import Task

KEYS = Ages(30 * DAY, registers=30 * DAY)
E, S = RegisterEvent, RegisterState
ONCE, PURE = EffectClass.AT_MOST_ONCE, EffectClass.PURE
EFFECTS = pytest.mark.parametrize("effect", [ONCE, PURE], ids=lambda effect: effect.name.lower())
_keys = itertools.count(1)


class Keys:
    """The registers of one namespace, in states as runs leave them."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.register = shop.backend.register

    def made(self, effect: EffectClass, *events: RegisterEvent, large: bool = True, **fields: Any) -> RegisterKey:
        """A new key to which ``events`` happened; a commit has a result, an object of its own if ``large``."""
        key = RegisterKey("shop:pay", f"{next(_keys):052d}")
        self.change(key, None, effect, *events, large=large, **fields)
        return key

    def change(
        self,
        key: RegisterKey,
        entry: Entry | None,
        effect: EffectClass,
        *events: RegisterEvent,
        large: bool = True,
        **more: Any,
    ) -> None:
        for event in events:
            fields: dict[str, Any] = {}
            if event in (E.BEGIN, E.RENEW):
                fields["holder"] = Holder("0" * 22, "process")
            elif event in (E.COMMIT, E.PUBLISH, E.REFRESH):
                fields = {"outcome": "completed", "result": self.result(key, large), **more}
            entry = self.register.change(key, entry, event, effect, **fields)
            assert entry is not None

    def result(self, key: RegisterKey, large: bool = True) -> bytes:
        """The envelope of a result, which is stored if it is large."""
        codec, path = self.shop.backend.codec, self.register.path(key)
        if not large:
            return codec.encode(None, "result", path)
        name, body = f"results/{path.partition('/')[2]}/{new_id()}", codec.encode(LARGE, "result", path)
        self.shop.store.put(name, body)
        return codec.refer(Reference(name, digest(body), len(body)), "result", path)

    def read(self, key: RegisterKey) -> Entry:
        entry = self.register.read(key)
        assert entry is not None
        return entry

    def state(self, key: RegisterKey) -> RegisterState:
        return self.read(key).record.state

    def values(self, key: RegisterKey) -> list[str]:
        return list(self.shop.store.keys(f"results/{self.register.path(key).partition('/')[2]}/"))

    def size(self, key: RegisterKey) -> int:
        (listed,) = self.shop.store.listed(self.register.path(key))
        return listed.size


@pytest.fixture
def keys(shop: Shop) -> Keys:
    return Keys(shop)


def commit(effect: EffectClass) -> tuple[RegisterEvent, ...]:
    return (E.PUBLISH,) if effect is PURE else (E.BEGIN, E.COMMIT)


@EFFECTS
def test_the_result_of_an_old_key_goes_and_its_grave_stays(shop: Shop, keys: Keys, effect: EffectClass) -> None:
    key = keys.made(effect, *commit(effect))
    shop.later = 29
    assert not shop.sweep(KEYS).items
    shop.later = 31
    assert shop.sweep(Ages(30 * DAY)).items == {}, "only where an age of results is given"
    assert [item.kind for item in shop.listed(KEYS, dry_run=True)] == ["key", "value"]
    assert keys.state(key) is S.COMMITTED
    assert shop.sweep(KEYS).items == {"key": 1, "value": 1}
    grave = keys.read(key).record
    assert (grave.state, grave.epoch, grave.result, grave.holder) == (S.GRAVE, 1, b"", None)
    assert not keys.values(key)
    shop.later = 3000
    assert not shop.sweep(KEYS).items
    assert keys.state(key) is S.GRAVE


def test_a_grave_is_known_by_its_size(shop: Shop, keys: Keys) -> None:
    """So that a sweep need not read those of all years."""
    least = [keys.made(effect, *commit(effect), large=False) for effect in (ONCE, PURE)]
    assert min(map(keys.size, least)) > GRAVE_BYTES
    most = keys.made(ONCE, *commit(ONCE), expires=1764376000.123456)
    for _ in range(11):
        keys.change(most, keys.read(most), ONCE, E.RENEW, E.COMMIT, expires=1764376000.123456)
    shop.later = 31
    shop.sweep(KEYS)
    assert keys.state(most) is S.GRAVE
    assert keys.size(most) <= GRAVE_BYTES - 5, "there is room for a longer epoch"


@pytest.mark.parametrize(
    "events", [(E.BEGIN,), (E.BEGIN, E.PARK), (E.BEGIN, E.RELEASE)], ids=["intent", "parked", "released"]
)
def test_what_is_not_committed_stays(shop: Shop, keys: Keys, events: tuple[RegisterEvent, ...]) -> None:
    key = keys.made(ONCE, *events)
    before = keys.read(key)
    keys.result(key)  # of a process that may commit yet, or that died before it could
    shop.later = 3000
    report = shop.sweep(KEYS)
    assert keys.read(key) == before
    if E.RELEASE in events:
        assert report.items == {"value": 1}
    else:
        assert report.kept == {Kept.OPEN: 1}
        assert len(keys.values(key)) == 1


@EFFECTS
def test_what_the_register_names_stays_and_what_it_named_before_goes(
    shop: Shop, keys: Keys, effect: EffectClass
) -> None:
    key = keys.made(effect, *commit(effect))
    again = (E.REFRESH,) if effect is PURE else (E.RENEW, E.COMMIT)
    keys.change(key, keys.read(key), effect, *again)
    assert len(keys.values(key)) == 2
    shop.later = 31
    assert shop.sweep(Ages(30 * DAY)).items == {"value": 1}
    reference = shop.backend.codec.reference(keys.read(key).record.result, "result", keys.register.path(key))
    assert reference is not None
    assert keys.values(key) == [reference.key]


def test_a_key_that_is_computed_anew_while_it_is_looked_at_stays(
    shop: Shop, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = keys.made(PURE, E.PUBLISH)
    bury = old_keys._bury  # pyright: ignore[reportPrivateUsage]

    def late(*arguments: Any) -> bool:
        keys.change(key, keys.read(key), PURE, E.REFRESH)
        return bury(*arguments)

    monkeypatch.setattr(old_keys, "_bury", late)
    shop.later = 31
    assert shop.sweep(KEYS).kept == {Kept.CHANGED: 1}
    assert keys.state(key) is S.COMMITTED
    assert len(keys.values(key)) == 2


def test_what_is_damaged_or_foreign_stays(shop: Shop, keys: Keys) -> None:
    damaged = keys.made(ONCE, *commit(ONCE))
    shop.store.put(keys.register.path(damaged), b"x" * 500)
    shop.store.put("results/notes.txt", b"mine")
    shop.later = 31
    report = shop.sweep(KEYS)
    assert not report.items
    assert report.kept == {Kept.UNREADABLE: 1, Kept.FOREIGN: 1}
    assert len(keys.values(damaged)) == 1


def test_a_sweep_that_is_killed_at_any_step_leaves_a_result_or_a_grave(shop: Shop, keys: Keys) -> None:
    seen, step = set[RegisterState](), 0
    for step in itertools.count(1):
        key = keys.made(ONCE, *commit(ONCE))
        shop.later = 31
        died = killed(shop, step)
        seen.add(keys.state(key))
        if keys.state(key) is S.COMMITTED:
            assert len(keys.values(key)) == 1, "what a register names is there"
        shop.sweep(KEYS)
        assert keys.state(key) is S.GRAVE
        assert not keys.values(key), f"killed before change {step}"
        shop.later = 0
        if not died:
            break
    assert step > 2, "the fault bites"
    assert seen == {S.COMMITTED, S.GRAVE}


# ------------------------------------------------------------------ what calls see


def test_a_commit_of_which_the_answer_was_lost_counts_though_it_is_buried(used: Shop, keys: Keys) -> None:
    subject = Task(pay, name=f"lost-{used.backend.settings.namespace}", effect=ONCE)
    execution = task_run.prepare(subject.spec, ("7",), {}, ())
    run = KeyedRun(execution, backends.current(), RegisterKey(subject.spec.identity, "l" * 52))
    assert run.look() is BEGUN
    keys.change(run.key, keys.read(run.key), ONCE, E.COMMIT)
    used.later = 31
    assert used.sweep(KEYS).items["key"] == 1
    assert run.commit(Completed(data="7")) is None
    assert keys.state(run.key) is S.GRAVE


@pytest.fixture
def used(shop: Shop) -> Iterator[Shop]:
    backends.use(shop.backend.settings)
    yield shop
    backends.use(None)


def pay(order: str) -> str:
    ran.append(order)
    return order


ran: list[str] = []


@pytest.mark.parametrize("expires", [None, timedelta(microseconds=1)], ids=["never", "soon"])
@EFFECTS
def test_a_call_of_a_buried_key(used: Shop, keys: Keys, effect: EffectClass, expires: timedelta | None) -> None:
    """With an effect it is not repeated, unless its result was to expire anyway; a cache computes it anew."""
    subject = Task(
        pay,
        name=f"pay-{used.backend.settings.namespace}-{effect}-{expires is None}",
        effect=effect,
        cache_key_fn=lambda context, parameters: parameters["order"],
        cache_expiration=expires,
    )
    ran.clear()
    assert subject("7") == "7"
    (key,) = [key for key in keys.register.all_keys() if key.task == subject.spec.identity]
    used.later = 31
    assert used.sweep(KEYS).items == {"key": 1}
    if effect is ONCE and expires is None:
        with pytest.raises(KeyExpired):
            subject("7")
        assert (ran, keys.state(key)) == (["7"], S.GRAVE)
    else:
        assert subject("7") == "7"
        assert (ran, keys.read(key).record.epoch) == (["7", "7"], 2)

"""``ports.EraRegister`` on every store."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from kapstan.codec import Codec
from kapstan.errors import SignatureError, StoreUnsafe
from kapstan.ports import Store
from kapstan.signing_key import SigningKey
from kapstan.store.era import StoredEra

CODEC = Codec("ns", [SigningKey.of(b"k" * 32)])


def test_an_era_begins_at_zero_and_grows(store: Store) -> None:
    era = StoredEra(store, CODEC)
    assert era.current() == 0
    assert era.raise_for("first start", 0) == 1
    assert era.raise_for("second start", 1) == 2
    assert StoredEra(store, CODEC).current() == 2


def test_whoever_is_late_for_the_same_start_is_told_and_raises_nothing(store: Store) -> None:
    era = StoredEra(store, CODEC)
    era.raise_for("a start", 0)
    assert era.raise_for("a start", 0) == 1
    assert era.current() == 1


def test_two_starts_are_never_given_one_era(store: Store) -> None:
    era = StoredEra(store, CODEC)
    assert [era.raise_for(start, 0) for start in ("a", "b", "b", "a")] == [1, 2, 2, 3]


def test_a_start_whose_era_is_not_above_what_was_used_is_given_a_new_one(store: Store) -> None:
    era = StoredEra(store, CODEC)
    assert era.raise_for("a start", 0) == 1
    assert era.raise_for("a start", 1) == 2


def test_a_register_that_was_lost_is_raised_above_what_is_known_elsewhere(store: Store) -> None:
    assert StoredEra(store, CODEC).raise_for("a start", 41) == 42


def test_racing_raises_for_a_start_are_one_raise(store: Store) -> None:
    for now in range(4):
        with ThreadPoolExecutor(8) as pool:
            raise_once = partial(StoredEra(store, CODEC).raise_for, f"start {now}")
            raised = list(pool.map(raise_once, [now] * 8))
        assert raised == [now + 1] * 8


def test_shards_have_eras_of_their_own(store: Store) -> None:
    StoredEra(store, CODEC, "1").raise_for("a start", 0)
    assert StoredEra(store, CODEC, "0").current() == 0


def test_an_era_that_another_key_signed_is_refused(store: Store) -> None:
    StoredEra(store, Codec("ns", [SigningKey.of(b"x" * 32)])).raise_for("a start", 0)
    with pytest.raises(SignatureError, match="which is not of namespace 'ns'"):
        StoredEra(store, CODEC).current()


def test_an_era_of_a_newer_release_is_refused(store: Store) -> None:
    store.put("era/0", CODEC.encode({"v": 99, "era": 5}, "register", "era/0"))
    with pytest.raises(StoreUnsafe, match="the era register has format 99"):
        StoredEra(store, CODEC).raise_for("a start", 0)

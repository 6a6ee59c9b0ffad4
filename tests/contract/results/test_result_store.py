"""``ResultStore`` over every place where results can be: one suite."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from tests.contract.results.conftest import PLACES, Place

from kapstan import backend as backends
from kapstan import records
from kapstan.errors import (
    ConfigurationError,
    Conflict,
    MissingResult,
    SerializationError,
    SignatureError,
    UnreadableValue,
    ValueTooLarge,
)
from kapstan.locking import MemoryLockManager
from kapstan.result_store import ResultStore
from kapstan.serializers import CompressedSerializer, JSONSerializer

LARGE = 20_000_000


def opened(place: Place, **options: Any) -> ResultStore:
    return ResultStore(result_storage=place.storage, **options)


def body_at(place: Place, key: str) -> bytes:
    store = opened(place)
    stored = place.backend.objects(store.address).get(records.object_key(store.address, key))
    assert stored is not None
    return stored.body


def put_at(place: Place, key: str, body: bytes) -> None:
    store = opened(place)
    place.backend.objects(store.address).put(records.object_key(store.address, key), body)


@pytest.mark.parametrize("value", [None, {"a": [1, "ü"]}, {1, 2}, b"\0" * 100, secrets.token_bytes(LARGE)])
def test_what_was_written_is_read_back(place: Place, value: Any) -> None:
    store = opened(place)
    assert not store.exists("reports/may 1")
    assert not store.exists("may\0 1")
    written = store.write(value, "reports/may 1")
    read = opened(place).read("reports/may 1")
    assert read.result == value
    assert read.metadata == written.metadata
    assert (read.metadata.storage_key, read.metadata.expiration) == ("reports/may 1", None)
    assert read.metadata.kind == f"builtins.{type(value).__name__}"
    assert store.exists("reports/may 1")


@pytest.mark.parametrize("serializer", ["json", "pickle", "compressed/json", CompressedSerializer("pickle", "bz2")])
def test_it_is_read_with_what_wrote_it(place: Place, serializer: Any) -> None:
    value = {"a": ["text"] * 1000}
    record = opened(place, serializer=serializer).write(value, "x")
    assert opened(place, serializer="json").read("x").result == value
    assert record.serializer == opened(place, serializer=serializer).serializer
    assert record.metadata.serializer == opened(place, serializer=serializer).serializer.name  # type: ignore[union-attr]


def test_a_later_write_stands(place: Place) -> None:
    store = opened(place)
    store.write("x" * LARGE, "x")
    store.write("second", "x")
    assert store.read("x").result == "second"
    assert store.write("third").metadata.storage_key != store.write("fourth").metadata.storage_key


def test_a_new_one_replaces_nothing_that_is_not_over(place: Place) -> None:
    store = opened(place)
    assert store.write_new("first", "x")
    assert not store.write_new("second", "x")
    assert store.read("x").result == "first"
    store.write("over", "x", expiration=timedelta(0))
    assert store.write_new("third", "x")
    assert store.read("x").result == "third"
    assert store.write_new(secrets.token_bytes(LARGE), "large")
    assert not store.write_new("small", "large")


@pytest.mark.parametrize("place", PLACES, indirect=True)  # an object of the user's has no conditional writes
@pytest.mark.parametrize("size", [1, 2_000_000, 10_000_000])  # in S3: one request, one again, parts
def test_of_many_new_ones_at_once_one_is_written(place: Place, size: int) -> None:
    for over in (False, True):
        if over:
            opened(place).write(b"o" * size, "x", expiration=timedelta(0))
        with ThreadPoolExecutor(4) as pool:
            written = list(pool.map(lambda number: opened(place).write_new(bytes([number]) * size, "x"), range(4)))
        assert written.count(True) == 1
        assert opened(place).read("x").result == bytes([written.index(True)]) * size


def test_what_a_write_would_refuse_is_known_before(place: Place) -> None:
    store = opened(place, serializer="json")
    store.check_write([1], "x")
    with pytest.raises(SerializationError):
        store.check_write({1, 2}, "x")
    with pytest.raises(ConfigurationError, match=r"the key .* of a result cannot be"):
        store.check_write([1], "values/x")
    assert not store.exists("x")


def test_the_async_twins(place: Place) -> None:
    async def ways() -> tuple[bool, Any, bool]:
        store = opened(place)
        before = await store.aexists("x")
        await store.awrite([1], "x")
        assert not await store.awrite_new([2], "x")
        return before, (await store.aread("x")).result, await store.aexists("x")

    assert asyncio.run(ways()) == (False, [1], True)


def test_what_is_over_is_not_there(place: Place) -> None:
    store = opened(place)
    store.write(1, "a", expiration=timedelta(hours=1))
    store.write(1, "b", expiration=datetime.now(UTC) - timedelta(seconds=1))
    store.write(1, "c", expiration=timedelta(0))
    assert [store.exists(key) for key in "abc"] == [True, False, False]
    expiration = store.read("a").expiration
    assert expiration is not None
    assert timedelta(minutes=59) < expiration - datetime.now(UTC) < timedelta(minutes=61)
    for key in "bc":
        with pytest.raises(MissingResult, match=f"the result under '{key}' in .* is over since"):
            store.read(key)


def test_nothing_there_is_told_with_key_and_place(place: Place) -> None:
    store = opened(place)
    with pytest.raises(MissingResult, match=f"no result is stored under 'no/thing' in {store.address or 'the store'}"):
        store.read("no/thing")


@pytest.mark.parametrize(
    "expiration",
    [
        5,
        "1d",
        True,
        date(2030, 1, 1),
        timedelta.max,
        datetime.max,
        datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=12))),
    ],
)
def test_an_expiration_that_cannot_be_is_refused(place: Place, expiration: Any) -> None:
    store = opened(place)
    with pytest.raises(ConfigurationError, match=r"expiration=.*: give a timedelta or a datetime"):
        store.write(1, "x", expiration=expiration)
    assert not store.exists("x")


@pytest.mark.parametrize("manager", [5, "redis", MemoryLockManager])
def test_what_is_no_lock_manager_is_refused(place: Place, manager: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"lock_manager=.*: give one of kapstan.locking"):
        opened(place, lock_manager=manager)


@pytest.mark.parametrize(
    "key", ["", "/a", "a//b", "../a", "a/..", "x" * 900, "values/x", ".kapstan/x", "\ud800", b"x", 5, ["a"]]
)
def test_a_key_that_cannot_be_is_refused(place: Place, key: Any) -> None:
    store = opened(place)
    for call in (lambda: store.read(key), lambda: store.write(1, key), lambda: store.exists(key)):
        with pytest.raises(ConfigurationError, match=r"the key .* of a result cannot be"):
            call()


@pytest.mark.parametrize("place", PLACES, indirect=True)  # an object of the user's has limits of its own
@pytest.mark.parametrize(
    ("key", "refused"),
    [("x" * 256, "everywhere"), (f"a/{'ü' * 26}/b", "in folders"), ("!" * 86, "in folders"), ("a" * 255, "nowhere")],
)
def test_a_part_of_a_key_is_no_longer_than_the_storage_takes(place: Place, key: str, refused: str) -> None:
    store = opened(place)
    in_folder = isinstance(place.storage, Path) or not place.settings.s3_endpoint
    if refused == "everywhere" or (refused == "in folders" and in_folder):
        for call in (lambda: store.read(key), lambda: store.write(1, key), lambda: store.exists(key)):
            with pytest.raises(
                ConfigurationError, match=r"the key .* of a result cannot be: .* is the most; put a slash"
            ):
                call()
    else:
        store.write(1, key)
        assert store.read(key).result == 1


def cut(body: bytes) -> bytes:
    return body[: len(body) // 2]


def flipped(at: float) -> Callable[[bytes], bytes]:
    def change(body: bytes) -> bytes:
        place = int(at * (len(body) - 1))
        return body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]

    return change


CHANGES = [
    cut,
    *(flipped(at) for at in (0, 0.3, 0.9, 1)),
    lambda body: body + b"x",
    lambda _: b"",
    lambda _: b"{}",
]


@pytest.mark.parametrize("size", [10, 3_000_000])
@pytest.mark.parametrize(
    "change",
    [cut, flipped(0), flipped(0.3), flipped(0.9), flipped(1), lambda body: body + b"x", lambda _: b"", lambda _: b"{}"],
)
def test_bytes_that_were_changed_are_told(place: Place, size: int, change: Callable[[bytes], bytes]) -> None:
    store = opened(place)
    store.write(os.urandom(size), "x")
    put_at(place, "x", change(body_at(place, "x")))
    with pytest.raises(SignatureError):
        store.read("x")


def test_an_object_of_another_key_or_time_is_told(place: Place) -> None:
    store = opened(place)
    store.write("mine", "a", expiration=timedelta(seconds=-1))
    first = body_at(place, "a")
    store.write("yours", "b")
    put_at(place, "b", first)
    with pytest.raises(SignatureError):
        store.read("b")
    with pytest.raises(SignatureError):
        store.exists("b")
    store.write("mine again", "a")
    second = body_at(place, "a")
    head = 4 + int.from_bytes(second[:4], "big")
    put_at(place, "a", second[:head] + first[4 + int.from_bytes(first[:4], "big") :])
    with pytest.raises(SignatureError, match="another one stands in its place"):
        store.read("a")  # the metadata of today, the value of yesterday


def test_what_another_namespace_or_key_signed_is_told(place: Place) -> None:
    from dataclasses import replace

    opened(place).write(1, "x")
    body = body_at(place, "x")
    for changed in ({"namespace": "another"}, {"signing_key": "QUJD" * 16}):
        backends.use(replace(place.settings, **changed))
        put_at(place, "x", body)
        with pytest.raises(SignatureError):
            opened(place).read("x")


class Gone:
    """A class that a later deploy does not have."""


def test_a_value_whose_class_is_gone_is_told(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(place)
    store.write(Gone(), "x")
    monkeypatch.delattr("tests.contract.results.test_result_store.Gone")
    with pytest.raises(UnreadableValue, match="cannot be loaded here: AttributeError"):
        store.read("x")
    assert store.exists("x")


def test_pickling_can_be_forbidden(place: Place) -> None:
    from dataclasses import replace

    opened(place).write({1}, "x")
    body = body_at(place, "x")
    backends.use(replace(place.settings, allow_pickle=False))
    put_at(place, "x", body)
    with pytest.raises(UnreadableValue, match="KAPSTAN_ALLOW_PICKLE is false"):
        opened(place).read("x")
    with pytest.raises(SerializationError, match=r"the result for 'y'.*KAPSTAN_ALLOW_PICKLE is false"):
        opened(place).write({1}, "y")
    with pytest.raises(ConfigurationError, match="KAPSTAN_ALLOW_PICKLE is false"):
        opened(place, serializer="pickle")
    assert opened(place).write([1], "y")
    assert opened(place).read("y").result == [1]


def test_a_value_that_cannot_be_stored_leaves_what_was_there(place: Place) -> None:
    store = opened(place, serializer=JSONSerializer())
    store.write([1], "x")
    with pytest.raises(SerializationError, match=r"the result for 'x' \(builtins.list\).*value\[0\] is a builtins.set"):
        store.write([{1}], "x")
    assert store.read("x").result == [1]


def test_the_limit_holds(place: Place) -> None:
    from dataclasses import replace

    backends.use(replace(place.settings, max_value_bytes=3_000_000))
    store = opened(place)
    store.write(b"x", "x")
    with pytest.raises(ValueTooLarge, match=r"the result for 'x' has .*KAPSTAN_MAX_VALUE_BYTES"):
        store.write(os.urandom(3_000_001), "x")
    assert store.read("x").result == b"x"


def test_without_a_lock_manager_there_are_no_locks() -> None:
    store = ResultStore()
    for call in (lambda: store.acquire_lock("x"), lambda: store.is_locked("x"), lambda: store.release_lock("x")):
        with pytest.raises(ConfigurationError, match="has no lock_manager"):
            call()


def test_a_lock_manager_keeps_others_off() -> None:
    store = ResultStore(lock_manager=MemoryLockManager())
    assert store.acquire_lock("x", "mine", timeout=0)
    assert not store.acquire_lock("x", "yours", timeout=0)
    store.write(1, "x", holder="mine")
    with pytest.raises(Conflict, match="the result under 'x' is locked by somebody else"):
        store.write(2, "x", holder="yours")
    assert store.read("x", holder="mine").result == 1
    assert (store.is_locked("x"), store.is_lock_holder("x", "mine"), store.wait_for_lock("x", 0)) == (True, True, False)
    store.release_lock("x", "mine")
    assert store.read("x", holder="yours").result == 1

    async def twins() -> list[bool]:
        got = [await store.aacquire_lock("y", "mine"), await store.await_for_lock("y", 0)]
        await store.arelease_lock("y", "mine")
        return [*got, await store.await_for_lock("y", 0)]

    assert asyncio.run(twins()) == [True, False, True]


def test_many_who_wait_in_asyncio_leave_the_holder_a_thread() -> None:
    store = ResultStore(lock_manager=MemoryLockManager())

    async def crowd() -> list[int]:
        await store.aacquire_lock("z", "mine")
        readers = [asyncio.create_task(store.aread("z", f"reader {number}")) for number in range(20)]
        await asyncio.sleep(0)
        await store.awrite(1, "z", holder="mine")
        await store.arelease_lock("z", "mine")
        return [(await reader).result for reader in readers]

    assert asyncio.run(asyncio.wait_for(crowd(), 30)) == [1] * 20

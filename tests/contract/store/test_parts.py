"""``ports.Objects`` in pieces, one suite for every adapter: large objects, broken-off ones, lost replies."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.servers.fault_proxy import Fault, FaultProxy
from tests.servers.minio import Minio

from kapstan.errors import StoreRefused, StoreUnavailable, StoreUnsafe
from kapstan.ports import Objects, Store
from kapstan.store.local import LocalStore
from kapstan.store.s3 import S3Store
from kapstan.store.s3_parts import PART_BYTES
from kapstan.store.s3_wire import Unknown

SIZES = [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 2 * PART_BYTES + 12_345]


def piece(number: int, size: int) -> bytes:
    return hashlib.shake_128(number.to_bytes(4, "big")).digest(size)


def pieces(size: int) -> Iterator[bytes]:
    number = 0
    while size:
        part = piece(number, min(size, 1_000_003))
        yield part
        size -= len(part)
        number += 1


def write(store: Objects, key: str, size: int) -> bytes:
    whole = hashlib.sha256()
    with store.upload(key) as target:
        for part in pieces(size):
            target.write(part)
            whole.update(part)
    return whole.digest()


def read(store: Objects, key: str) -> tuple[int, bytes]:
    size, whole = 0, hashlib.sha256()
    with store.download(key) as source:
        assert source is not None
        while part := source.read(3_000_001):
            size += len(part)
            whole.update(part)
    return size, whole.digest()


@pytest.mark.parametrize("size", SIZES)
def test_what_was_written_is_read_back(store: Objects, size: int) -> None:
    digest = write(store, "values/x y".replace(" ", "%"), size)
    assert read(store, "values/x%y") == (size, digest)
    stored = store.get("values/x%y")
    assert stored is not None
    assert (len(stored.body), hashlib.sha256(stored.body).digest()) == (size, digest)


def test_what_was_put_whole_is_read_in_pieces(store: Objects) -> None:
    body = piece(7, PART_BYTES + 77)
    store.put("values/x", body)
    buffer = bytearray(len(body) + 10)
    with store.download("values/x") as source:
        assert source is not None
        filled = 0
        while taken := source.readinto(memoryview(buffer)[filled:]):
            filled += taken
    assert bytes(buffer[:filled]) == body


def test_there_is_no_object_that_was_not_written(store: Objects) -> None:
    for key in ("values/x", "values"):
        with store.download(key) as source:
            assert source is None


def broken_off(store: Objects, key: str, size: int, error: BaseException) -> None:
    with store.upload(key) as target:
        for part in pieces(size):
            target.write(part)
        raise error


@pytest.mark.parametrize("size", [5, 2 * PART_BYTES + 5])
def test_an_upload_is_nothing_before_its_end(store: Objects, size: int) -> None:
    with store.upload("values/x") as target:
        target.write(piece(1, size))
        assert store.get("values/x") is None
    with pytest.raises(ZeroDivisionError):
        broken_off(store, "values/y", size, ZeroDivisionError())
    assert store.get("values/y") is None
    before = write(store, "values/x", 10)
    with pytest.raises(KeyboardInterrupt):
        broken_off(store, "values/x", size, KeyboardInterrupt())
    assert read(store, "values/x") == (10, before)


def test_an_upload_that_is_broken_off_leaves_no_parts(s3: S3Store) -> None:
    def unfinished() -> int:
        return s3._wire.send("GET", s3._bucket, query={"uploads": ""}).body.count(b"<Upload>")  # pyright: ignore

    before = unfinished()
    with s3.upload("values/x") as target:
        target.write(piece(1, 2 * PART_BYTES))
        assert unfinished() == before + 1
    assert unfinished() == before
    with pytest.raises(ZeroDivisionError):
        broken_off(s3, "values/x", 2 * PART_BYTES, ZeroDivisionError())
    assert unfinished() == before


def test_one_that_is_replaced_is_never_read_as_a_mixture(store: Objects) -> None:
    before = write(store, "values/x", 2 * PART_BYTES + 5)
    seen, said = hashlib.sha256(), ""
    with store.download("values/x") as source:
        assert source is not None
        seen.update(source.read(100))
        write(store, "values/x", 2 * PART_BYTES + 6)
        try:
            while part := source.read(1_000_000):
                seen.update(part)
        except StoreUnavailable as error:
            said = str(error)
    assert seen.digest() == before or "was replaced while it was read; read it again" in said


@pytest.mark.parametrize("fault", ["drop_request", "drop_reply", "cut_reply", "unavailable", "broken"])
def test_faults_on_the_way_change_nothing(minio: Minio, namespace: str, fault: Fault) -> None:
    """Also a reply that is lost after the store has done what it was asked for: the last one makes the object."""
    proxy = FaultProxy(minio.url, {fault: 0.4}, seed=11)
    with (
        proxy.running(),
        contextlib.closing(S3Store.from_settings(minio.settings(proxy.url, namespace=namespace))) as s3,
    ):
        for number in range(4):
            digest = write(s3, f"values/{number}", PART_BYTES + 7)
            assert read(s3, f"values/{number}") == (PART_BYTES + 7, digest)
    assert proxy.counts[fault] > 5


def test_an_upload_that_the_store_lost_is_no_success(s3: S3Store) -> None:
    def lose() -> None:
        with s3.upload("values/x") as target:
            target.write(piece(1, 2 * PART_BYTES))
            target.abort()

    with pytest.raises(StoreRefused, match="404 NoSuchUpload"):
        lose()
    assert s3.get("values/x") is None


@pytest.mark.parametrize("size", [5, PART_BYTES + 5])
def test_an_upload_with_a_condition(store: Store, size: int) -> None:
    def written(version: str, number: int) -> bool:
        with store.upload_if("values/x", version) as target:
            target.write(number.to_bytes(1, "big") + piece(number, size - 1))
        return target.is_there

    def stands(number: int) -> str:
        there = store.get("values/x")
        assert there is not None
        assert (len(there.body), there.body[0]) == (size, number)
        return there.version

    store.put("values/other", b"other")
    other = store.get("values/other")
    assert other is not None
    assert not written(other.version, 0), "there is nothing to replace"
    assert store.get("values/x") is None
    with ThreadPoolExecutor(4) as pool:
        won = list(pool.map(lambda number: written("", number), range(4)))
    assert won.count(True) == 1
    first = stands(won.index(True))
    assert not written("", 9)
    assert not written(other.version, 9)
    assert written(first, 7)
    stands(7)


def test_an_upload_that_was_not_wanted_leaves_no_parts(s3: S3Store) -> None:
    s3.put("values/x", b"there")
    with s3.upload_if("values/x", "") as target:
        target.write(piece(1, PART_BYTES + 1))
    assert not target.is_there
    assert s3._wire.send("GET", s3._bucket, query={"uploads": ""}).body.count(b"/values/x</Key>") == 0  # pyright: ignore
    assert list(s3.keys("")) == ["values/x"]


@pytest.mark.parametrize("size", [5, PART_BYTES + 5])
def test_one_whose_reply_was_lost_is_known_again(minio: Minio, namespace: str, size: int) -> None:
    proxy = FaultProxy(minio.url, {"drop_reply": 0.4}, seed=3)
    with (
        proxy.running(),
        contextlib.closing(S3Store.from_settings(minio.settings(proxy.url, namespace=namespace))) as s3,
    ):
        for number in range(3):
            for mine in (True, False):
                with s3.upload_if(f"values/{number}", "") as target:
                    target.write(os.urandom(size))
                assert target.is_there is mine
    assert proxy.counts["drop_reply"] > 2


def test_a_part_that_a_lost_try_still_refers_to(s3: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the traceback of a refused connection does until its cycle is collected."""
    send, held = s3._wire.send, list[memoryview]()  # pyright: ignore

    def lost_once(method: str, path: str, **options: Any) -> Any:
        if len(options.get("body", b"")) == PART_BYTES and not held:
            held.append(memoryview(options["body"]))
            raise Unknown("nobody answers")
        return send(method, path, **options)

    monkeypatch.setattr(s3._wire, "send", lost_once)  # pyright: ignore
    digest = write(s3, "values/x", 2 * PART_BYTES + 5)
    assert held
    assert read(s3, "values/x") == (2 * PART_BYTES + 5, digest)


def test_a_store_that_forgets_the_condition_of_parts_is_told(s3: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    send = s3._wire.send  # pyright: ignore

    def forgetful(method: str, path: str, **options: Any) -> Any:
        ends_parts = "uploadId" in (options.get("query") or {})
        return send(method, path, **({**options, "headers": None} if ends_parts else options))

    monkeypatch.setattr(s3._wire, "send", forgetful)  # pyright: ignore
    with pytest.raises(StoreUnsafe, match="more than 8 MiB cannot be"), s3.upload_if("x", "") as target:
        target.write(piece(1, PART_BYTES + 1))
    assert list(s3.keys("")) == []
    with s3.upload_if("x", "") as target:
        target.write(piece(1, PART_BYTES))
    assert target.is_there, "what needs no parts needs no such condition"


def test_what_a_killed_process_left_goes_after_a_day(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    left, young = (tmp_path / "store" / "aside" / name for name in ("left", "young"))
    for path in (left, young):
        path.write_bytes(b"half")
    os.utime(left, (0, 0))
    write(store, "values/x", 10)
    assert (left.exists(), young.exists()) == (False, True)

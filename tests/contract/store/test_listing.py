"""What retention asks of a store: listings with sizes and times, its clock, deletes that tell what was refused."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from tests.contract.store.test_s3 import HTML, answering

from kapstan.errors import StoreRefused, StoreUnavailable
from kapstan.ports import Store
from kapstan.store import s3 as s3_module
from kapstan.store.local import LocalStore

AWKWARD = "a%20b+c&d=e,f~g@h:i!j(k)*'l\"<m>#n?o"


def test_objects_are_listed_in_the_order_of_keys_with_sizes_and_times(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_module, "_PAGE", 2)
    begun = store.now()
    keys = ["values/a/1", "values/a-b/1", "values/a/b/2", "values/a0", f"values/{AWKWARD}/x", "valuesx"]
    for size, key in enumerate(keys):
        store.put(key, b"x" * size)
    found = list(store.listed("values/"))
    assert [entry.key for entry in found] == sorted(key for key in keys if key.startswith("values/"))
    assert {entry.key: entry.size for entry in found} == {key: keys.index(key) for key in keys if key != "valuesx"}
    assert all(begun - 1 <= entry.modified <= store.now() + 1 for entry in found)
    assert [entry.key for entry in store.listed("values/a/")] == ["values/a/1", "values/a/b/2"]
    assert list(store.listed("values/none/")) == []
    assert list(store.keys("values/a", after="values/a/1")) == ["values/a/b/2", "values/a0"]


def test_the_clock_is_the_store_s(store: Store) -> None:
    assert abs(store.now() - time.time()) < 60  # both run on this machine here


def test_logs_are_listed_one_by_one(store: Store) -> None:
    for name, records in (("flows/b", 3), ("flows/a", 0), ("flows/c", 70)):
        log = store.log(name)
        log.open(b"opening")
        for number in range(records):
            log.append([b"%d" % number])
        log.close()
    found = {log.name: log for log in store.logs("flows/")}
    assert list(found) == ["flows/a", "flows/b", "flows/c"]
    assert [log.bare for log in found.values()] == [False] * 3
    assert all(log.size > 0 and log.before <= log.modified for log in found.values())
    if isinstance(store, LocalStore):
        assert [log.objects for log in found.values()] == [1, 1, 1]
    else:
        assert [log.objects for log in found.values()] == [1, 4, 72], "71 segments and a checkpoint"


def test_each_delete_is_told(store: Store) -> None:
    store.put("values/a/1", b"x")
    store.put("values/b/1", b"x")
    assert store.delete_each(["values/a/1", "values/none/1", "values/b/1"]) == {}
    assert list(store.keys("values/")) == []


def test_a_bulk_delete_believes_no_answer_that_is_not_the_store_s() -> None:
    with answering(200, HTML) as store, pytest.raises(StoreUnavailable, match="without <DeleteResult>"):
        store.delete(["values/a/1"])
    with answering(200, b"") as store, pytest.raises(StoreUnavailable, match="without <DeleteResult>"):
        store.delete_each(["values/a/1"])


def error(code: str) -> bytes:
    key = "<Key>default/values/a/1</Key>"
    return f"<DeleteResult><Error>{key}<Code>{code}</Code><Message>no</Message></Error></DeleteResult>".encode()


def test_an_object_that_was_refused_is_named_and_the_rest_is_gone() -> None:
    with answering(200, error("AccessDenied")) as store:
        assert store.delete_each(["values/a/1", "values/b/1"]) == {"values/a/1": "AccessDenied (no)"}
        with pytest.raises(StoreRefused, match="refused to delete 'values/a/1': AccessDenied"):
            store.delete(["values/a/1", "values/b/1"])


@pytest.mark.parametrize("code", ["InternalError", "SlowDown"])
def test_one_object_that_could_not_be_deleted_now_is_tried_again(code: str) -> None:
    with answering(200, error(code)) as store, pytest.raises(StoreUnavailable, match=code):
        store.delete_each(["values/a/1"])


def test_local_files_that_cannot_be_deleted_are_told_and_links_are_left_alone(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "precious").write_bytes(b"x")
    store.put("values/a/1", b"x")
    values = tmp_path / "store" / "objects" / "values"
    os.symlink(foreign, values / "linked-folder")
    os.symlink(foreign / "precious", values / "a" / "linked-file")
    assert [entry.key for entry in store.listed("values/")] == ["values/a/1"]
    (values / "b").mkdir()
    store.put("values/b/folder/x", b"x")
    assert list(store.delete_each(["values/b/folder", "values/a/1"])) == ["values/b/folder"], "it is a folder"
    assert list(store.keys("values/")) == ["values/b/folder/x"]
    assert (foreign / "precious").exists()

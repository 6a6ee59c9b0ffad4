"""``ports.Store``: one suite, every adapter."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from kapstan.ports import Store, Stored
from kapstan.store import s3 as s3_module

AWKWARD = "a%20b+c&d=e,f~g@h:i!j(k)*'l\"<m>#n?o"


def body_of(store: Store, key: str) -> bytes:
    stored = store.get(key)
    assert stored is not None
    return stored.body


def version_of(store: Store, key: str) -> str:
    stored = store.get(key)
    assert stored is not None
    return stored.version


def test_what_was_put_is_read_back(store: Store) -> None:
    for body in (b"", b"one", bytes(range(256)) * 10_000):
        store.put("values/x", body)
        assert body_of(store, "values/x") == body
    assert store.get("values/y") is None
    assert store.get("values") is None
    assert store.get("values/x/y") is None


def test_a_create_never_replaces(store: Store) -> None:
    assert store.create("a/b", b"first")
    assert not store.create("a/b", b"second")
    assert body_of(store, "a/b") == b"first"


def test_a_create_that_is_sent_again_is_recognised_by_its_bytes(store: Store) -> None:
    assert store.create("a/b", b"mine")
    assert store.create("a/b", b"mine")


def test_of_racing_creates_exactly_one_wins(store: Store) -> None:
    for number in range(5):
        bodies = [f"{number} {racer}".encode() for racer in range(8)]
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(store.create, [f"race/{number}"] * 8, bodies))
        assert [body for body, is_ours in zip(bodies, won, strict=True) if is_ours] == [
            body_of(store, f"race/{number}")
        ]


def test_a_replace_needs_the_current_version(store: Store) -> None:
    store.create("register", b"1")
    first = version_of(store, "register")
    second = store.replace("register", b"2", first)
    assert second is not None
    assert store.get("register") == Stored(b"2", second)
    assert store.replace("register", b"3", first) is None
    assert body_of(store, "register") == b"2"
    assert store.replace("register", b"4", second) is not None


def test_a_replace_that_is_sent_again_is_recognised_by_its_bytes(store: Store) -> None:
    store.create("register", b"1")
    first = version_of(store, "register")
    assert store.replace("register", b"2", first) == store.replace("register", b"2", first) != first


def test_a_replace_makes_nothing(store: Store) -> None:
    store.create("register", b"1")
    assert store.replace("nothing", b"2", version_of(store, "register")) is None
    assert store.get("nothing") is None


def test_of_racing_replaces_exactly_one_wins(store: Store) -> None:
    store.create("register", b"0")
    for number in range(5):
        version = version_of(store, "register")
        with ThreadPoolExecutor(8) as pool:
            bodies = [f"{number} {racer}".encode() for racer in range(8)]
            versions = list(pool.map(store.replace, ["register"] * 8, bodies, [version] * 8))
        assert [Stored(b, v) for b, v in zip(bodies, versions, strict=True) if v] == [store.get("register")]


def test_keys_are_sorted_and_cut(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_module, "_PAGE", 2)  # several pages
    for key in ("j/10", "j/02", "j/1", "j/01", "jx/1", "k/1", "j/3/2"):
        store.put(key, b"")
    assert list(store.keys("j/")) == ["j/01", "j/02", "j/1", "j/10", "j/3/2"]
    assert list(store.keys("j/", after="j/02")) == ["j/1", "j/10", "j/3/2"]
    assert list(store.keys("j/", after="j/3/1")) == ["j/3/2"]
    assert list(store.keys("j/1")) == ["j/1", "j/10"]
    assert list(store.keys("j")) == ["j/01", "j/02", "j/1", "j/10", "j/3/2", "jx/1"]
    assert list(store.keys("nothing/")) == []


def test_awkward_keys_are_kept_apart(store: Store) -> None:
    keys = sorted([AWKWARD, f"b{AWKWARD}/{AWKWARD}", "a", "A", "a+", "a%2B", "c/d"])
    for key in keys:
        assert store.create(key, key.encode())
    assert [body_of(store, key) for key in keys] == [key.encode() for key in keys]
    assert list(store.keys("")) == keys


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/./b", "a b", "ä", "a\n", "a" * 801])
def test_a_key_that_some_adapter_could_not_hold_is_refused_by_all(store: Store, key: str) -> None:
    with pytest.raises(ValueError, match="is no key of the store: give 1 to 800 printable ASCII characters"):
        store.put(key, b"")


def test_deleted_objects_are_gone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_module, "_PAGE", 2)
    keys = ["a/1", "a/2", f"a/{AWKWARD}"]
    for key in [*keys, "a/kept"]:
        store.put(key, b"")
    store.delete([*keys, "never/there"])
    assert list(store.keys("")) == ["a/kept"]


def test_the_probe_passes_and_leaves_nothing(store: Store) -> None:
    store.probe()
    assert list(store.keys("")) == []

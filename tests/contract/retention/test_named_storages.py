"""Result storages that were named: retention takes there what the namespace itself wrote, and nothing else."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.contract.retention.makers import LARGE, Shop
from tests.contract.retention.test_keys import EFFECTS, E, Keys, S, commit
from tests.servers.minio import new_namespace

from kapstan import backend as backends
from kapstan.backend import Backend
from kapstan.cache_policies import INPUTS
from kapstan.engine import values
from kapstan.ids import RunId, derived_id, new_id, new_nonce
from kapstan.journal import AttemptEnd, TaskOutcome
from kapstan.ports.register import RegisterKey
from kapstan.runs.retention import DAY, Ages, Held, Kept
from kapstan.states import AttemptOutcome, EffectClass
from kapstan.store import marks
from kapstan.tasks import Task

AGES = Ages(30 * DAY, keys=90 * DAY, registers=30 * DAY)


class Named:
    """A result storage, with what runs of ``shop`` leave there."""

    def __init__(self, shop: Shop, address: str) -> None:
        self.shop, self.address = shop, address

    def put(self, run_id: RunId, owner: RunId = "") -> bytes:
        return values.to_store(self.shop.backend, LARGE, "result", run_id, owner, self.address)

    def run(self, *, ended: bool = True, run_id: RunId = "") -> RunId:
        """A flow run with a task, whose results are there."""
        run_id, journal = self.shop.begin(run_id)
        key = derived_id(run_id, "0")
        journal.append(TaskOutcome(key, "shop:work", "work", "COMPLETED", value=self.put(key, run_id)))
        if ended:
            journal.append(AttemptEnd(1, AttemptOutcome.COMPLETED, 1.0, "", self.put(run_id)))
        journal.close()
        return run_id

    def keys(self, shop: Shop | None = None) -> list[str]:
        """All that stands there; of ``shop``: what is its own, by the keys that its own store would have."""
        objects: Any = self.shop.backend.objects(self.address)
        folder = "" if shop is None else marks.folder_of(shop.backend.mark(self.address))
        return [key.removeprefix(folder) for key in objects.keys(folder) if not key.startswith(".kapstan/")]

    def of(self, run_id: RunId) -> int:
        return sum(key.startswith(f"values/{run_id}/") for key in self.keys(self.shop))

    @property
    def objects(self) -> Any:
        return self.shop.backend.objects(self.address)


@pytest.fixture
def named(shop: Shop, tmp_path: Path) -> Named:
    settings = shop.backend.settings
    local = f"file://{tmp_path}/results"
    return Named(shop, f"s3://{settings.s3_bucket}/{settings.namespace}-results" if settings.s3_endpoint else local)


@pytest.fixture
def other(shop: Shop, tmp_path: Path) -> Iterator[Shop]:
    """Another installation, with the same signing key, and where it has a home of its own the same namespace."""
    given = shop.backend.settings
    assert shop.backend.codec
    shutil.copytree(given.home, tmp_path / "other", dirs_exist_ok=True, ignore=shutil.ignore_patterns("store"))
    name = new_namespace() if given.s3_endpoint else given.namespace
    backend = Backend(dataclasses.replace(given, home=str(tmp_path / "other"), namespace=name))
    yield Shop(backend)
    backend.close()


def test_what_a_run_stored_goes_with_it(shop: Shop, named: Named) -> None:
    run_id = named.run()
    shop.later = 29
    assert not shop.sweep(AGES).items
    shop.later = 31
    would_go = shop.listed(AGES, dry_run=True)
    assert named.of(run_id) == 2
    went = shop.listed(AGES, dry_run=False)
    assert would_go == went
    assert [item.kind for item in went] == ["journal", "value", "value"]
    assert all(item.name.startswith(f"{named.address}/values/{run_id}/") for item in went[1:])
    assert named.keys() == []
    assert not shop.sweep(AGES).items


def test_what_may_be_needed_stays(shop: Shop, named: Named) -> None:
    at_work, held, lone = named.run(ended=False), named.run(), new_id()
    named.put(lone)
    shop.later = 10_000
    kept = Held(runs=frozenset({held, lone}))
    report = shop.sweep(AGES, kept)
    assert not report.items
    assert report.kept == {Kept.OPEN: 1, Kept.HELD: 2}
    assert (named.of(at_work), named.of(held), named.of(lone)) == (1, 2, 1)
    assert shop.sweep(AGES).items == {"journal": 1, "value": 3}
    assert named.of(at_work) == 1


def test_a_value_of_a_run_that_nobody_knows_goes_by_its_age(shop: Shop, named: Named) -> None:
    named.put(new_id())
    assert not shop.sweep(Ages(0.001)).items, "somebody may be about to write the reference"
    shop.later = 2
    assert shop.sweep(Ages(0.001)).items == {"value": 1}
    assert named.keys() == []


def test_what_others_have_there_stays(shop: Shop, named: Named, other: Shop) -> None:
    theirs = Named(other, named.address)
    theirs.put(new_id())
    named.put(new_id())
    foreign = ["reports/may.csv", f"values/{new_id()}/{new_id()}/{new_id()}", f"values/{new_nonce()}/values/a/b/c"]
    odd = f"{marks.folder_of(shop.backend.mark(named.address))}values/notes.txt"
    for key in (*foreign, odd):
        named.objects.put(key, b"not ours")
    before = set(named.keys())
    shop.later = 10_000
    report = shop.sweep(AGES)
    assert report.items == {"value": 1}
    assert report.examples[Kept.FOREIGN] == [f"{named.address}/values/notes.txt"]
    assert len(before - set(named.keys())) == 1
    assert set(named.keys()) > {*foreign, odd}
    assert len(theirs.keys(other)) == 1
    other.later = 10_000
    assert other.sweep(AGES).items == {"value": 1}
    assert set(named.keys()) == {*foreign, odd}


@EFFECTS
def test_the_result_of_an_old_key_goes_with_it(shop: Shop, named: Named, effect: EffectClass) -> None:
    keys = Keys(shop)
    key = keys.made(effect, large=False)

    def result() -> bytes:
        return values.to_store(shop.backend, LARGE, "result", keys.register.path(key), storage=named.address)

    again = (E.REFRESH,) if effect is EffectClass.PURE else (E.RENEW, E.COMMIT)
    keys.change(key, None, effect, *commit(effect), large=False, result=result())
    keys.change(key, keys.read(key), effect, *again, large=False, result=result())
    assert len(named.keys(shop)) == 2
    shop.later = 31
    assert shop.sweep(Ages(30 * DAY)).items == {"value": 1}, "what nothing refers to"
    (left,) = named.keys()
    reference = shop.backend.codec.reference(keys.read(key).record.result, "result", keys.register.path(key))
    assert reference is not None
    assert reference.key == left
    assert [item.kind for item in shop.listed(AGES, dry_run=True)] == ["key", "value"]
    assert [item.kind for item in shop.listed(AGES, dry_run=False)] == ["key", "value"]
    assert (named.keys(), keys.state(key)) == ([], S.GRAVE)


def test_a_result_that_may_be_committed_yet_stays(shop: Shop, named: Named) -> None:
    keys = Keys(shop)
    key = keys.made(EffectClass.AT_MOST_ONCE, E.BEGIN)
    values.to_store(shop.backend, LARGE, "result", keys.register.path(key), storage=named.address)
    shop.later = 3000
    assert shop.sweep(AGES).kept == {Kept.OPEN: 2}, "the register, and the value"
    assert len(named.keys()) == 1


def test_sweeps_at_once_are_one(shop: Shop, named: Named) -> None:
    for _ in range(5):
        named.run()
    others = [Shop(Backend(shop.backend.settings)) for _ in range(3)]
    for each in others:
        each.later = 31
    with ThreadPoolExecutor(3) as pool:
        for report in pool.map(lambda each: each.sweep(AGES), others):
            assert not report.refused
    for each in others:
        each.backend.close()
    shop.later = 31
    shop.sweep(AGES)
    assert named.keys() == []


def test_a_storage_that_cannot_be_looked_at_holds_up_nothing(shop: Shop, named: Named, tmp_path: Path) -> None:
    run_id = named.run()
    gone = Named(shop, f"file://{tmp_path}/gone")
    gone.put(new_id())
    shutil.rmtree(tmp_path / "gone")
    away = "s3://no-such-bucket/x"
    if shop.backend.settings.s3_endpoint:
        assert shop.backend.mark(away)
    shop.later = 31
    report = shop.sweep(AGES)
    assert named.of(run_id) == 0
    assert report.kept == {Kept.ELSEWHERE: 1}
    assert list(report.refused) == ([away] if shop.backend.settings.s3_endpoint else [])
    assert not (tmp_path / "gone").exists()


# ------------------------------------------------------------------ registers in storages of their own


@EFFECTS
def test_a_register_in_a_storage_of_its_own_keeps_its_result(
    shop: Shop, named: Named, effect: EffectClass, tmp_path: Path
) -> None:
    """Retention does not look there; and it looked for the register in the store of the namespace, where none is."""
    backends.use(shop.backend.settings)
    ran: list[int] = []

    def large(n: int) -> bytes:
        ran.append(n)
        return LARGE * n

    def calls(n: int) -> Any:
        policy = INPUTS.configure(key_storage=named.address)
        return [
            Task(large, name=f"own-{name}", cache_policy=policy, effect=effect, result_storage=storage)(n)
            for name, storage in (("plain", None), ("vault", tmp_path / "vault"))
        ]

    try:
        for n in (1, 900):  # an object of its own; a stream of pieces
            assert calls(n) == [LARGE * n] * 2
        assert ran == [1, 1, 900, 900]
        assert list(shop.store.keys("results/")) == []
        shop.later = 10_000
        assert not shop.sweep(AGES).items
        for n in (1, 900):
            assert calls(n) == [LARGE * n] * 2
        assert ran == [1, 1, 900, 900]
    finally:
        backends.use(None)


def test_a_large_failure_stands_by_its_register(shop: Shop, named: Named) -> None:
    path = shop.backend.register.path(RegisterKey("shop:pay", "k" * 52, named.address))
    failed = values.seal_failure(shop.backend, ValueError("x" * 40_000), path, register=named.address)
    shop.later = 10_000
    assert not shop.sweep(AGES).items
    assert isinstance(values.open_failure(shop.backend, failed.envelope, path), ValueError)


# ------------------------------------------------------------------ marks


def test_all_processes_have_one_mark(shop: Shop) -> None:
    others = [Backend(shop.backend.settings) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda backend: backend.mark("s3://lake/x"), others))
    for backend in others:
        backend.close()
    assert len(found) == 1
    assert list(shop.backend.marks.all()) == [marks.Marked("s3://lake/x", *found)]
    assert shop.backend.mark("s3://lake/y") not in found


def test_a_note_that_nobody_can_read_gives_way_to_a_new_one(shop: Shop, named: Named) -> None:
    before = shop.backend.mark(named.address)
    (note,) = shop.store.keys("storages/")
    shop.store.put(note, b"not ours")
    report = shop.sweep(AGES)
    assert report.kept == {Kept.UNREADABLE: 1}
    backend = Backend(shop.backend.settings)
    assert backend.mark(named.address) not in ("", before)
    backend.close()
    assert Kept.UNREADABLE not in shop.sweep(AGES).kept

"""The model and the real register, side by side, on a disk and on S3; and the table that both keep to."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random

import pytest
from tests.contract.queue.makers import CODEC
from tests.model.design import Design, World
from tests.model.real_register import RealRegister
from tests.model.state import REGISTER_STATES
from tests.model.transitions import ROWS
from tests.model.walk_register import ACTIONS
from tests.model.walking import many, scenario, steps_of
from tests.servers.minio import Minio, minio, new_namespace, own_minio

from kapstan.errors import ImpossibleChange
from kapstan.ports import Store
from kapstan.ports.register import TRANSITIONS
from kapstan.store.local import LocalStore
from kapstan.store.register import StoredRegister
from kapstan.store.s3 import S3Store

__all__ = ["minio", "own_minio"]


def walk(store: Store, world: World, random: Random, counts: Counter[str]) -> None:
    real = RealRegister(world, StoredRegister(store, CODEC))
    for name, at, before, after in steps_of(world, random, counts):
        bare = name.removesuffix(", reply lost")
        if bare in ACTIONS:
            ACTIONS[bare](real, at, before, after, bare != name)
        real.compare(after)


def test_the_checked_table_is_the_shipped_one() -> None:
    shipped = {
        (REGISTER_STATES.index(before.value), event.value): (
            REGISTER_STATES.index(row.after.value),
            row.grows,
            {effect.value for effect in row.classes},
        )
        for (before, event), row in TRANSITIONS.items()
    }
    assert shipped == {row: (after, grows, set(classes)) for row, (after, grows, classes) in ROWS.items()}


@pytest.mark.timeout(400)
def test_the_register_on_a_disk_goes_as_the_model(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    counts = many(lambda world, random, counts: walk(store, world, random, counts), 200)
    assert not set(ACTIONS) - set(counts), "every step of the register was taken"


@pytest.mark.timeout(400)
def test_the_register_on_s3_goes_as_the_model(minio: Minio) -> None:
    store = S3Store.from_settings(minio.settings(namespace=new_namespace()))
    try:
        many(lambda world, random, counts: walk(store, world, random, counts), 40)
    finally:
        store.close()


@pytest.mark.parametrize(
    ("wrong", "effect"),
    [
        (Design(if_match=False), "a"),
        (Design(commit_if_match=False, confirmed_death=False), "i"),
        (Design(epochs_grow=False), "i"),
        (Design(sweep="delete"), "a"),
    ],
    ids=["no If-Match", "blind commits", "one epoch", "deleted"],
)
def test_a_model_that_is_wrong_goes_otherwise(tmp_path: Path, wrong: Design, effect: str) -> None:
    store = LocalStore(tmp_path / "store")
    with pytest.raises((AssertionError, ImpossibleChange)):  # noqa: PT012  (one of the walks)
        for seed in range(300):
            walk(store, World(wrong, scenario(effect)), Random(seed), Counter())

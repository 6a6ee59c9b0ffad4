"""``kapstan gc``: what it prints, what it refuses, how it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.contract.retention.makers import ALL, Shop
from tests.servers.minio import Minio, free_port, new_namespace

from kapstan import ids
from kapstan.backend import Backend
from kapstan.cli import cli
from kapstan.ports import Listed
from kapstan.runs.retention import Ages
from kapstan.settings import Settings
from kapstan.store.local import LocalStore


def gc(
    settings: Settings, *arguments: str, program: Sequence[str] = ("-m", "kapstan"), **environ: str
) -> subprocess.CompletedProcess[str]:
    told = {
        f"KAPSTAN_{field.name.upper()}": str(getattr(settings, field.name))
        for field in fields(Settings)
        if getattr(settings, field.name) != field.default
    }
    command = [sys.executable, *program, "gc", *arguments]
    return subprocess.run(command, env={**os.environ, **told, **environ}, capture_output=True, text=True)


def aged(shop: Shop) -> Settings:
    """Settings of the shop, when what it holds is a moment old."""
    time.sleep(0.02 if isinstance(shop.store, LocalStore) else 1.1)  # S3 tells whole seconds of its clock
    return shop.backend.settings


def test_a_dry_run_lists_what_the_next_run_deletes(shop: Shop) -> None:
    run_id, open_ = shop.run(), shop.run("")
    settings = aged(shop)
    before = shop.keys()
    dry = gc(settings, "--older-than", "0.001s", "--dry-run")
    assert (dry.returncode, dry.stderr) == (0, "")
    assert f"would go: journal {ids.to_uuid(run_id)}" in dry.stdout
    assert str(ids.to_uuid(open_)) not in dry.stdout
    assert "WOULD GO" in dry.stdout
    listed = json.loads(gc(settings, "--older-than", "0.001s", "--dry-run", "-o", "json").stdout)
    assert shop.keys() == before
    assert shop.left(run_id) == ALL
    done = json.loads(gc(settings, "--older-than", "0.001s", "-o", "json").stdout)
    assert done["went"] == listed["went"]
    assert done["went"]["journals"]["count"] == 1
    assert {item["name"] for item in listed["items"]} - {run_id} == before - shop.keys() - {
        key for key in before if key.startswith(("flows/", "definitions/"))
    }
    assert done["kept"] == {"open": 1}
    assert (shop.left(run_id), shop.left(open_)) == ({"grave"}, ALL)


def test_ages_come_from_the_settings_and_options_win(shop: Shop) -> None:
    run_id = shop.run()
    settings = aged(shop)
    asked = gc(settings)
    assert (asked.returncode, asked.stdout) == (2, "")
    assert asked.stderr == (
        "Error: give --older-than, such as 30d, or set KAPSTAN_RETENTION_DAYS: nothing goes by itself\n"
    )
    assert gc(settings, KAPSTAN_RETENTION_DAYS="30").returncode == 0
    assert gc(settings, "--older-than", "1h", KAPSTAN_RETENTION_DAYS="0.00000001").returncode == 0
    assert shop.left(run_id) == ALL
    assert gc(settings, KAPSTAN_RETENTION_DAYS="0.00000001").returncode == 0
    assert shop.left(run_id) == {"grave"}
    aged(shop)
    assert gc(settings, "--older-than", "0.001s", "--keys-older-than", "0.001s").returncode == 0
    assert shop.left(run_id) == set()


@pytest.mark.parametrize("age", ["-1", "-1d", "0d", "0", "1y", "d", "1e9d", "nan", "", "30", "30 d", "99999999999d"])
def test_odd_ages_are_refused_in_one_line(tmp_path: Path, age: str) -> None:
    for option in ("--older-than", "--keys-older-than"):
        ended = gc(Settings(home=str(tmp_path)), f"{option}={age}")
        assert ended.returncode == 2
        assert f"Invalid value for '{option}': {age!r}: give " in ended.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("days", ["-1", "nan", "inf", "30d"])
def test_odd_settings_are_refused(tmp_path: Path, days: str) -> None:
    for name in ("KAPSTAN_RETENTION_DAYS", "KAPSTAN_KEY_RETENTION_DAYS"):
        ended = gc(Settings(home=str(tmp_path)), "--older-than=1d", **{name: days})
        assert ended.returncode == 2
        assert ended.stderr.startswith(f"Error: {name}='{days}': give ")


def test_a_home_that_does_not_exist_is_told_and_not_made(tmp_path: Path) -> None:
    ended = gc(Settings(home=str(tmp_path / "none")), "--older-than=1d")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "there is no such folder" in ended.stderr
    assert not (tmp_path / "none").exists()


def test_a_store_that_is_away_ends_it_in_one_line(tmp_path: Path, minio: Minio) -> None:
    settings = minio.settings(f"http://127.0.0.1:{free_port()}", home=str(tmp_path), store_deadline_seconds=0.2)
    ended = gc(settings, "--older-than=1d")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("Error: http://127.0.0.1:")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("changed", "says"),
    [({"s3_bucket": "no-such-bucket"}, "NoSuchBucket"), ({"s3_secret_key": "wrong"}, "403 SignatureDoesNotMatch")],
)
def test_a_bucket_that_is_not_there_or_not_ours_is_named(
    tmp_path: Path, minio: Minio, changed: dict[str, str], says: str
) -> None:
    ended = gc(minio.settings(home=str(tmp_path), **changed), "--older-than=1d")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert says in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_an_object_that_cannot_be_deleted_is_told_and_the_rest_goes_on(tmp_path: Path) -> None:
    settings = Settings(home=str(tmp_path / "home"))
    shop = Shop(Backend(settings))
    run_id, other = shop.run(), shop.run()
    objects = tmp_path / "home" / "store" / "default" / "objects"
    [first, *_] = sorted(path for path in (objects / "values" / run_id).rglob("*") if path.is_file())
    first.unlink()
    aged(shop)
    store = shop.store
    key = first.relative_to(objects).as_posix()
    store.put(f"{key}/below", b"x")  # a folder now, which no delete of a file takes
    listed = store.listed

    def showing(prefix: str) -> Iterator[Listed]:
        for entry in listed(prefix):
            yield entry._replace(key=key) if entry.key == f"{key}/below" else entry

    store.listed = showing  # type: ignore[method-assign]
    report = shop.sweep(Ages(runs=0.001))
    assert list(report.refused) == [key]
    assert report.refusals == 1
    assert (shop.left(other), shop.left(run_id)) == ({"grave"}, {"grave", "values"})
    assert report.items["journal"] == 2
    shop.backend.close()


def test_what_was_refused_is_told_by_the_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Shop(Backend(Settings(home=str(tmp_path / "home"))))
    run_id = shop.run()
    aged(shop)
    delete_each = LocalStore.delete_each

    def refusing(store: LocalStore, keys: Sequence[str]) -> dict[str, str]:
        held = {key: "held by a policy" for key in keys if key.startswith("values/")}
        return held | delete_each(store, [key for key in keys if key not in held])

    monkeypatch.setattr(LocalStore, "delete_each", refusing)
    ended = CliRunner().invoke(cli, ["gc", "--older-than=0.001s"])
    assert ended.exit_code == 1
    assert ended.stderr.count(": held by a policy\n") == 4
    assert shop.left(run_id) == {"grave", "values"}
    shop.backend.close()


def test_times_are_the_store_s(tmp_path: Path, minio: Minio) -> None:
    """A machine whose clock is a year ahead takes nothing that is young."""
    settings = minio.settings(namespace=new_namespace(), home=str(tmp_path / "home"))
    shop = Shop(Backend(settings))
    run_id = shop.run()
    ahead = "import time; real = time.time; time.time = lambda: real() + 4e7; from kapstan.cli import main; main()"
    ended = gc(settings, "--older-than=30d", program=["-c", ahead])
    assert ended.returncode == 0, ended.stderr
    assert shop.left(run_id) == ALL
    shop.backend.close()

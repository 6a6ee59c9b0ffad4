"""The cache of children: versions never go back, groups follow labels, the dead are remembered."""

from __future__ import annotations

from typing import Any

from kapstan.cluster.kubernetes.cache import Kept
from kapstan.resources.labels import FLOW_RUN_LABEL


def job(version: int, *, name: str = "r-1", run: str = "r", uid: str = "u") -> dict[str, Any]:
    return {
        "metadata": {
            "namespace": "n",
            "name": name,
            "uid": uid,
            "resourceVersion": str(version),
            "labels": {FLOW_RUN_LABEL: run},
            "managedFields": [{"manager": "m"}],
        },
        "spec": {"template": {"spec": {}}},
        "status": {"version": version},
    }


def test_an_older_version_does_not_replace_a_newer_one() -> None:
    kept = Kept("Job", FLOW_RUN_LABEL)
    assert kept.put(job(5))
    assert not kept.put(job(4))
    assert not kept.put(job(5))
    assert kept.get("n", "r-1") == {
        "metadata": {k: v for k, v in job(5)["metadata"].items() if k != "managedFields"},
        "spec": {},
        "status": {"version": 5},
    }


def test_a_deleted_object_stays_deleted_until_another_takes_its_name() -> None:
    kept = Kept("Job", FLOW_RUN_LABEL, tombstones=10)
    kept.put(job(5))
    kept.remove(job(6))
    assert not kept.put(job(5)), "an answer that was slower than the watch"
    assert kept.get("n", "r-1") is None
    assert [last["status"] for last in kept.gone_of("n", "r")] == [{"version": 6}]
    assert kept.put(job(9, uid="other"))
    assert list(kept.gone_of("n", "r")) == []


def test_the_deletion_of_a_namesake_changes_nothing() -> None:
    kept = Kept("Job", FLOW_RUN_LABEL)
    kept.put(job(9, uid="new"))
    kept.remove(job(8, uid="old"))
    assert kept.get("n", "r-1") is not None


def test_groups() -> None:
    kept = Kept("Job", FLOW_RUN_LABEL)
    for name in ("r-2", "r-1"):
        kept.put(job(1, name=name))
    kept.put(job(1, name="s-1", run="s"))
    assert [manifest["metadata"]["name"] for manifest in kept.of("n", "r")] == ["r-1", "r-2"]
    kept.remove(job(2, name="r-1"))
    assert [manifest["metadata"]["name"] for manifest in kept.of("n", "r")] == ["r-2"]


def test_tombstones_are_few() -> None:
    kept = Kept("Job", FLOW_RUN_LABEL, tombstones=2)
    for number in range(5):
        kept.put(job(1, name=f"r-{number}"))
        kept.remove(job(2, name=f"r-{number}"))
    assert [last["metadata"]["name"] for last in kept.gone_of("n", "r")] == ["r-4", "r-3"]

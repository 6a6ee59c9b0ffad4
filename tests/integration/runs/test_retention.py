"""Retention beside a real queue and index: what background runs need stays, what the index holds goes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from tests.contract.retention.makers import AGES, LARGE, Shop

from kapstan import ids
from kapstan.backend import Backend
from kapstan.engine import values
from kapstan.ids import RunId, derived_id, new_id
from kapstan.ports import Submission
from kapstan.runs.records import Records
from kapstan.runs.retention import Kept
from kapstan.runs.task_runs import TaskRuns


@pytest.fixture
def shop(backend: Backend) -> Shop:
    return Shop(backend)


def queued(shop: Shop, run_id: RunId, owner: RunId = "") -> str:
    """A background run that waits, with large arguments; their key."""
    key = values.arguments_key(run_id, "t")
    before = set(shop.store.keys("values/"))
    envelope = values.to_store(shop.backend, LARGE, "arguments", key, owner)
    shop.backend.queue.submit(Submission(run_id, "t", envelope, "fingerprint"))
    [stored] = set(shop.store.keys("values/")) - before
    return stored


def test_values_of_a_background_run_stay_as_long_as_the_queue_knows_it(shop: Shop) -> None:
    run_id = new_id()
    key = queued(shop, run_id)
    shop.later = 10_000
    assert shop.sweep().kept == {Kept.QUEUED: 1}
    shop.backend.queue.cancel(run_id)
    assert shop.sweep().kept == {Kept.QUEUED: 1}, "it may be run again while its record is there"
    change: Any = shop.backend.background_runs.delete(run_id)
    assert change[0].value == "done"
    assert shop.sweep().items == {"value": 1}
    assert shop.store.get(key) is None


def test_so_does_a_result_in_a_storage_that_its_task_named(shop: Shop, tmp_path: Path) -> None:
    run_id, address = new_id(), f"file://{tmp_path}/results"
    queued(shop, run_id)
    values.to_store(shop.backend, LARGE, "result", run_id, storage=address)
    shop.later = 10_000
    assert shop.sweep().kept == {Kept.QUEUED: 2}
    shop.backend.queue.cancel(run_id)
    shop.backend.background_runs.delete(run_id)
    assert shop.sweep().items == {"value": 2}


def test_of_a_flow_run_that_went_what_its_background_runs_still_need_stays(shop: Shop) -> None:
    flow_id = shop.run()
    waiting = derived_id("memo", flow_id)
    key = queued(shop, waiting, flow_id)
    shop.later = 31
    report = shop.sweep()
    assert report.items["journal"] == 1
    assert report.kept == {Kept.QUEUED: 1}
    assert list(shop.store.keys("values/")) == [key]
    shop.backend.queue.cancel(waiting)
    shop.backend.background_runs.delete(waiting)
    assert shop.sweep().items == {"value": 1}


def test_a_flow_that_a_background_run_called_stays_with_it(shop: Shop) -> None:
    caller = new_id()
    queued(shop, caller)
    called = shop.run(run_id=derived_id("memo", caller), caller=caller)
    shop.later = 31
    assert shop.sweep().kept == {Kept.CALLED: 1, Kept.QUEUED: 1}
    shop.backend.queue.cancel(caller)
    shop.backend.background_runs.delete(caller)
    shop.sweep()
    assert shop.left(called) == {"grave"}


def test_the_index_forgets_what_went(shop: Shop, kapstan: Callable[..., Result]) -> None:
    ended, crashed, open_ = shop.run(), shop.crash(), shop.run("")
    shop.later = 31
    shop.sweep()
    assert [shop.left(run_id) for run_id in (ended, crashed)] == [{"grave"}] * 2
    listed = kapstan("flow-run", "ls").stdout
    assert str(ids.to_uuid(open_)) in listed
    assert str(ids.to_uuid(ended)) not in listed
    assert "state: Completed" in kapstan("flow-run", "inspect", str(ids.to_uuid(ended))).stdout
    assert "Completed already" in kapstan("flow-run", "resume", str(ids.to_uuid(ended))).stdout
    refused = kapstan("flow-run", "resume", str(ids.to_uuid(crashed)))
    assert "retention has removed it: start a new run" in refused.stderr


def test_a_key_that_comes_back_finds_how_its_run_ended(shop: Shop) -> None:
    """What the operator reads for a FlowRun that is created again under the same idempotency key."""
    from kapstan.reconcile.naming import run_id_of_key

    run_id = shop.run(run_id=run_id_of_key("default", "billing", "bill-7"), deployment="billing")
    shop.later = 31
    shop.sweep()
    [attempt] = Records(shop.backend).attempts(run_id)
    assert attempt.end is not None
    assert (attempt.number, attempt.end.outcome, attempt.end.result_ref) == (1, "Completed", None)


def test_a_person_may_delete_the_values_of_a_background_run(shop: Shop) -> None:
    run_id = new_id()
    key = queued(shop, run_id)
    shop.backend.queue.cancel(run_id)
    TaskRuns(shop.backend).delete(run_id)
    assert shop.store.get(key) is None


def test_without_redis_nothing_goes(shop: Shop, shared_server: Any, tmp_path: Any) -> None:
    from dataclasses import replace

    from tests.servers.minio import free_port

    from kapstan.errors import QueueUnavailable

    run_id = shop.run()
    away = replace(shop.backend.settings, redis_url=f"redis://127.0.0.1:{free_port()}/0", redis_retry_seconds=0.1)
    other = Shop(Backend(away))
    other.later = 31
    with pytest.raises(QueueUnavailable):
        other.sweep(AGES)
    other.backend.close()
    assert shop.left(run_id) == {"journal", "values", "definition", "index"}

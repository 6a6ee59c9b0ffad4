"""What of a run in the store cannot be read: who can still do what with that run, and with others."""

from __future__ import annotations

import pytest
from tests.integration.durability.makers import Shop, id_of, work

from kapstan.errors import NotFound
from kapstan.ids import RunId
from kapstan.ports import BackgroundFilter
from kapstan.runs import ends, retrying, submissions
from kapstan.runs.rebuild import Fate, Rebuild
from kapstan.runs.task_runs import TaskRuns


def spoil(shop: Shop, run_id: RunId) -> None:
    shop.backend.store.put(submissions.FOLDER + run_id, b"written by another program")


def test_what_cannot_be_read_is_cancelled_and_deleted_all_the_same(shop: Shop) -> None:
    run_id = id_of(work.delay("a"))
    spoil(shop, run_id)
    assert TaskRuns(shop.backend).cancel(run_id) == "Cancelled"
    assert shop.noted(run_id) == "cancelled"
    shop.lose_redis()
    shop.backend.store.delete([ends.FOLDER + run_id])
    assert Rebuild(shop.backend).run().total == {Fate.UNREADABLE: 1}
    TaskRuns(shop.backend).delete(run_id)
    assert shop.stored() == ([], [])
    with pytest.raises(NotFound):
        TaskRuns(shop.backend).delete(run_id)
    left = id_of(work.delay("b"))
    shop.lose_redis()
    with pytest.raises(NotFound):
        TaskRuns(shop.backend).delete(left)
    assert shop.rebuild() == {Fate.SUBMITTED: 1}


def test_one_that_cannot_be_read_keeps_no_other_from_being_retried(shop: Shop) -> None:
    runs = [id_of(work.delay(str(n), "fails once")) for n in range(3)]
    shop.hand().work()
    spoil(shop, runs[1])
    found = retrying.chosen_runs(shop.backend, BackgroundFilter(frozenset({"failed"})))
    told = retrying.retry_each(shop.backend, found)
    assert (told.retried, [*told.refused]) == (2, [runs[1]])
    assert "cannot run again, submit it anew: the submission of" in told.refused[runs[1]]
    shop.hand().work()
    assert [shop.state(run_id) for run_id in runs] == ["completed", "failed", "completed"]

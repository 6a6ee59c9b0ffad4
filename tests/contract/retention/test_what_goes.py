"""What a sweep takes, and what it leaves alone."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from tests.contract.retention.makers import AGES, ALL, LARGE, Shop

from kapstan.engine import values
from kapstan.errors import ConfigurationError, NotPossible, RunExpired
from kapstan.ids import derived_id, new_id
from kapstan.journal import Journal, Retry, read_journal
from kapstan.runs import parameters
from kapstan.runs.flow_runs import FlowRuns
from kapstan.runs.records import Records
from kapstan.runs.retention import DAY, Ages, Held, Kept
from kapstan.store.local import LocalStore


@pytest.mark.parametrize("end", ["Completed", "Failed", "Cancelled"])
def test_a_run_that_ended_goes_as_a_whole_and_leaves_a_grave(shop: Shop, end: str) -> None:
    run_id = shop.run(end, tasks=70)
    assert shop.left(run_id) == ALL
    shop.later = 29
    report = shop.sweep()
    assert not report.items
    assert shop.left(run_id) == ALL
    shop.later = 31
    report = shop.sweep()
    assert shop.left(run_id) == {"grave"}
    assert dict(report.items) == {"journal": 1, "definition": 1, "value": 72}
    assert report.sizes["value"] > 70 * len(LARGE)
    history = read_journal(shop.store, shop.backend.codec, run_id)
    assert history.end is not None
    assert history.end.end == end
    assert not shop.sweep().items, "a second sweep finds nothing"


def test_what_has_not_ended_stays_whatever_its_age(shop: Shop) -> None:
    lost, suspended, handed_back = shop.run(""), shop.run("Suspended"), shop.run("HandedBack")
    shop.later = 10_000
    report = shop.sweep()
    assert [shop.left(run_id) for run_id in (lost, suspended, handed_back)] == [ALL] * 3
    assert not report.items
    assert report.kept == {Kept.OPEN: 3}


def test_a_run_whose_index_entry_is_gone_is_judged_by_its_journal(shop: Shop) -> None:
    ended, lost = shop.run(), shop.run("")
    for run_id in (ended, lost):
        shop.backend.flow_runs.delete(run_id)
    shop.later = 31
    shop.sweep()
    assert shop.left(ended) == {"grave"}
    assert shop.left(lost) == ALL - {"index"}


def test_an_index_that_says_ended_does_not_overrule_the_journal(shop: Shop) -> None:
    run_id = shop.run("")
    shop.backend.flow_runs.save(run_id, {"state": "COMPLETED", "outcome": "Completed", "ended": 1.0})
    shop.later = 31
    shop.sweep()
    assert shop.left(run_id) == ALL


def test_a_crashed_run_goes_as_any_other(shop: Shop) -> None:
    run_id = shop.crash()
    shop.later = 31
    shop.sweep()
    assert shop.left(run_id) == {"grave"}
    [attempt] = Records(shop.backend).attempts(run_id)
    assert attempt.end is not None
    assert (attempt.end.outcome, attempt.end.message) == ("Crashed", "lost too often")


def test_a_failed_run_that_was_resumed_stays_until_it_has_ended(shop: Shop) -> None:
    run_id = shop.run("Failed")
    _, journal = shop.begin(run_id, attempt=2)
    journal.append(Retry(0, 1.0, by_hand=True))
    journal.close()
    shop.later = 31
    shop.sweep()
    assert shop.left(run_id) == ALL


def test_a_run_whose_lease_is_held_stays(shop: Shop) -> None:
    run_id = shop.run("Failed")
    lease = shop.backend.flow_runs.lease(run_id, 2, "host:1:x")
    assert lease is not None
    shop.later = 31
    assert shop.sweep().kept == {Kept.AT_WORK: 1}
    lease.release()
    assert shop.sweep().items["journal"] == 1


def test_a_journal_that_cannot_be_read_stays_with_all_that_it_may_name(shop: Shop) -> None:
    run_id = shop.run()
    if isinstance(shop.store, LocalStore):
        path = next((shop.backend.settings.home_path / "store").rglob("*.log"))
        path.write_bytes(path.read_bytes().replace(b"shop:work", b"shop:wark"))
    else:
        key = f"flows/{run_id}/j/{1:010d}"
        stored = shop.store.get(key)
        assert stored is not None
        shop.store.put(key, stored.body.replace(b"shop:work", b"shop:wark"))
    shop.later = 31
    report = shop.sweep()
    assert report.kept == {Kept.UNREADABLE: 1}
    assert report.examples == {Kept.UNREADABLE: [run_id]}
    assert not report.items
    assert any(shop.store.keys(f"values/{run_id}/"))


def test_a_run_of_another_key_stays(shop: Shop) -> None:
    run_id = shop.run()
    stranger = Shop(type(shop.backend)(dataclasses.replace(shop.backend.settings, signing_key="A" * 43 + "=")))
    stranger.later = 31
    report = stranger.sweep()
    stranger.backend.close()
    assert report.kept == {Kept.UNREADABLE: 1}
    assert shop.left(run_id) == ALL


def test_subflows_go_with_the_run_that_called_them_in_one_sweep(shop: Shop) -> None:
    for before in (False, True):  # ids follow from the caller's: some sort before it, some behind
        caller = shop.run()
        child = shop.run(run_id=derived_id("memo", caller), caller=caller)
        called = (derived_id("memo", child, str(number)) for number in itertools.count())
        grandchild = shop.run(run_id=next(one for one in called if (one < child) is before), caller=child)
        shop.later = 31
        would = shop.listed(dry_run=True)
        assert shop.listed(dry_run=False) == would
        assert [item.kind for item in would].count("journal") == 3
        assert [shop.left(run_id) for run_id in (caller, child, grandchild)] == [{"grave"}] * 3
        shop.later = 0


def test_subflows_stay_while_the_run_that_called_them_may_ask_for_them(shop: Shop) -> None:
    caller = shop.run("")
    child = shop.run(run_id=derived_id("memo", caller), caller=caller)
    grandchild = shop.run(run_id=derived_id("memo", child), caller=child)
    shop.later = 31
    report = shop.sweep()
    assert report.kept == {Kept.OPEN: 1, Kept.CALLED: 2}
    assert [shop.left(run_id) for run_id in (child, grandchild)] == [ALL - {"definition"}] * 2


def test_a_derived_run_of_an_older_release_stays_where_nothing_tells_who_called_it(shop: Shop) -> None:
    run_id = shop.run(run_id=derived_id("x", new_id()), caller=None)
    root = shop.run(caller=None)
    shop.backend.flow_runs.delete(run_id)
    shop.backend.flow_runs.delete(root)
    shop.later = 31
    assert shop.sweep().kept == {Kept.UNKNOWN: 1}
    assert "journal" in shop.left(run_id)
    assert shop.left(root) == {"grave"}, "one whose id tells when it was made was called by nobody"


def test_what_a_flow_run_object_needs_stays(shop: Shop) -> None:
    run_id = shop.run(deployment="nightly")
    named, other = parameters.write(shop.backend, {"x": 1}), parameters.write(shop.backend, {"x": 2})
    shop.later = 31
    unseen = shop.sweep(held=None)
    assert unseen.kept == {Kept.DEPLOYMENT: 1, Kept.PARAMETERS: 2}
    there = Held(frozenset({run_id}), frozenset({named}))
    assert shop.sweep(held=there).kept == {Kept.HELD: 2}
    assert shop.left(run_id) == ALL
    assert set(shop.store.keys("parameters/")) == {named}
    assert other != named
    shop.sweep(held=Held(frozenset(), frozenset({named})))
    assert shop.left(run_id) == {"grave"}


def test_parameters_that_were_stored_again_are_young(shop: Shop) -> None:
    shop.later = 31
    key = parameters.write(shop.backend, {"x": 1})
    shop.sweep(Ages(runs=32 * DAY))
    assert shop.store.get(key) is not None
    shop.sweep()
    assert shop.store.get(key) is None


def test_values_that_nobody_can_reach_go_when_they_are_old(shop: Shop) -> None:
    task, flow = new_id(), new_id()
    values.to_store(shop.backend, LARGE, "result", task)
    values.to_store(shop.backend, LARGE, "result", derived_id(flow), flow)
    living = shop.run("", tasks=0)
    orphan_of_living = derived_id(living, "a call that was never recorded")
    values.to_store(shop.backend, LARGE, "result", orphan_of_living, living)
    before = shop.keys()
    shop.later = 0.9
    shop.sweep(Ages(runs=60.0))
    assert shop.keys() == before, "somebody may be about to refer to them"
    shop.later = 1.1
    assert shop.sweep(Ages(runs=60.0)).items == {"value": 2}
    assert set(shop.store.keys("values/")) == {key for key in before if key.startswith(f"values/{living}/")}


def test_values_of_older_releases_stay_where_their_name_does_not_tell_whose_they_are(shop: Shop) -> None:
    shop.store.put(f"values/{derived_id('a task run of some flow run')}/{new_id()}", LARGE)
    shop.store.put(f"values/{new_id()}/{new_id()}", LARGE)
    shop.later = 31
    report = shop.sweep()
    assert report.kept == {Kept.UNKNOWN: 1}
    assert report.items == {"value": 1}


def test_what_is_not_ours_is_never_touched(shop: Shop) -> None:
    foreign = {"flows-of-others/x", "values/x/y", "values/z", "definitions/x", "mine/flows/x", "era/0", "valuesx/a/b"}
    for key in foreign:
        shop.store.put(key, b"precious")
    shop.store.put(f"definitions/{new_id()}/below", b"precious")
    shop.later = 100_000
    before = shop.keys()
    report = shop.sweep(Ages(runs=1.0, keys=1.0, grace=0.0))
    assert shop.keys() == before
    assert not report.items
    assert set(report.examples[Kept.FOREIGN]) >= {"values/x/y", "definitions/x"}


def test_a_grave_stays_as_long_as_keys_do(shop: Shop) -> None:
    run_id = shop.run()
    shop.later = 31
    shop.sweep()
    shop.later = 60
    assert not shop.sweep().items
    with pytest.raises(RunExpired, match="has ended and its journal was removed"):
        Journal(shop.store, shop.backend.codec, run_id).open(2, host="", now=0.0)
    with pytest.raises(NotPossible, match="retention has removed it"):
        FlowRuns(shop.backend).resume(_failed(shop))
    shop.later = 91
    assert not shop.sweep(Ages(runs=30 * DAY)).items, "without an age of keys it stays for ever"
    assert shop.sweep().items["grave"] == 2
    assert shop.left(run_id) == set()
    journal = Journal(shop.store, shop.backend.codec, run_id)
    journal.open(1, host="", now=0.0)
    journal.close()


def _failed(shop: Shop) -> str:
    run_id = shop.run("Failed")
    shop.sweep()
    assert shop.left(run_id) == {"grave"}
    return run_id


@pytest.mark.parametrize("ages", [(0.0, None), (-1.0, None), (1.0, 0.0), (1.0, -1.0)])
def test_ages_that_would_take_what_ended_just_now_are_refused(ages: tuple[float, float | None]) -> None:
    with pytest.raises(ConfigurationError, match="give more than 0"):
        Ages(*ages)


def test_ages_come_from_settings(shop: Shop) -> None:
    changed = dataclasses.replace
    assert Ages.from_settings(shop.backend.settings) is None, "nothing goes by itself"
    assert Ages.from_settings(changed(shop.backend.settings, retention_days=30.0)) == Ages(30 * DAY, registers=30 * DAY)
    both = changed(shop.backend.settings, retention_days=30.0, key_retention_days=90.0)
    assert Ages.from_settings(both) == changed(AGES, registers=30 * DAY)

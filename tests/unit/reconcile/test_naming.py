"""Names follow from the parent, fit, and do not collide."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kapstan import ids
from kapstan.reconcile.naming import child_name, job_name, run_id_of, scheduled_run_name

MOMENT = datetime(2026, 3, 2, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (job_name("nightly", 3), "nightly-3"),
        (scheduled_run_name("etl", "hourly", MOMENT), "etl-hourly-1772452800"),
    ],
)
def test_names_can_be_read(name: str, expected: str) -> None:
    assert name == expected


def test_two_schedules_have_two_names() -> None:
    assert scheduled_run_name("etl", "daily-full", MOMENT) != scheduled_run_name("etl-daily", "full", MOMENT)


@settings(deadline=None)
@given(st.text("ab-", min_size=2, max_size=12), st.data())
def test_no_two_ways_to_cut_a_name_give_the_same_run(joined: str, data: st.DataObject) -> None:
    cuts = [at for at, letter in enumerate(joined) if letter == "-"]
    if len(cuts) < 2:
        return
    one, other = data.draw(st.sampled_from(cuts)), data.draw(st.sampled_from(cuts))
    names = {scheduled_run_name(joined[:at], joined[at + 1 :], MOMENT) for at in (one, other)}
    assert len(names) == len({one, other})


def test_what_a_name_cannot_hold_is_made_up_for_by_a_hash() -> None:
    assert re.fullmatch(r"etl-every-hour-[0-9a-f]{10}", child_name("etl", "Every_Hour"))


@settings(deadline=None)
@given(st.text(min_size=1, max_size=80), st.integers(1, 10**6))
def test_every_name_is_a_label(parent: str, attempt: int) -> None:
    name = job_name(f"x{parent}", attempt)
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name)
    assert len(name) <= 63
    assert name == job_name(f"x{parent}", attempt)


def test_names_that_are_cut_or_spelled_alike_stay_apart() -> None:
    long = "x" * 63
    assert len({job_name(long, 1), job_name(long, 11), job_name(long + "y", 1)}) == 3
    assert child_name("a", "B") != child_name("a", "b")


def test_a_run_id_is_a_version_7_uuid_of_the_creation() -> None:
    made = ids.to_uuid(run_id_of("uid", MOMENT))
    assert made.version == 7
    assert made.int >> 80 == int(MOMENT.timestamp() * 1000)
    assert made == ids.to_uuid(run_id_of("uid", MOMENT)) != ids.to_uuid(run_id_of("other", MOMENT))
    assert UUID(str(made)).variant == "specified in RFC 4122"

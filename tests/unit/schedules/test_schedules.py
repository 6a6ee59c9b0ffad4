"""When runs are due, daylight saving included: the clocks of Berlin go forward on 2026-03-29 and back on 2026-10-25."""

from __future__ import annotations

import itertools
import math
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kapstan.errors import ConfigurationError
from kapstan.schedules import Cron, CronSchedule, Interval, IntervalSchedule, Schedule

BERLIN = "Europe/Berlin"


def utc(*fields: int) -> datetime:
    return datetime(*fields, tzinfo=UTC)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("schedule", "after", "expected"),
    [
        (Cron("0 6 * * 1-5"), utc(2026, 3, 6, 6), [utc(2026, 3, 9, 6), utc(2026, 3, 10, 6)]),
        (Cron("0 6 * * *", BERLIN), utc(2026, 3, 28, 0), [utc(2026, 3, 28, 5), utc(2026, 3, 29, 4)]),
        # 02:30 does not exist on the 29th: right after the gap.
        (Cron("30 2 * * *", BERLIN), utc(2026, 3, 28, 12), [utc(2026, 3, 29, 1), utc(2026, 3, 30, 0, 30)]),
        # 02:30 comes twice on the 25th: once.
        (Cron("30 2 * * *", BERLIN), utc(2026, 10, 24, 12), [utc(2026, 10, 25, 0, 30), utc(2026, 10, 26, 1, 30)]),
        # A wildcard hour goes on through both.
        (Cron("0 * * * *", BERLIN), utc(2026, 10, 25, 0), [utc(2026, 10, 25, 1), utc(2026, 10, 25, 2)]),
        (Cron("*/20 * * * * *"), utc(2026, 3, 2, 0, 0, 30), [utc(2026, 3, 2, 0, 0, 40), utc(2026, 3, 2, 0, 1, 0)]),
        (Cron("0 0 13 * 5"), utc(2026, 3, 1), [utc(2026, 3, 6), utc(2026, 3, 13)]),
        (Cron("0 0 13 * 5", day_or=False), utc(2026, 3, 1), [utc(2026, 3, 13), utc(2026, 11, 13)]),
        (Interval(90, utc(2026, 3, 2)), utc(2026, 3, 2), [utc(2026, 3, 2, 0, 1, 30), utc(2026, 3, 2, 0, 3)]),
        (Interval(timedelta(hours=1), utc(2026, 4, 1)), utc(2026, 3, 2), [utc(2026, 3, 2, 1), utc(2026, 3, 2, 2)]),
        # Less than a day counts seconds, a day keeps the wall clock.
        (
            Interval(timedelta(hours=12), utc(2026, 3, 28, 5), BERLIN),
            utc(2026, 3, 28, 17),
            [utc(2026, 3, 29, 5), utc(2026, 3, 29, 17)],
        ),
        (
            Interval(timedelta(days=1), utc(2026, 3, 28, 5), BERLIN),
            utc(2026, 3, 28, 5),
            [utc(2026, 3, 29, 4), utc(2026, 3, 30, 4)],
        ),
    ],
)
def test_upcoming(schedule: Schedule, after: datetime, expected: list[datetime]) -> None:
    assert schedule.next(2, after) == expected


SCHEDULES = [
    Cron("30 2 * * *", BERLIN),
    Cron("*/7 * * * *", BERLIN),
    Cron("0 6 * * 1-5", "America/New_York"),
    Cron("15,45 1-3 * * *", BERLIN),
    Interval(1800, utc(2026, 1, 1)),
    Interval(86400, utc(2026, 1, 1, 1, 30), BERLIN),
    Interval(timedelta(days=7), utc(2026, 1, 1, 23), "America/New_York"),
]


@settings(deadline=None)
@example(SCHEDULES[0], datetime(2026, 10, 25, 1), timedelta(0))  # the second of two equal hours begins
@example(SCHEDULES[1], datetime(2026, 10, 25, 1), timedelta(hours=2))
@example(SCHEDULES[3], datetime(2026, 10, 25, 1, 20), timedelta(hours=2))
@given(
    st.sampled_from(SCHEDULES),
    st.datetimes(datetime(2026, 3, 20), datetime(2026, 11, 10)),
    st.timedeltas(timedelta(0), timedelta(days=3)),
)
def test_backwards_finds_what_forwards_finds(schedule: Schedule, start: datetime, length: timedelta) -> None:
    after = start.replace(tzinfo=UTC)
    forwards = list(itertools.takewhile(lambda moment: moment <= after + length, schedule.upcoming(after)))
    assert schedule.between(after, after + length, at_most=10_000) == forwards
    assert forwards == sorted(set(forwards))


def test_only_the_latest_are_looked_for() -> None:
    long_ago = utc(1990, 1, 1)
    assert Cron("* * * * *").between(long_ago, utc(2026, 3, 2), at_most=2) == [utc(2026, 3, 1, 23, 59), utc(2026, 3, 2)]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Cron("x"), "cron='x': Wrong number of fields; write minute hour day month weekday"),
        (lambda: Cron("61 * * * *"), "cron='61 * * * *': Bad minute"),
        (lambda: Cron("* * * * *", "Mars/Base"), "timezone='Mars/Base' is no time zone: give an IANA name"),
        (lambda: Cron(5), "cron=5: give a text"),  # type: ignore[arg-type]
        (lambda: Cron("@often"), "cron='@often': Wrong number of fields"),
        (lambda: Cron("* * * * *", 5), "timezone=5 is no time zone"),  # type: ignore[arg-type]
        (lambda: Interval("60"), "interval='60': give a timedelta, or a number of seconds"),  # type: ignore[arg-type]
        (lambda: Interval(math.nan), "interval=nan: give a timedelta"),
        (lambda: Interval(math.inf), "interval=inf: give a timedelta"),
        (lambda: Interval(60, "2026-01-01"), "anchor_date='2026-01-01': give a datetime"),  # type: ignore[arg-type]
        (lambda: Interval(0.5), "interval=0.5: give at least one second"),
        (lambda: Interval(60, datetime(2026, 1, 1)), "give a datetime with a time zone (tzinfo)"),
    ],
)
def test_what_cannot_be_is_refused_with_the_fix(make: object, words: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        make()  # type: ignore[operator]
    assert words in str(refused.value)


def test_the_names_that_users_know() -> None:
    assert CronSchedule(cron="0 0 * * *", timezone=BERLIN) == Cron("0 0 * * *", BERLIN)
    anchor = utc(2026, 1, 1)
    assert IntervalSchedule(interval=timedelta(minutes=5), anchor_date=anchor) == Interval(300, anchor)


def test_an_interval_keeps_its_distance_and_its_anchor() -> None:
    given = Interval(60, utc(2026, 1, 1, 0, 0, 30))
    assert (given.interval, given.anchor_date, given.anchored) == (
        timedelta(minutes=1),
        utc(2026, 1, 1, 0, 0, 30),
        True,
    )
    made = Interval(3600.0)
    assert made.anchor_date is not None
    assert not made.anchored
    assert made.next(1, made.anchor_date) == [made.anchor_date + timedelta(hours=1)]


@pytest.mark.parametrize(
    ("nickname", "written_out"),
    [
        ("@hourly", "0 * * * *"),
        ("@daily", "0 0 * * *"),
        ("@midnight", "0 0 * * *"),
        ("@Weekly", "0 0 * * 0"),
        ("@monthly", "0 0 1 * *"),
        ("@yearly", "0 0 1 1 *"),
        ("@annually", "0 0 1 1 *"),
    ],
)
def test_nicknames_of_cron(nickname: str, written_out: str) -> None:
    after = utc(2026, 3, 28, 12, 34)
    assert Cron(nickname, BERLIN).next(3, after) == Cron(written_out, BERLIN).next(3, after)


def test_a_day_keeps_the_time_of_day_of_its_anchors_own_time_zone() -> None:
    anchor = datetime(2026, 3, 27, 9, tzinfo=ZoneInfo(BERLIN))
    moments = Interval(timedelta(days=1), anchor).next(3, utc(2026, 3, 28))
    assert moments == [utc(2026, 3, 28, 8), utc(2026, 3, 29, 7), utc(2026, 3, 30, 7)]
    named = Interval(timedelta(days=1), anchor, "UTC").next(2, utc(2026, 3, 28))
    assert named == [utc(2026, 3, 28, 8), utc(2026, 3, 29, 8)]

"""Schedules: when runs are due. What users write (`Cron`, `Interval`), and what the Deployment reconciler asks.

Pure values: `upcoming` and `past` take aware datetimes and give them in UTC. Standard library at import; a cron
expression is read by `cronsim` when it is first used.

Daylight saving: a cron expression is read on the wall clock of its time zone, as Debian's cron does: a fixed time in
the hour that is skipped runs right after it, one in the hour that comes twice runs once, and wildcard hours simply go
on. An interval of less than a day counts elapsed seconds; a longer one keeps the wall clock's time of day.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from kapstan.errors import ConfigurationError

_NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_DAY = timedelta(days=1)
_MOMENT = timedelta(microseconds=1)


class Schedule(ABC):
    """When runs are due; one of `Cron` and `Interval`."""

    __slots__ = ()

    @abstractmethod
    def upcoming(self, after: datetime) -> Iterator[datetime]:
        """Every moment later than ``after``, in order."""

    @abstractmethod
    def past(self, until: datetime) -> Iterator[datetime]:
        """Every moment up to and with ``until``, the latest first."""

    def next(self, count: int, after: datetime) -> list[datetime]:
        """The next ``count`` moments later than ``after``."""
        return list(itertools.islice(self.upcoming(after), count))

    def between(self, after: datetime, until: datetime, *, at_most: int) -> list[datetime]:
        """The latest ``at_most`` moments later than ``after`` and not later than ``until``, in order."""
        found = itertools.takewhile(lambda moment: moment > after, self.past(until))
        return list(itertools.islice(found, at_most))[::-1]


@dataclass(frozen=True, slots=True)
class Cron(Schedule):
    """Runs by a cron expression.

    Attributes:
        cron: five fields (minute hour day month weekday), or six with seconds in front, or one of @hourly, @daily
            (@midnight), @weekly, @monthly, @yearly (@annually).
        timezone: IANA name, such as Europe/Berlin; default: UTC.
        day_or: if day of month and weekday are both given, a day matches by either (as in cron), not only by both.
        active: False makes no runs.
        parameters: laid over the Deployment's for the runs of this schedule.
        slug: name of the schedule, unique in its Deployment.

    Raises:
        ConfigurationError: no such expression, no such time zone.
    """

    cron: str
    timezone: str | None = None
    day_or: bool = True
    active: bool = True
    parameters: dict[str, Any] = field(default_factory=dict[str, Any])
    slug: str = ""

    def __post_init__(self) -> None:
        _zone(self.timezone)
        cron: Any = self.cron
        if not isinstance(cron, str):
            raise ConfigurationError(f"cron={cron!r}: give a text, such as 0 6 * * 1-5")
        self._moments(datetime.now(UTC), back=False)

    def upcoming(self, after: datetime) -> Iterator[datetime]:
        return self._moments(after, back=False)

    def past(self, until: datetime) -> Iterator[datetime]:
        # The first step back loses the fraction of a second: so that `until` itself is among its moments.
        return self._moments(until + _MOMENT, back=True)

    def _moments(self, start: datetime, *, back: bool) -> Iterator[datetime]:
        from cronsim import CronSim, CronSimError

        try:
            expression = _NICKNAMES.get(self.cron.strip().lower(), self.cron)
            found = CronSim(expression, start.astimezone(_zone(self.timezone)), reverse=back)
        except CronSimError as error:
            raise ConfigurationError(
                f"cron={self.cron!r}: {error}; write minute hour day month weekday, such as 0 6 * * 1-5, or @daily"
            ) from None
        if not self.day_or:
            found.day_and = True
        moments = (moment.astimezone(UTC) for moment in found)
        # From within the second of two equal hours, `cronsim` looks in the first one, too.
        return itertools.dropwhile(lambda moment: moment >= start if back else moment <= start, moments)


@dataclass(frozen=True, slots=True)
class Interval(Schedule):
    """Runs at equal distances.

    Attributes:
        interval: distance; a number is seconds, and is kept as a timedelta.
        anchor_date: a moment at which a run is due, with a time zone; the others lie before and after it. Default: the
            moment at which the schedule is made.
        anchored: whether an anchor was given. Without one a Deployment counts from its creation.
        timezone: IANA name; default: that of the anchor. It matters for intervals of a day and more.
        active, parameters, slug: as in `Cron`.

    Raises:
        ConfigurationError: an interval under a second, an anchor without a time zone, no such time zone.
    """

    interval: timedelta | float
    anchor_date: datetime | None = None
    timezone: str | None = None
    active: bool = True
    parameters: dict[str, Any] = field(default_factory=dict[str, Any])
    slug: str = ""
    anchored: bool = field(init=False, repr=False, compare=False, default=False)

    def __post_init__(self) -> None:
        _zone(self.timezone)
        if self.length < timedelta(seconds=1):
            raise ConfigurationError(f"interval={self.interval!r}: give at least one second")
        anchor: Any = self.anchor_date
        if anchor is not None and (not isinstance(anchor, datetime) or anchor.tzinfo is None):
            raise ConfigurationError(f"anchor_date={anchor!r}: give a datetime with a time zone (tzinfo)")
        object.__setattr__(self, "interval", self.length)
        object.__setattr__(self, "anchored", anchor is not None)
        object.__setattr__(self, "anchor_date", self._anchor)

    @property
    def length(self) -> timedelta:
        """The distance.

        Raises:
            ConfigurationError: it is neither a timedelta nor a number.
        """
        interval: Any = self.interval
        if isinstance(interval, timedelta):
            return interval
        try:
            return timedelta(seconds=interval)
        except (TypeError, ValueError, OverflowError):
            raise ConfigurationError(f"interval={interval!r}: give a timedelta, or a number of seconds") from None

    def upcoming(self, after: datetime) -> Iterator[datetime]:
        number = self._number(after)
        return (moment for moment in map(self._moment, itertools.count(number)) if moment > after)

    def past(self, until: datetime) -> Iterator[datetime]:
        number = self._number(until) + 4  # as far above as `_number` may be below
        return (moment for moment in map(self._moment, itertools.count(number, -1)) if moment <= until)

    @property
    def _anchor(self) -> datetime:
        return self.anchor_date or datetime.now(_zone(self.timezone))

    @property
    def _wall_clock(self) -> ZoneInfo:
        """The time zone whose time of day stays the same."""
        zone = self._anchor.tzinfo
        return zone if self.timezone is None and isinstance(zone, ZoneInfo) else _zone(self.timezone)

    def _number(self, moment: datetime) -> int:
        """Number of a moment of this schedule shortly before ``moment``: a day more than any shift of clocks needs."""
        return (moment - self._anchor) // self.length - (1 if self.length < _DAY else 2)

    def _moment(self, number: int) -> datetime:
        if self.length < _DAY:
            return (self._anchor + number * self.length).astimezone(UTC)
        zone = self._wall_clock
        wall = self._anchor.astimezone(zone).replace(tzinfo=None) + number * self.length
        return wall.replace(tzinfo=zone).astimezone(UTC)


CronSchedule = Cron
IntervalSchedule = Interval


def _zone(name: str | None) -> ZoneInfo:
    try:
        return ZoneInfo(name or "UTC")
    except (ZoneInfoNotFoundError, ValueError, OSError, TypeError):
        raise ConfigurationError(
            f"timezone={name!r} is no time zone: give an IANA name, such as Europe/Berlin"
        ) from None

"""The server's clock as it goes on from what the server last said. Records take their moments from it where a script
would have to put a long string together to add one."""

from __future__ import annotations

import time

_EPOCH = 1577836800  # 2020-01-01


class ServerClock:
    """At most as late as the server's answer was on its way, and never before what the answer tells of."""

    def __init__(self) -> None:
        self._told = self._at = 0.0

    def told(self, since: bytes) -> None:
        """A moment as records hold it: milliseconds since 2020, 10 hexadecimal digits."""
        self._told, self._at = int(since, 16), time.monotonic()

    def told_time(self, seconds: bytes | int, micros: bytes | int) -> None:
        """As the command TIME answers: seconds since 1970, and microseconds."""
        self._told, self._at = (int(seconds) - _EPOCH) * 1000 + int(micros) // 1000, time.monotonic()

    @property
    def fresh(self) -> bool:
        """Whether it was told within the last minute: two clocks drift apart, and one stands still in a sleep."""
        return self._at > 0 and time.monotonic() - self._at < 60

    def now(self) -> bytes:
        """As records hold moments."""
        return b"%010x" % int(self._told + (time.monotonic() - self._at) * 1000)

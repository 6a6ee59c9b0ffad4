"""For how long the clients that hold locks were not heard of."""

from __future__ import annotations

import threading
import time

from kapstan.ports import Place

_MOST = 1000  # clients that are remembered


class Silence:
    """Counted while the table answers: a pause between two answers counts as a beat at most, so that a table that
    stalls ends nobody. Counted on from call to call: whoever only asks now and then sees the end of a holder, too.

    Args:
        lease: seconds after which a client is silent.
    """

    def __init__(self, lease: float, beat: float) -> None:
        self._lease = lease
        self._beat = beat
        self._lock = threading.Lock()
        self._known: dict[str, tuple[str, float, float]] = {}  # client: beat, seconds watched, last look

    def heard(self, place: Place) -> None:
        now = time.monotonic()
        with self._lock:
            beat, watched, last = self._known.get(place.client, ("", 0.0, now))
            watched = watched + min(now - last, self._beat) if beat == place.beat else 0.0
            self._known.pop(place.client, None)  # so that the first is the one that was looked at longest ago
            self._known[place.client] = (place.beat, watched, now)
            if len(self._known) > _MOST:
                del self._known[next(iter(self._known))]

    def clients(self) -> list[tuple[str, str]]:
        """Those that were silent for a lease, with their beat."""
        with self._lock:
            return [(client, beat) for client, (beat, watched, _) in self._known.items() if watched >= self._lease]

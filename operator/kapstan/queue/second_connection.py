"""A lane's second connection: what is called there does not wait behind the steps in flight on the first.

Called by ``lane``, from two threads; knows no script's meaning.
"""

from __future__ import annotations

import threading
from typing import Any

from kapstan.queue.dialer import Dialer
from kapstan.queue.record import check_format
from kapstan.queue.wire import ConnectionLost, Wire


class SecondConnection:
    """Made at the first call, and anew when it is lost."""

    def __init__(self, dialer: Dialer) -> None:
        self._dialer = dialer
        self._patience = dialer.settings.redis_retry_seconds
        self._wire: Wire | None = None
        self._lock = threading.Lock()

    def call(self, packed: bytes, repeated: bytes | None = None) -> Any:
        """The reply; ``repeated`` is sent instead where the answer to the first was lost.

        Raises:
            QueueUnavailable: Redis does not answer for KAPSTAN_REDIS_RETRY_SECONDS.
        """
        calls = [packed]

        def attempt() -> Any:
            try:
                if self._wire is None:
                    self._wire = self._dialer.dial()
                return self._wire.call(calls[0])
            except ConnectionLost:
                if self._wire is not None:
                    self._wire.close()
                    self._wire = None
                    calls[0] = repeated or packed
                raise

        with self._lock:
            reply = self._dialer.patiently(attempt, self._patience)
        check_format(reply)
        return reply

    def close(self) -> None:
        with self._lock:
            if self._wire is not None:
                self._wire.close()
                self._wire = None

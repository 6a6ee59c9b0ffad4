"""Attempts that write to a log on threads of their own until they are fenced, as flow processes do that nobody
tells."""

from __future__ import annotations

import threading
from collections.abc import Callable

from tests.contract.store.crashing import Crash

from kapstan.errors import Fenced
from kapstan.ports import RunLog

DEADLINE = 60.0


class Writer:
    """Opens ``log`` as attempt ``name`` and appends until it is fenced, crashes, or is told to stop.

    Attributes:
        before: what was acknowledged, by anybody, before this one began to open.
        seen: what the open returned; None if it never returned.
        acknowledged: its own records whose append returned.
        end: how it ended: "fenced", "crashed", "stopped" or the error.
    """

    def __init__(self, log: RunLog, name: str, ledger: Ledger, *, batch: int = 1) -> None:
        self._log = log
        self._name = name
        self._ledger = ledger
        self._batch = batch
        self._stop = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.before: list[bytes] = []
        self.seen: list[bytes] | None = None
        self.acknowledged: list[bytes] = []
        self.end = ""

    @property
    def opening(self) -> bytes:
        return f"open {self._name}".encode()

    def start(self) -> Writer:
        self._thread.start()
        return self

    def wait_for(self, records: int) -> Writer:
        """Wait until it has so many records acknowledged, or has ended."""
        self._wait(lambda: len(self.acknowledged) >= records)
        return self

    def wait_for_open(self) -> Writer:
        self._wait(lambda: self.seen is not None)
        return self

    def stop(self) -> Writer:
        """End after the append that is under way."""
        self._stop = True
        return self.join()

    def join(self) -> Writer:
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive(), f"{self._name} hangs"
        return self

    def _wait(self, is_reached: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.end or is_reached(), DEADLINE), f"{self._name} makes no progress"

    def _run(self) -> None:
        end = "stopped"
        try:
            self.before = self._ledger.all()
            seen = self._log.open(self.opening)
            with self._changed:
                self.seen = seen
                self._changed.notify_all()
            while not self._stop:
                count = len(self.acknowledged)
                records = [f"{self._name} {number}".encode() for number in range(count, count + self._batch)]
                self._log.append(records)
                self._ledger.add(records)
                with self._changed:
                    self.acknowledged += records
                    self._changed.notify_all()
        except Fenced:
            end = "fenced"
        except Crash:
            end = "crashed"
        except Exception as error:  # noqa: BLE001  (told by the test)
            end = f"{type(error).__name__}: {error}"
        with self._changed:
            self.end = end
            self._changed.notify_all()


class Ledger:
    """What was acknowledged by all writers of one log, in the order in which they were told."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._records: list[bytes] = []

    def add(self, records: list[bytes]) -> None:
        with self._lock:
            self._records += records

    def all(self) -> list[bytes]:
        with self._lock:
            return list(self._records)


def check(final: list[bytes], writers: list[Writer]) -> None:
    """Nothing lost, doubled, out of order or read stale.

    ``final`` is the log after all of it; every open must have returned exactly what stands before its opening there.
    """
    assert len(set(final)) == len(final), "doubled"
    place = {record: number for number, record in enumerate(final)}
    for writer in writers:
        missing = [record for record in writer.acknowledged if record not in place]
        assert not missing, f"lost: {missing}"
        places = [place[record] for record in writer.acknowledged]
        assert places == sorted(places), "out of order"
        if writer.seen is not None:
            assert writer.seen == final[: place[writer.opening]], "read stale, or behind its back"
            assert set(writer.before) <= set(writer.seen), "acknowledged before it began, and not read"
            assert all(number > place[writer.opening] for number in places)
            own = final[place[writer.opening] + 1 :][: len(writer.acknowledged)]
            assert own == writer.acknowledged, "somebody else's record stands among its own"

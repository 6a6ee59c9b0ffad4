"""The append-only log of a flow run, which its journal stands on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol


class RunLog(Protocol):
    """An append-only sequence of records with one writer at a time: whoever opened it last.

    A record is acknowledged (append returned) only when it is durable and every later opener will read it, in order,
    once. One append is in flight at a time; the caller serialises (see ``journal``).
    """

    def read(self) -> list[bytes]:
        """Every acknowledged record so far, openings included, in order, without becoming the writer. [] if there is
        no log."""
        ...

    def open(
        self, opening: bytes, admit: Callable[[Sequence[bytes]], None] | None = None, *, attempt: int = 0
    ) -> list[bytes]:
        """Become the writer: everything written before is returned (in order, without this ``opening``), and whoever
        wrote until now is fenced at its next append. ``opening`` must hold a token that is new for each process start.

        ``admit`` is shown what was written so far before anything is changed, and may refuse by raising. A busy writer
        may have added to it by the time that the log is open. ``attempt`` is its number: of two that open at one time
        the lower one, once it has seen the other, must stop (``admit``), and has not fenced it.
        """
        ...

    def append(self, records: Sequence[bytes]) -> None:
        """Add ``records`` together; returns when they are durable.

        After StoreUnavailable, or an exception that a signal raised in between, they may be in the log or not; the next
        append settles that before it adds.

        Raises:
            Fenced: another opener has taken over; nothing of ``records`` is in the log.
        """
        ...

    def bury(self, grave: bytes, admit: Callable[[Sequence[bytes]], None]) -> None:
        """End the log for good with the record ``grave``: from now on it is all that ``read`` returns, nobody can
        open the log any more, and whoever wrote until now is fenced. A log that does not exist stays so.

        ``admit`` is shown what stands there (``[grave]`` if it is buried already) and may refuse by raising; it is
        shown it again whenever another writer was faster.
        """
        ...

    def clear(self) -> dict[str, str]:
        """Delete what is left of a buried log, but for the grave; what was refused, and why. Can be repeated.

        Raises:
            ValueError: it is not buried.
        """
        ...

    def remove(self) -> None:
        """Take the whole log away, a grave last. Only of a run that has ended: a late writer would believe that it
        goes on."""
        ...

    def close(self) -> None: ...

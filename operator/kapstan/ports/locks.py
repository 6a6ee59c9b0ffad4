"""Locks: what callers ask for (``LockManager``), and what each adapter keeps (``LockTable``).

A lock orders those who wait; it never is the proof that something happened once: that is the register's part. It is
held by a *holder*, a text of the caller's choice, in the name of a *client*, which is one process from its first lock
to its end. A client that is known to have ended holds nothing. One that is only silent keeps what it holds for a lease.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol


class LockHolder(NamedTuple):
    """Who holds a lock, for people.

    Attributes:
        token: the fencing token: it grows with every grant of a key.
        since: Unix seconds of the grant, by the clock of the service that keeps the lock.
        process: where the holder lives, such as ``pid 812 on web-1``.
        waiting: how many wait in line.
    """

    holder: str
    token: int
    since: float
    process: str
    waiting: int


class LockManager(Protocol):
    """Locks by key, from any thread and any event loop of the process. Times are seconds; None: no limit.

    The holder who asks again for what it holds has it at once, from whatever process; one release frees it. Others get
    it in the order in which they asked, across all processes.

    Raises:
        LockUnavailable: the service that keeps the locks does not answer.
    """

    def acquire_lock(
        self, key: str, holder: str, acquire_timeout: float | None = None, hold_timeout: float | None = None
    ) -> bool:
        """Whether ``holder`` holds ``key`` now.

        Args:
            acquire_timeout: how long it waits in line; 0: not at all.
            hold_timeout: the lock is free again so long after it was granted.
        """
        ...

    async def aacquire_lock(
        self, key: str, holder: str, acquire_timeout: float | None = None, hold_timeout: float | None = None
    ) -> bool:
        """As ``acquire_lock``. Whoever is cancelled while it waits leaves the line."""
        ...

    def release_lock(self, key: str, holder: str) -> None:
        """Free ``key``; the next in line has it then.

        Raises:
            LockLost: this process had acquired it for ``holder``, and it was lost since.
            NotLockHolder: ``holder`` does not hold it.
        """
        ...

    async def arelease_lock(self, key: str, holder: str) -> None: ...

    def is_locked(self, key: str) -> bool: ...

    def is_lock_holder(self, key: str, holder: str) -> bool: ...

    def wait_for_lock(self, key: str, timeout: float | None = None) -> bool:
        """Wait until ``key`` is free, or whoever held it at the call has given it back; False after ``timeout``."""
        ...

    async def await_for_lock(self, key: str, timeout: float | None = None) -> bool: ...  # noqa: ASYNC109

    def lock_holder(self, key: str) -> LockHolder | None:
        """Who holds ``key``; None: nobody."""
        ...

    def guard_lock(self, key: str, holder: str) -> int:
        """The fencing token of ``holder``, which still holds ``key`` by the word of the service.

        Raises:
            LockLost, NotLockHolder: as ``release_lock``.
        """
        ...

    async def aguard_lock(self, key: str, holder: str) -> int: ...


class Wait(NamedTuple):
    """One call that wants a lock.

    Attributes:
        number: tells the calls of one client apart.
        hold: seconds until the lock is free again by itself; None: never.
        look: it does not want the lock, only to hear that it was given back.
    """

    key: str
    holder: str
    client: str
    number: str
    hold: float | None = None
    look: bool = False


class Place(NamedTuple):
    """Where a wait stands.

    Attributes:
        token: it has the lock (for ``look``: the lock is free), with this fencing token; None: somebody else has.
        client, about, beat: of the holder: whose client, what that said of its process, and a text that changes as long
            as it is heard of.
        left: seconds until the hold ends by its ``hold_timeout``; None: it has none.
        ahead: waits in front of this one.
    """

    token: int | None
    client: str = ""
    about: str = ""
    beat: str = ""
    left: float | None = None
    ahead: int = 0


class LockTable(Protocol):
    """What an adapter keeps: for each key a hold and a line. Each method is one change that happens whole or not at all
    and may be repeated. Methods raise LockUnavailable."""

    def begin(self, client: str, about: str, ring: Callable[[str | None], bool], patience: float | None = None) -> None:
        """Make ``client`` known, from now on and until ``close``, whatever the threads of this process do.

        Args:
            ring: called from any thread with the number of a wait that shall ask again; None: all of them. False: no
                such call waits or holds anything; what was granted to it must be given back.
            patience: as of ``ask``.
        """
        ...

    def ask(self, wait: Wait, stay: bool, silent: Sequence[tuple[str, str]], patience: float | None = None) -> Place:
        """Take the lock if it is free and nobody is in front, else a place in line.

        Args:
            stay: False: take no place in line.
            patience: seconds for which a service that is away is tried at most, though never less than one.
            silent: (client, beat) of those that were not heard of for a lease; they end if ``beat`` is unchanged.
        """
        ...

    def give_up(self, wait: Wait, patience: float | None = None) -> None:
        """Leave the line; give back what was granted to this wait."""
        ...

    def release(self, key: str, holder: str, token: int | None, patience: float | None = None) -> bool:
        """Whether ``holder`` held it, under ``token`` if that is given; it is free now."""
        ...

    def holder(self, key: str) -> LockHolder | None: ...

    def end_client(self, client: str) -> None:
        """Its process has ended: free what it holds, take it out of every line."""
        ...

    def close(self) -> None: ...

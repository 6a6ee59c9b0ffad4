"""Scripts whose answer counts only once the server's append-only file is synced to its disk (durability ``aof``).

``WAITAOF`` says so (Redis 7.2, Valkey). A server without it must sync before it answers: ``appendfsync always``. Called
by ``RedisQueue`` and ``BulkSubmit``, for submits.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from enum import Enum
from typing import Any

from kapstan.errors import BackendError, ConfigurationError
from kapstan.queue.wire import Refused, Wire, pack

_PATIENCE_MS = 5000  # of one WAITAOF; below ``wire.PATIENCE``. The call is repeated after it, as after an outage
_POLICY = pack("CONFIG", "GET", "appendfsync", "no-appendfsync-on-rewrite")
_WHEN = "durability='aof'"


class By(Enum):
    """What tells that a server has synced."""

    WAITAOF = "it is asked"
    ANSWER = "it does not answer before"


def call(borrow: Callable[[], AbstractContextManager[Wire]], prefix: str, packed: bytes) -> Any:
    """The reply of one script, by a connection of its own.

    Raises:
        ConnectionLost, ConfigurationError: as ``read`` and ``prepare``.
    """
    with borrow() as wire:
        prepare(wire)
        send(wire, prefix, packed)
        return read(wire)


def prepare(wire: Wire) -> None:
    """Ask the server what ``send`` must know of it; while no other answer is awaited.

    Raises:
        ConfigurationError: it cannot say when it has synced.
    """
    if wire.synced_by is None:
        wire.synced_by = _looked_at(wire)


def send(wire: Wire, prefix: str, packed: bytes) -> None:
    """Send the call of a script; ``read`` gives its reply."""
    if wire.synced_by is By.ANSWER:
        wire.send(packed + _POLICY)
        return
    wire.send(packed + mark(prefix) + pack("WAITAOF", 1, 0, _PATIENCE_MS))


def mark(prefix: str) -> bytes:
    """WAITAOF waits for what its connection has written, and a duplicate writes nothing: so this is written."""
    return pack("SET", f"{prefix}aof", "1", "EX", 60)


def read(wire: Wire) -> Any:
    """The reply to what was sent.

    Raises:
        ConnectionLost: it is not known to be on the disk; send it again. The wire is of no use any more.
        ConfigurationError: the server does not sync any more. What was sent may have been carried out.
        BackendError: the script was refused.
    """
    replies = [_next(wire) for _ in range(2 if wire.synced_by is By.ANSWER else 3)]
    reply = replies[0]
    if isinstance(reply, Exception):
        raise reply
    refused = next((each for each in replies if isinstance(each, Exception)), None)
    if isinstance(refused, ConfigurationError):
        raise refused
    if refused is not None:  # no memory for the mark, or no append-only file any more
        raise Refused(f"its append-only file cannot be synced: {refused}")
    if wire.synced_by is By.ANSWER:
        _check_policy(_settings(replies[1]), "")
    elif not replies[2][0]:
        raise Refused(
            f"its append-only file was not synced within {_PATIENCE_MS // 1000} s ({_WHEN}): its disk is slow, or "
            "`appendfsync` is `no`"
        )
    return reply


def _next(wire: Wire) -> Any:
    """The next reply, or what a command was refused with: those behind it are to be read all the same."""
    try:
        return wire.read()
    except (BackendError, ConfigurationError) as error:
        return error


def _looked_at(wire: Wire) -> By:
    about = _text(wire.call(pack("INFO", "server")))
    if re.search(r"^aof_enabled:0", _text(wire.call(pack("INFO", "persistence"))), re.MULTILINE):
        raise ConfigurationError(
            f"{_WHEN}: this Redis has no append-only file (appendonly no), so nothing that it accepts is on its disk; "
            "set `appendonly yes`"
        )
    try:
        policy = _settings(wire.call(_POLICY))
    except (ConfigurationError, BackendError):
        policy = None  # this user may not read it, or whoever runs the server lets nobody
    valkey = re.search(r"^valkey_version:", about, re.MULTILINE)
    version = re.search(r"^redis_version:(\d+)\.(\d+)", about, re.MULTILINE)
    if valkey or (version and (int(version[1]), int(version[2])) >= (7, 2)):
        if policy is not None and policy["appendfsync"] == "no":
            raise ConfigurationError(
                f"{_WHEN}: this Redis never syncs its append-only file by itself (appendfsync no); set `appendfsync "
                "always` or `everysec`, or KAPSTAN_FSYNC=true for the embedded server"
            )
        _try_to_ask(wire)
        return By.WAITAOF
    here = f"this Redis {version[1]}.{version[2]}" if version else "this server"
    if policy is None:
        raise ConfigurationError(
            f"{_WHEN}: {here} has no WAITAOF (Redis 7.2 and Valkey have it), and does not tell this user of its "
            "`appendfsync`: grant +config|get, or use a newer one"
        )
    _check_policy(policy, f"{here} has no WAITAOF (Redis 7.2 and Valkey have it), and ")
    return By.ANSWER


def _try_to_ask(wire: Wire) -> None:
    """Whether this user may, before anything is submitted: with no copy to wait for it is answered at once."""
    try:
        wire.call(pack("WAITAOF", 0, 0, 1))
    except ConfigurationError as error:
        raise ConfigurationError(
            f"{_WHEN}: this Redis user may not ask when its submits are synced ({error}): grant +waitaof, as `kapstan "
            "server acl --durability aof` does"
        ) from None


def _check_policy(policy: dict[str, str], before: str) -> None:
    """
    Raises:
        ConfigurationError: it may answer before it has synced.
    """
    for name, wanted in (("appendfsync", "always"), ("no-appendfsync-on-rewrite", "no")):
        if policy.get(name) != wanted:
            raise ConfigurationError(
                f"{_WHEN}: {before}the server answers before its disk has what it accepted ({name} "
                f"{policy.get(name)}): set `{name} {wanted}`, or KAPSTAN_FSYNC=true for the embedded server"
            )


def _settings(reply: dict[bytes, bytes]) -> dict[str, str]:
    return {_text(name): _text(value) for name, value in reply.items()}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)

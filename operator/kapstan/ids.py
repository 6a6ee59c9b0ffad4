"""Ids of runs and sessions, tokens of claims, names for people.

A run id is a UUIDv7 (RFC 9562): it sorts by the time it was made. Inside Kapstan and in Redis it is written in 22
characters of a sortable base-64 alphabet; people and Kubernetes see the usual 36. ``parse`` takes both.
"""

from __future__ import annotations

import binascii
import hashlib
import os
import random
import re
import struct
import threading
import time
from typing import NamedTuple
from uuid import UUID

RunId = str
"""22 characters, see ``new_id``."""

_ALPHABET = "-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz"
_VALUE = {character: value for value, character in enumerate(_ALPHABET)}
_FROM_BASE64 = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", _ALPHABET.encode())
ID_LENGTH = 22
_SHORT = re.compile("[-0-6][-0-9A-Z_a-z]{21}")
_MARK = 1  # before the 128 bits: the first character is 3 to 6, so that no id begins with "-" as those of old did

_VERSION, _VARIANT = 0x7 << 12, 0b10 << 62
_pack = struct.Struct(">HHIHQ").pack  # the mark, so that the whole has 18 bytes; 48 bits of milliseconds; the rest

_lock = threading.Lock()
_last = 0
_pool: list[int] = []  # 64 random bits each, so that not every id costs a call of the system


def _after_fork() -> None:
    """Another thread may have held the lock when this process was forked; and no id is made twice."""
    global _lock
    _lock = threading.Lock()
    _pool.clear()


os.register_at_fork(after_in_child=_after_fork)


def new_id(now_ns: int | None = None) -> RunId:
    """A fresh UUIDv7 in its short form; within one process each is larger than the one before."""
    global _last
    stamp = _stamp(time.time_ns() if now_ns is None else now_ns)
    with _lock:
        if not _pool:
            _fill(1)
        bits = _pool.pop()
        if now_ns is None:
            _last = stamp = stamp if stamp > _last else _last + 1
    return _in_short(_packed(stamp, bits))[2:]


def new_ids(count: int) -> list[RunId]:
    """As many fresh ids, in order; for many at once at a third of the price."""
    global _last
    stamp = _stamp(time.time_ns())
    with _lock:
        if len(_pool) < count:
            _fill(count)
        left = len(_pool) - count
        random_bits = _pool[left:]
        del _pool[left:]
        stamp = max(stamp, _last + 1)
        _last = stamp + count - 1
    text = _in_short(b"".join(map(_packed, range(stamp, stamp + count), random_bits)))
    return [text[at : at + ID_LENGTH] for at in range(2, len(text), ID_LENGTH + 2)]


def _stamp(ns: int) -> int:
    """48 bits of milliseconds and 12 bits below them, so that order holds within a millisecond too."""
    return ns * 4096 // 1_000_000


def _fill(count: int) -> None:
    _pool.extend(struct.unpack(f">{count + 511}Q", os.urandom(8 * (count + 511))))


def _packed(stamp: int, bits: int) -> bytes:
    return _pack(_MARK, stamp >> 44, stamp >> 12 & 0xFFFFFFFF, _VERSION | stamp & 0xFFF, _VARIANT | bits >> 2)


def encode(number: int) -> RunId:
    """The short form of a 128-bit number: base 64, the order of the numbers kept."""
    return _in_short((_MARK << 128 | number).to_bytes(18, "big"))[2:]


def _in_short(numbers: bytes) -> str:
    """18 bytes are 24 characters, of which the first two are zero."""
    return binascii.b2a_base64(numbers, newline=False).translate(_FROM_BASE64).decode()


def derived_id(*parts: str) -> RunId:
    """The id that follows from ``parts`` (a UUIDv8): the same parts give the same id in every process."""
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    number = int.from_bytes(digest[:16], "big")
    return encode(number & ~(0xF << 76) & ~(0b11 << 62) | 0x8 << 76 | 0b10 << 62)


def parse(text: str | UUID) -> RunId:
    """The short form of an id given as 22 characters, as 36, or as a UUID. One that an older release made (it begins
    with ``-``, 0, 1 or 2) stays as it is: its run is stored under that name.

    Raises:
        ValueError: ``text`` is neither.
    """
    if isinstance(text, str) and _SHORT.fullmatch(text):
        return text
    try:
        return encode((text if isinstance(text, UUID) else UUID(text)).int)
    except (ValueError, AttributeError, TypeError):
        raise ValueError(f"{text!r} is not a run id: give the 36 characters that Kapstan prints") from None


def made_at(run_id: RunId) -> float | None:
    """Unix seconds of the making of ``run_id``; None for one that was derived."""
    number = to_uuid(run_id).int
    return (number >> 80) / 1000 if number >> 76 & 0xF == 7 else None


def to_uuid(run_id: RunId) -> UUID:
    """The UUID that ``run_id`` writes in short."""
    number = 0
    for character in run_id:
        number = number << 6 | _VALUE[character]
    return UUID(int=number & (1 << 128) - 1)


class Token(NamedTuple):
    """The right to finish one claim of a run. Later claims have greater tokens.

    ``era`` grows when Redis restarts or fails over and lives outside it; ``epoch`` counts the claims of one run.
    """

    era: int
    epoch: int

    def __str__(self) -> str:
        """14 digits whose order as text is the order of the tokens (Lua compares them as text)."""
        return f"{self.era:06d}{self.epoch:08d}"

    @classmethod
    def parse(cls, text: str) -> Token:
        return cls(int(text[:6]), int(text[6:]))


def new_nonce() -> str:
    """A token for one process start: 22 characters, never used twice."""
    return encode(int.from_bytes(os.urandom(16), "big"))


_ADJECTIVES = """
able amber bold brave brisk bright calm clever cobalt coral cosmic crisp dapper daring deft eager early fabled fair
fleet fond free fresh gentle glad golden grand hardy honest humble icy jolly keen kind lively loyal lucid lucky
mellow merry mighty misty neat nimble noble opal patient placid polite prime proud quick quiet rapid ready robust
rosy royal rustic sable sage serene sharp silent silver sleek smart snug solid spry steady sterling stout sunny
swift tidy tranquil true trusty upbeat urban valiant velvet vivid warm wise witty young zesty
""".split()
_NOUNS = """
albatross anchor antler badger beacon beaver bison bobcat bollard buoy cedar cheetah condor coral cormorant crane
cricket cypress dolphin dune eagle egret elk falcon fathom fern ferret finch fjord gannet garnet gecko harbor hare
hawk heron ibex ibis jackal jaguar kelp kestrel lagoon lark lemur lynx mackerel magpie maple marlin marten merlin
mole narwhal newt ocelot orca osprey otter owl panther pelican penguin petrel pike plover puffin quail raven reef
robin rook salmon seal shark sparrow squid starling stork swan tern thistle tiger toucan trout tuna turtle urchin
vole walrus weasel whale willow wolf wombat wren yak
""".split()


def executor_of(run_id: RunId, attempt: int) -> str:
    """The process that executes an attempt of a flow run, as those name it who hold something and who see it end."""
    return f"{run_id}:{attempt}"


def host_label() -> str:
    """The name of this machine in the characters of a session's name, at most 60."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", os.uname().nodename)[:60] or "host"


def run_name(run_id: RunId) -> str:
    """Two words for people, such as ``nimble-falcon``; a pure function of the id."""
    chooser = random.Random(run_id)  # noqa: S311  (a name, not a secret)
    return f"{chooser.choice(_ADJECTIVES)}-{chooser.choice(_NOUNS)}"

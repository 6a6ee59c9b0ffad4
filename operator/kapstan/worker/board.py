"""What an executor child shares with its supervisor: anonymous memory, one slot per lane.

The child writes which runs it holds and which of them it executes since when; the supervisor reads that when the child
dies, hangs or must stop. The other way the supervisor writes orders. Nobody locks: each field has one writer, and what
a torn read could do at worst is said where it is read.

A slot holds the runs of a batch in order. ``position`` says how far the child has come: everything before it is
finished, and perhaps not handed in yet; the run at it is executing.
"""

from __future__ import annotations

import enum
import mmap
import struct
from array import array
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

from kapstan.ids import ID_LENGTH, RunId, Token
from kapstan.ports import Claim, Outcome
from kapstan.states import EffectClass

MAX_BATCH = 128
"""Runs that one claim may bring."""
_CAPACITY = 2 * MAX_BATCH  # the batch that executes, and the outcomes of the one before, which are on their way

# A slot: what the child writes | what the supervisor writes | recalled, which both write | the runs: ids, then tokens
# | of which run the last lines are, their length, and they.
_PROGRESS = struct.Struct(
    "<BBxxid"
)  # executing, effect class, position, since (monotonic clock, one for all processes)
_COUNT = struct.Struct("<iB")  # runs, whether a step is under way that may bring more
_TOKEN = struct.Struct("=II")
_COUNT_AT = _PROGRESS.size
_ORDER_AT = _COUNT_AT + _COUNT.size
_RECALLED_AT = _ORDER_AT + 1
_CANCEL_AT = _RECALLED_AT + 1
_WAITS_AT = _CANCEL_AT + ID_LENGTH
_RUNS_AT = _WAITS_AT + 1
_TOKENS_AT = _RUNS_AT + _CAPACITY * ID_LENGTH
TAIL_BYTES = 2048
"""Of the last lines that a run has logged."""
_TAIL = struct.Struct("<H")
_TAIL_AT = _TOKENS_AT + _CAPACITY * _TOKEN.size
_SLOT = -(-(_TAIL_AT + ID_LENGTH + _TAIL.size + TAIL_BYTES) // 64) * 64


class Order(enum.IntEnum):
    """What the supervisor wants of a child."""

    SERVE = 0
    DRAIN = 1
    """Finish the run that executes, give the others back, exit."""
    STOP = 2
    """Break off the run that executes, give everything back, exit."""


class Executing(NamedTuple):
    """The run that a child executes."""

    run_id: RunId
    token: Token
    effect: EffectClass
    since: float
    """Monotonic clock, which all processes of a machine share."""


class Slot:
    """One lane's part of the board; see the module for who writes what."""

    __slots__ = ("_at", "_memory")

    def __init__(self, memory: mmap.mmap, lane: int) -> None:
        self._memory = memory
        self._at = 64 + lane * _SLOT

    # ------------------------------------------------------------------ written by the child

    def load(self, runs: Sequence[Claim | Outcome], position: int, *, under_way: bool) -> None:
        """The child holds ``runs``; the first ``position`` of them are finished and on their way to the queue.

        ``under_way``: a further claim was sent and not yet answered.
        """
        self.rest()
        ids = "".join([run.run_id for run in runs]).encode()
        tokens = array("I", chain.from_iterable([run.token for run in runs])).tobytes()
        at = self._at + _RUNS_AT
        self._memory[at : at + len(ids)] = ids
        at = self._at + _TOKENS_AT
        self._memory[at : at + len(tokens)] = tokens
        _COUNT.pack_into(self._memory, self._at + _COUNT_AT, len(runs), under_way)
        _PROGRESS.pack_into(self._memory, self._at, 0, 0, position, 0.0)

    def begin(self, position: int, effect: EffectClass, now: float) -> None:
        """The child executes the run at ``position`` from ``now`` on."""
        _PROGRESS.pack_into(self._memory, self._at, 1, ord(effect), position, now)

    def rest(self) -> None:
        """The child executes nothing."""
        self._memory[self._at] = 0

    def tell(self, run_id: RunId, lines: bytes) -> None:
        """The last lines that ``run_id`` has logged, at most ``TAIL_BYTES``."""
        at = self._at + _TAIL_AT
        body = run_id.encode() + _TAIL.pack(len(lines)) + lines
        self._memory[at : at + len(body)] = body

    @property
    def waits(self) -> bool:
        """Whether the run that executes waits for another run: somebody else may use the child's place."""
        return self._memory[self._at + _WAITS_AT] != 0

    @waits.setter
    def waits(self, waits: bool) -> None:
        self._memory[self._at + _WAITS_AT] = waits

    # ------------------------------------------------------------------ written by the supervisor

    @property
    def order(self) -> Order:
        return Order(self._memory[self._at + _ORDER_AT])

    @order.setter
    def order(self, order: Order) -> None:
        self._memory[self._at + _ORDER_AT] = order

    @property
    def cancel(self) -> RunId:
        """The run that should be stopped, if it is the one that executes; empty for none."""
        at = self._at + _CANCEL_AT
        return self._memory[at : at + ID_LENGTH].rstrip(b"\0").decode()

    @cancel.setter
    def cancel(self, run_id: RunId) -> None:
        at = self._at + _CANCEL_AT
        self._memory[at : at + ID_LENGTH] = run_id.encode().ljust(ID_LENGTH, b"\0")

    # ------------------------------------------------------------------ written by both

    @property
    def recalled(self) -> bool:
        """Somebody gave back (or is about to) what the child has not begun: it must begin nothing more of its batch."""
        return self._memory[self._at + _RECALLED_AT] != 0

    @recalled.setter
    def recalled(self, recalled: bool) -> None:
        self._memory[self._at + _RECALLED_AT] = recalled

    # ------------------------------------------------------------------ read by guard and supervisor

    def executing(self) -> Executing | None:
        """The run that the child executes, or was executing when it died."""
        busy, effect, position, since = _PROGRESS.unpack_from(self._memory, self._at)
        if not busy:
            return None
        run_id, token = self._entry(position)
        return Executing(run_id, token, EffectClass(chr(effect)), since)

    def last_lines(self, run_id: RunId) -> list[str]:
        """What ``run_id`` has logged at last; the process may have died while it wrote that."""
        at = self._at + _TAIL_AT
        if self._memory[at : at + ID_LENGTH] != run_id.encode():
            return []
        (size,) = _TAIL.unpack_from(self._memory, at + ID_LENGTH)
        at += ID_LENGTH + _TAIL.size
        return self._memory[at : at + min(size, TAIL_BYTES)].decode(errors="replace").splitlines()

    def held(self) -> list[tuple[RunId, Token]]:
        """Every run of the batch and the outcomes on their way."""
        count, _ = _COUNT.unpack_from(self._memory, self._at + _COUNT_AT)
        return [self._entry(position) for position in range(count)]

    def kept(self) -> list[RunId]:
        """The runs that must not be given back: finished ones, and the one that executes.

        Set ``recalled`` first. A child that moves on meanwhile sees it after it has written its new position, so what
        is missing here is never executed.
        """
        _, _, position, _ = _PROGRESS.unpack_from(self._memory, self._at)
        count, _ = _COUNT.unpack_from(self._memory, self._at + _COUNT_AT)
        return [self._entry(index)[0] for index in range(min(position + 1, count))]

    def waiting(self) -> bool:
        """Whether runs wait behind the one that executes, or may."""
        _, _, position, _ = _PROGRESS.unpack_from(self._memory, self._at)
        count, under_way = _COUNT.unpack_from(self._memory, self._at + _COUNT_AT)
        return bool(under_way) or position + 1 < count

    def clear(self) -> None:
        """For a new child on this lane."""
        self._memory[self._at : self._at + _SLOT] = bytes(_SLOT)

    def _entry(self, position: int) -> tuple[RunId, Token]:
        at = self._at + _RUNS_AT + position * ID_LENGTH
        era, epoch = _TOKEN.unpack_from(self._memory, self._at + _TOKENS_AT + position * _TOKEN.size)
        return self._memory[at : at + ID_LENGTH].decode(), Token(era, epoch)


class Board:
    """The slots of all lanes of one worker process. Made before the first fork."""

    def __init__(self, lanes: int) -> None:
        self._memory = mmap.mmap(-1, 64 + lanes * _SLOT)
        self.slots = [Slot(self._memory, lane) for lane in range(lanes)]

    @property
    def watched(self) -> bool:
        """The supervisor looks at the slots several times a second; a child that takes a batch wakes it otherwise."""
        return self._memory[0] != 0

    @watched.setter
    def watched(self, watched: bool) -> None:
        self._memory[0] = watched

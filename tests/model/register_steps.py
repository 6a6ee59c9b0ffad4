"""Writes of the register, and the monitors of what may never happen to one."""

from __future__ import annotations

from tests.model.design import NUMBER, World
from tests.model.state import (
    ABSENT,
    ANSWER_CURRENT,
    APPLIED,
    BLOB,
    BROKEN,
    COMMITTED,
    CURRENT,
    FAILURE,
    GRAVE,
    ID,
    INTENT,
    OWN_WORD,
    REG,
    REG_EPOCH,
    REG_HOLDER,
    REG_PRINT,
    REG_TOLD,
    RELEASED,
    STALE,
    TOLD_FAILED,
    TOP_REG,
    UNDO_CURRENT,
    UNDONE,
    N,
)

LOST = 2  # bytes that nobody refers to yet are gone
T, I1, I2, I3, I4, I5, I7, I15, I17 = (NUMBER[name] for name in ("T", "I1", "I2", "I3", "I4", "I5", "I7", "I15", "I17"))


def print_of(world: World, at: int) -> int:
    """Which request a process makes."""
    return 2 if at == world.other_inputs_at and at else 1


def put(world: World, row: bytearray, event: str, state: int, epoch: int, at: int = 0, *, holder: bool = False) -> None:
    """Let the register be ``state`` with ``epoch``; ``at``: the process that writes, 0: somebody else; ``holder``: it
    becomes the holder."""
    before = row[REG]
    if world.table is not None:
        if world.table.get((before, event)) != (state, epoch > row[REG_EPOCH]):
            row[BROKEN] = T
        world.used.add((before, event))
    if before == COMMITTED and state != GRAVE and event != "undo" and not (row[STALE] and epoch > row[REG_EPOCH]):
        row[BROKEN] = I1
    if state == COMMITTED:
        if epoch < row[TOP_REG]:
            row[BROKEN] = I3
        if not world.blob_first or row[BLOB] == LOST:
            row[BROKEN] = I7
        row[BLOB] = 1
    elif state == INTENT and epoch <= row[TOP_REG] and event != "guard":
        row[BROKEN] = I5
    elif state == ABSENT:
        row[BROKEN] = I15
    if event == "renew":
        row[APPLIED] = 0  # it is wished anew
    row[REG], row[REG_EPOCH] = state, epoch
    row[TOP_REG] = max(row[TOP_REG], epoch)
    row[FAILURE] = row[OWN_WORD] = 0
    row[STALE] = row[STALE] if event == "bury" else 0
    if not world.told_outlives and holder:
        row[REG_TOLD] = 0
    if holder:
        row[REG_HOLDER] = row[at + ID]
        row[REG_PRINT] = print_of(world, at)
    for slot in world.slots:
        row[slot + CURRENT] = 0
    row[ANSWER_CURRENT] = row[UNDO_CURRENT] = 0
    if at:
        row[at + CURRENT] = state == INTENT


def undo(world: World, row: bytearray, epoch: int) -> None:
    """The hooks for a rollback of the commit with this epoch are through: its effect does not count any more."""
    if row[REG_EPOCH] == epoch:
        row[APPLIED], row[UNDONE] = 0, epoch
    else:
        row[BROKEN] = I1
    put(world, row, "undo", RELEASED, row[REG_EPOCH])


def begins_effect(world: World, row: bytearray, at: int) -> None:
    """A process begins its effect: it may not be done already, and nobody was told that it failed."""
    if row[REG] in (COMMITTED, GRAVE) and row[REG_EPOCH] >= row[at + N]:
        row[BROKEN] = I2
    if row[TOLD_FAILED] and at < world.callers_at:
        row[BROKEN] = I17


def comes_to_pass(world: World, row: bytearray) -> None:
    """The effect reaches its receiver. That of an idempotent task knows its key again; an inbox has a unique key."""
    repeated = world.effect == "i" or (world.transactional and world.inbox_unique)
    if repeated and row[APPLIED]:
        return
    row[APPLIED] = min(row[APPLIED] + 1, 2)
    if row[APPLIED] == 2:
        row[BROKEN] = I4


def holder_is(row: bytes | bytearray, at: int, world: World) -> bool:
    """Whether the intent that stands there is the process's own."""
    if world.recognise == "epoch":
        return row[REG_EPOCH] == row[at + N]
    return row[REG_HOLDER] == row[at + ID]

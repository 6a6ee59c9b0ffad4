"""What happens around the processes: deaths, requests on their way, people and probes, retention."""

from __future__ import annotations

from tests.model.design import NUMBER, World
from tests.model.keyed_steps import STEPS
from tests.model.queue_steps import Steps, claim, give_back, hand_in, over_at, queue_moves, tell
from tests.model.register_steps import LOST, comes_to_pass, put, undo
from tests.model.state import (
    ABSENT,
    AGES,
    ANSWER,
    ANSWER_CURRENT,
    ANSWERS,
    APPLIED,
    BACK,
    BLOB,
    BROKEN,
    COMMIT,
    COMMITTED,
    CRASHES,
    DEAD,
    DONE,
    END_DONE,
    ENDED,
    EPOCH,
    FAILED,
    FLYING,
    GRAVE,
    ID,
    IDLE,
    INTENT,
    LOOK,
    NEXT,
    NO_RUN,
    OVER,
    OWN_WORD,
    PARKED,
    PARKED_RUN,
    PC,
    PUBLISH,
    QUEUE,
    READY,
    REG,
    REG_EPOCH,
    REG_HOLDER,
    RELEASED,
    SEEN,
    SENT,
    SLOT,
    STALE,
    SWEEPS,
    UNDO,
    UNDO_CURRENT,
    UNDOES,
    UNNOTED,
)

I7 = NUMBER["I7"]
UNCERTAIN = frozenset(
    {
        "lease ends",
        "crash",
        "copied",
        "restart as of the copy",
        "raise",
        "broken into",
        "told to go before it began",
        "buried",
        "undone",
        "about to be undone",
        "undone late",
        "expired",
        "asked",
        "asked and answered",
        "its receiver may have forgotten the key",
        "answer written",
        "bytes swept",
        "request lost",
        "cancelled",
        "wished once more",
        "begun once more",
        "guard",
    }
)
"""Steps that may happen, but that nobody may wait for."""


def successors(world: World, row: bytes) -> Steps:
    """Every step that is possible, and the state after it."""
    out: Steps = []
    for at in world.slots:
        doing = row[at + PC]
        if doing == IDLE:
            if at < world.callers_at:
                claim(world, row, at, out)
            else:
                new = bytearray(row)
                new[at + PC] = LOOK
                out.append(("call", at, bytes(new)))
        elif doing == OVER:
            continue
        elif doing >= END_DONE:
            (hand_in if at < world.callers_at else tell)(world, row, at, out)
        elif doing == BACK:
            give_back(world, row, at, out)
        else:
            STEPS[doing](world, row, at, out)
        if row[CRASHES] and doing != IDLE:
            _crash(world, row, at, out)
    queue_moves(world, row, out)
    if row[DEAD] & ~row[UNNOTED] != row[SEEN]:
        new = bytearray(row)
        new[SEEN] = row[DEAD] & ~row[UNNOTED]
        out.append(("death seen", 0, bytes(new)))
    if row[FLYING]:
        _requests(world, row, out)
    if row[ANSWERS] or row[ANSWER]:
        _people(world, row, out)
    if row[UNDOES] or row[UNDO]:
        _rollbacks(world, row, out)
    if row[SWEEPS] or row[AGES] or row[REG] == GRAVE:
        _time(world, row, out)
    return out


def _crash(world: World, row: bytes, at: int, out: Steps) -> None:
    """The process is gone, with what it knew. In a worker's place a new one begins."""
    new = bytearray(row)
    new[CRASHES] -= 1
    new[DEAD] |= 1 << row[at + ID]
    new[at : at + SLOT] = bytes(SLOT)
    new[at + ID] = row[NEXT]
    new[NEXT] += 1
    if at >= world.callers_at:
        over_at(new, at)
    out.append(("crash", at, bytes(new)))


def _requests(world: World, row: bytes, out: Steps) -> None:
    """Requests whose sender is gone, or was broken into, arrive or get lost; a sender that waits has its own step."""
    for process in range(1, row[NEXT]):
        bit = 1 << process
        at = world.slot_of(row, process)
        if row[FLYING] & bit and not (at and row[at + PC] == SENT):
            lost = bytearray(row)
            lost[FLYING] ^= bit
            out.append(("request lost", 0, bytes(lost)))
            arrived = bytearray(lost)
            comes_to_pass(world, arrived)
            out.append(("late request arrives", 0, bytes(arrived)))


def _people(world: World, row: bytes, out: Steps) -> None:
    """A probe or a person says whether it was done, with the truth of that moment. One of them is slow: the answer is
    written later, when much may have happened."""
    holder = row[REG_HOLDER]
    if row[ANSWER]:
        new = bytearray(row)
        new[ANSWER] = 0
        if row[ANSWER_CURRENT] or (not world.answer_names_version and row[REG] == PARKED):
            _write_answer(world, new, row[ANSWER] == 1)
        out.append(("answer written", 0, bytes(new)))
    if row[REG] != PARKED or not row[ANSWERS]:
        return
    over = row[OWN_WORD] or row[SEEN] & 1 << holder or not world.answer_after_death
    landed = not row[FLYING] & 1 << holder or not world.answer_after_horizon
    if row[APPLIED] or (over and landed):
        new = bytearray(row)
        new[ANSWERS] -= 1
        if not row[ANSWER]:
            slow = bytearray(new)
            slow[ANSWER], slow[ANSWER_CURRENT] = 1 if row[APPLIED] else 2, 1
            out.append(("asked", 0, bytes(slow)))
        _write_answer(world, new, row[APPLIED] > 0)
        out.append(("asked and answered", 0, bytes(new)))


def _write_answer(world: World, row: bytearray, done: bool) -> None:
    if done:
        put(world, row, "applied", COMMITTED, row[REG_EPOCH])
    else:
        put(world, row, "not applied", RELEASED, row[REG_EPOCH])


def _rollbacks(world: World, row: bytes, out: Steps) -> None:
    """What a caller has committed is undone by the transaction that the call was a part of. One attempt to do that is
    slow, and is overtaken."""
    if row[UNDO]:
        new = bytearray(row)
        new[UNDO] = 0
        if row[UNDO_CURRENT] or (not world.undo_names_version and row[REG] == COMMITTED):
            undo(world, new, row[UNDO])
        out.append(("undone late", 0, bytes(new)))
    at = world.slot_of(row, row[REG_HOLDER])
    told = not world.is_run(row[REG_HOLDER]) and (not at or row[at + PC] == OVER)
    if row[UNDOES] and row[REG] == COMMITTED and told:
        new = bytearray(row)
        new[UNDOES] -= 1
        if not row[UNDO]:
            slow = bytearray(new)
            slow[UNDO], slow[UNDO_CURRENT] = row[REG_EPOCH], 1
            out.append(("about to be undone", 0, bytes(slow)))
        undo(world, new, row[REG_EPOCH])
        out.append(("undone", 0, bytes(new)))


def _time(world: World, row: bytes, out: Steps) -> None:
    if row[REG] == COMMITTED and row[SWEEPS]:
        new = bytearray(row)
        new[SWEEPS] -= 1
        if world.sweep == "grave":
            put(world, new, "bury", GRAVE, row[REG_EPOCH])
        else:
            put(world, new, "bury", ABSENT, 0)
        out.append(("buried", 0, bytes(new)))
    if row[REG] == COMMITTED and row[AGES] and not row[STALE]:
        new = bytearray(row)
        new[AGES] -= 1
        new[STALE] = 1
        out.append(("expired", 0, bytes(new)))
    if row[REG] == INTENT and row[AGES] and not world.once:
        new = bytearray(row)
        new[AGES] -= 1
        out.append(("its receiver may have forgotten the key", 0, bytes(new)))
    if row[BLOB] == 1 and (row[REG] == GRAVE or not world.blob_after_grave):
        new = bytearray(row)
        new[BLOB] = 0
        if not world.swept_by_name and any(row[at + PC] in (COMMIT, PUBLISH) for at in world.slots):
            new[BLOB] = LOST
        if row[REG] == COMMITTED:
            new[BROKEN] = I7
        out.append(("bytes swept", 0, bytes(new)))


def ended(world: World, row: bytes) -> bool:
    """Whether everybody has an answer; or the bound of the check, not the design, keeps the run from being claimed."""
    state = row[QUEUE]
    run_ended = state in (NO_RUN, DONE, FAILED, ENDED) or (state == PARKED_RUN and row[REG] == PARKED)
    cut = state == READY and row[EPOCH] >= world.claims and not world.endless
    return (run_ended or cut) and all(row[at + PC] == OVER for at in world.slots if at >= world.callers_at)

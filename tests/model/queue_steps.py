"""The queue's part: claims, ends, leases, restarts that lose the last writes; as the scripts of ``queue/lua`` do it.

``test_side_by_side`` walks these steps together with the real scripts.
"""

from __future__ import annotations

from tests.model.design import NUMBER, World
from tests.model.state import (
    BEGUN,
    BROKEN,
    CANCEL,
    CANCELS,
    COMMIT,
    COMMITTED,
    CURRENT,
    DONE,
    END_DONE,
    END_FAILED,
    END_GIVEN_UP,
    END_PARKED,
    ENDED,
    EPOCH,
    ERA,
    FAILED,
    FLAGS,
    GRAVE,
    HOLDER,
    ID,
    IDLE,
    INTENT,
    LOOK,
    LOOKS,
    LOSSES,
    NOTED,
    NOW_ERA,
    OLD_QUEUE,
    OVER,
    PARKED,
    PARKED_RUN,
    PC,
    QUEUE,
    RAISED,
    READY,
    REG,
    REG_EPOCH,
    REG_HOLDER,
    RERUNS,
    ROLLBACKS,
    RUNNING,
    SEEN,
    T_EPOCH,
    T_ERA,
    TOLD_FAILED,
    TOP_EPOCH,
    TOP_ERA,
    UNDONE,
    UNNOTED,
    N,
    claim_number,
)

I5, I8, Q1, W2 = (NUMBER[name] for name in ("I5", "I8", "Q1", "W2"))
Steps = list[tuple[str, int, bytes]]
_TERMINAL = (DONE, FAILED, ENDED)
ENDS = {END_DONE: DONE, END_PARKED: PARKED_RUN, END_GIVEN_UP: ENDED}


def mint(row: bytearray, process: int) -> None:
    """Give the run, which is ready, to a process: a new token."""
    row[QUEUE], row[HOLDER], row[ERA], row[EPOCH] = RUNNING, process, row[NOW_ERA], row[EPOCH] + 1
    if (row[ERA], row[EPOCH]) <= (row[TOP_ERA], row[TOP_EPOCH]):
        row[BROKEN] = I5
    row[TOP_ERA], row[TOP_EPOCH] = row[ERA], row[EPOCH]


def holds(row: bytes | bytearray, process: int, era: int, epoch: int) -> bool:
    """Whether the queue shows the run as this process's, by that very claim."""
    return row[QUEUE] == RUNNING and row[HOLDER] == process and (row[ERA], row[EPOCH]) == (era, epoch)


def go_back(world: World, row: bytearray, *, begun: bool) -> None:
    """The claim is over; the token stays, so that the next one is greater. A run that is to be cancelled ends, unless
    nobody knows whether it began: the next claim looks at its register then."""
    row[QUEUE], row[HOLDER] = READY, 0
    if begun and world.once:
        row[FLAGS] |= BEGUN
    if row[FLAGS] & CANCEL and (world.queue_ends_in_doubt or not row[FLAGS] & BEGUN):
        give_up(world, row)


def give_up(world: World, row: bytearray) -> None:
    """It ends as cancelled: so its own claims may have begun nothing that the register does not know to be undone."""
    if world.once and row[REG] in (INTENT, PARKED, COMMITTED) and world.is_run(row[REG_HOLDER]):
        row[BROKEN] = I8
    end(row, ENDED)


def begin_anew(row: bytearray, flags: int = 0) -> None:
    row[QUEUE], row[HOLDER], row[FLAGS] = READY, 0, flags


def end(row: bytearray, state: int) -> None:
    row[QUEUE], row[HOLDER], row[FLAGS] = state, 0, 0


def restart(row: bytearray, era: bool = True) -> None:
    """The server comes back as it was when its older copy was made."""
    row[QUEUE : FLAGS + 1] = row[OLD_QUEUE : OLD_QUEUE + 5]
    row[RAISED] = 0 if era else 1


def raise_era(row: bytearray) -> None:
    row[NOW_ERA] += 1
    row[RAISED] = 1


# ------------------------------------------------------------------ steps of workers


def claim(world: World, row: bytes, at: int, out: Steps) -> None:
    if row[QUEUE] != READY or not row[RAISED]:
        return
    new = bytearray(row)
    if row[EPOCH] < world.claims:
        mint(new, row[at + ID])
    elif world.endless:  # as often as it takes: what has been asked is whether it ends
        new[QUEUE], new[HOLDER] = RUNNING, row[at + ID]
    else:
        return
    if row[LOSSES]:
        lost = bytearray(new)
        lost[LOSSES] -= 1
        out.append(("claim, reply lost", at, bytes(lost)))
    new[at + PC], new[at + T_ERA], new[at + T_EPOCH] = LOOK, new[ERA], new[EPOCH]
    new[at + LOOKS] = new[FLAGS] & CANCEL
    out.append(("claim", at, bytes(new)))


def give_back(world: World, row: bytes, at: int, out: Steps) -> None:
    new = bytearray(row)
    if holds(row, row[at + ID], row[at + T_ERA], row[at + T_EPOCH]):
        go_back(world, new, begun=False)
    _forget(new, at)
    out.append(("give back", at, bytes(new)))


def hand_in(world: World, row: bytes, at: int, out: Steps) -> None:
    """Tell the queue how the run ended, and be told LOST if the claim is another's meanwhile."""
    if not row[RAISED]:
        return
    new = bytearray(row)
    told = row[at + PC]
    state = ENDS.get(told, FAILED)
    if holds(row, row[at + ID], row[at + T_ERA], row[at + T_EPOCH]) or not world.own_claim:
        if row[QUEUE] in _TERMINAL and row[QUEUE] != state:
            new[BROKEN] = Q1
        if state == ENDED:
            give_up(world, new)
        end(new, state)
        if state == PARKED_RUN:
            new[FLAGS] = row[FLAGS]
        if told == END_DONE and _is_unknown(world, row, at):
            new[BROKEN] = I8
        if told in (END_FAILED, END_GIVEN_UP) and not world.pure:
            new[TOLD_FAILED] = 1
    if row[LOSSES]:
        lost = bytearray(new)
        lost[LOSSES] -= 1
        out.append(("hand in, reply lost", at, bytes(lost)))
    _forget(new, at)
    if told == END_DONE and not world.commit_first:
        _commits_afterwards(row, new, at)
    out.append(("hand in", at, bytes(new)))


def _is_unknown(world: World, row: bytes, at: int) -> bool:
    """Whether the register does not know the result, and never did. Of a pure task it need not: its result may not be
    kept."""
    known = row[REG] in (COMMITTED, GRAVE) or row[UNDONE] == row[at + N]
    return not world.pure and not known and row[REG_EPOCH] <= row[at + N]


def _commits_afterwards(row: bytes, new: bytearray, at: int) -> None:
    """A mutant's."""
    if row[at + CURRENT]:
        new[at + PC], new[at + CURRENT], new[at + N] = COMMIT, 1, row[at + N]


def _forget(row: bytearray, at: int) -> None:
    row[at + PC] = IDLE
    row[at + T_ERA] = row[at + T_EPOCH] = row[at + N] = row[at + CURRENT] = row[at + LOOKS] = 0


def tell(world: World, row: bytes, at: int, out: Steps) -> None:
    """A caller's call ends."""
    new = bytearray(row)
    told, epoch = row[at + PC], row[at + N]
    if told == END_DONE and _is_unknown(world, row, at):
        new[BROKEN] = W2
    if told == END_FAILED and not world.pure and row[REG] == INTENT and row[REG_EPOCH] <= epoch:
        new[BROKEN] = W2
    over_at(new, at)
    if told == END_DONE and not world.commit_first:
        _commits_afterwards(row, new, at)
    out.append(("told", at, bytes(new)))


def over_at(row: bytearray, at: int) -> None:
    row[at + PC] = OVER
    row[at + N] = row[at + CURRENT] = 0


# ------------------------------------------------------------------ steps of the queue itself


def queue_moves(world: World, row: bytes, out: Steps) -> None:
    if not row[RAISED]:
        new = bytearray(row)
        raise_era(new)
        out.append(("era raised", 0, bytes(new)))
    if row[QUEUE] == RUNNING:
        _claim_ends(world, row, out)
    elif row[QUEUE] == PARKED_RUN and world.answer_requeues and row[REG] != PARKED:
        new = bytearray(row)
        begin_anew(new, row[FLAGS] & CANCEL | (BEGUN if world.once else 0))
        out.append(("parked run comes back", 0, bytes(new)))
    if row[CANCELS] and row[QUEUE] in (READY, RUNNING):
        _cancelled(world, row, out)
    if row[QUEUE] == FAILED:
        _once_more(world, row, out)
    if row[ROLLBACKS]:
        if row[:OLD_QUEUE] != row[OLD_QUEUE : OLD_QUEUE + 5]:
            new = bytearray(row)
            new[OLD_QUEUE : OLD_QUEUE + 5] = row[:OLD_QUEUE]
            out.append(("copied", 0, bytes(new)))
        new = bytearray(row)
        new[ROLLBACKS] -= 1
        restart(new, world.era)
        if not world.notes_survive:
            new[UNNOTED], new[SEEN] = row[SEEN], 0
        if not new[ROLLBACKS]:
            new[OLD_QUEUE : OLD_QUEUE + 5] = bytes(5)
        out.append(("restart as of the copy", 0, bytes(new)))


def _cancelled(world: World, row: bytes, out: Steps) -> None:
    """What runs is marked; its worker may hear of that (see ``_broken_into``), or not."""
    new = bytearray(row)
    new[CANCELS] -= 1
    new[FLAGS] |= CANCEL
    if row[QUEUE] == READY and (world.queue_ends_in_doubt or not row[FLAGS] & BEGUN):
        give_up(world, new)
    out.append(("cancelled", 0, bytes(new)))


def _once_more(world: World, row: bytes, out: Steps) -> None:
    """A person wants a run that failed to be executed once more: noted in the store first, then told to the queue."""
    token = claim_number(row[ERA], row[EPOCH])
    if row[RERUNS] and row[NOTED] < token:
        new = bytearray(row)
        new[RERUNS] -= 1
        new[NOTED], new[TOLD_FAILED] = token, 0
        out.append(("wished once more", 0, bytes(new)))
    if row[NOTED] >= token:
        new = bytearray(row)
        begin_anew(new)
        out.append(("begun once more", 0, bytes(new)))


def _claim_ends(world: World, row: bytes, out: Steps) -> None:
    process = row[HOLDER]
    at = world.slot_of(row, process)
    new = bytearray(row)
    go_back(world, new, begun=True)
    if not at:
        out.append(("lease of the dead ends", 0, bytes(new)))
    elif not holds(row, process, row[at + T_ERA], row[at + T_EPOCH]):
        out.append(("unknown claim goes back", at, bytes(new)))
    else:
        out.append(("lease ends", at, bytes(new)))

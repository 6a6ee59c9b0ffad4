"""The queue's part: claims, ends, leases, restarts that lose the last writes; as the scripts of ``queue/lua`` do it.

``test_side_by_side`` walks these steps together with the real scripts.
"""

from __future__ import annotations

from tests.model.design import NUMBER, World
from tests.model.state import (
    BROKEN,
    COMMIT,
    COMMITTED,
    CURRENT,
    DEAD,
    DONE,
    END_DONE,
    END_FAILED,
    END_PARKED,
    ENDED,
    EPOCH,
    ERA,
    FAILED,
    GRAVE,
    HOLDER,
    ID,
    IDLE,
    INTENT,
    LOOK,
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


def mint(row: bytearray, process: int) -> None:
    """Give the run, which is ready, to a process: a new token."""
    row[QUEUE], row[HOLDER], row[ERA], row[EPOCH] = RUNNING, process, row[NOW_ERA], row[EPOCH] + 1
    if (row[ERA], row[EPOCH]) <= (row[TOP_ERA], row[TOP_EPOCH]):
        row[BROKEN] = I5
    row[TOP_ERA], row[TOP_EPOCH] = row[ERA], row[EPOCH]


def holds(row: bytes | bytearray, process: int, era: int, epoch: int) -> bool:
    """Whether the queue shows the run as this process's, by that very claim."""
    return row[QUEUE] == RUNNING and row[HOLDER] == process and (row[ERA], row[EPOCH]) == (era, epoch)


def go_back(row: bytearray) -> None:
    """The claim is over; the token stays, so that the next one is greater."""
    row[QUEUE], row[HOLDER] = READY, 0


def end(row: bytearray, state: int) -> None:
    row[QUEUE], row[HOLDER] = state, 0


def restart(row: bytearray, era: bool = True) -> None:
    """The server comes back as it was when its older copy was made."""
    row[QUEUE : EPOCH + 1] = row[OLD_QUEUE : OLD_QUEUE + 4]
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
    out.append(("claim", at, bytes(new)))


def give_back(world: World, row: bytes, at: int, out: Steps) -> None:
    new = bytearray(row)
    if holds(row, row[at + ID], row[at + T_ERA], row[at + T_EPOCH]):
        go_back(new)
    _forget(new, at)
    out.append(("give back", at, bytes(new)))


def hand_in(world: World, row: bytes, at: int, out: Steps) -> None:
    """Tell the queue how the run ended, and be told LOST if the claim is another's meanwhile."""
    if not row[RAISED]:
        return
    new = bytearray(row)
    told = row[at + PC]
    state = {END_DONE: DONE, END_PARKED: PARKED_RUN}.get(told, FAILED)
    if holds(row, row[at + ID], row[at + T_ERA], row[at + T_EPOCH]) or not world.own_claim:
        if row[QUEUE] in _TERMINAL and row[QUEUE] != state:
            new[BROKEN] = Q1
        end(new, state)
        if told == END_DONE and _is_unknown(world, row, at):
            new[BROKEN] = I8
        if told == END_FAILED and not world.pure:
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
    row[at + T_ERA] = row[at + T_EPOCH] = row[at + N] = row[at + CURRENT] = 0


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
        go_back(new)
        out.append(("parked run comes back", 0, bytes(new)))
    if row[QUEUE] == FAILED:
        _once_more(world, row, out)
    if row[ROLLBACKS]:
        if row[:OLD_QUEUE] != row[OLD_QUEUE : OLD_QUEUE + 4]:
            new = bytearray(row)
            new[OLD_QUEUE : OLD_QUEUE + 4] = row[:OLD_QUEUE]
            out.append(("copied", 0, bytes(new)))
        new = bytearray(row)
        new[ROLLBACKS] -= 1
        restart(new, world.era)
        if not world.notes_survive:
            new[UNNOTED], new[SEEN] = row[SEEN], 0
        if not new[ROLLBACKS]:
            new[OLD_QUEUE : OLD_QUEUE + 4] = bytes(4)
        out.append(("restart as of the copy", 0, bytes(new)))


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
        go_back(new)
        out.append(("begun once more", 0, bytes(new)))


def _claim_ends(world: World, row: bytes, out: Steps) -> None:
    process = row[HOLDER]
    at = world.slot_of(row, process)
    new = bytearray(row)
    go_back(new)
    if not at:
        out.append(("lease of the dead ends", 0, bytes(new)))
    elif not holds(row, process, row[at + T_ERA], row[at + T_EPOCH]):
        out.append(("unknown claim goes back", at, bytes(new)))
    else:
        out.append(("lease ends", at, bytes(new)))
    if world.queue_ends_in_doubt and not at:
        ended = bytearray(row)
        end(ended, ENDED)
        if world.once and row[REG] in (INTENT, PARKED) and row[DEAD] & 1 << row[REG_HOLDER]:
            ended[BROKEN] = I8
        out.append(("given up by the queue", 0, bytes(ended)))

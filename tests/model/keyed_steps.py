"""What a process does with a key: look at its register, intend, execute, commit. A function for each thing to do next.

A step appends its name, the process and the state after it. Reading and writing the register are steps of their own, so
everything may come between them; a process that pauses simply takes no step.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.model.design import NUMBER, World
from tests.model.register_steps import begins_effect, comes_to_pass, holder_is, print_of, put
from tests.model.state import (
    ABSENT,
    AGES,
    APPLIED,
    BACK,
    BODY,
    BREAKS,
    BROKEN,
    COMMIT,
    COMMITTED,
    CURRENT,
    DEAD,
    END_DONE,
    END_FAILED,
    END_GIVEN_UP,
    END_GONE,
    END_OTHER,
    END_PARKED,
    FAILURE,
    FLYING,
    GIVE_UP,
    GRAVE,
    HELD,
    ID,
    IDLE,
    INTEND,
    INTENT,
    LOOK,
    LOOKS,
    LOSSES,
    NOTED,
    OVER,
    OWN_PARK,
    OWN_WORD,
    PARK,
    PARKED,
    PC,
    PUBLISH,
    RAISES,
    REG,
    REG_EPOCH,
    REG_HOLDER,
    REG_PRINT,
    REG_TOLD,
    RELEASE,
    RELEASED,
    SEEN,
    SENT,
    STALE,
    T_EPOCH,
    T_ERA,
    UNBEGUN,
    WAIT,
    N,
    claim_number,
)

Steps = list[tuple[str, int, bytes]]
I10, I18, I19, W1 = (NUMBER[name] for name in ("I10", "I18", "I19", "W1"))


def look(world: World, row: bytes, at: int, out: Steps) -> None:
    """Read the register and decide."""
    new = bytearray(row)
    state = row[REG]
    new[at + CURRENT], waited, new[at + N] = 1, row[at + N] if row[at + PC] == WAIT else 0, row[REG_EPOCH]
    old = state in (COMMITTED, GRAVE) and row[STALE] and not _is_own(world, row, at)
    if _has_failed(world, row, at):
        new[at + PC] = END_FAILED
    elif state not in (ABSENT, RELEASED) and not old and world.inputs_checked and row[REG_PRINT] != print_of(world, at):
        new[at + PC] = END_OTHER
    elif state == COMMITTED and (not row[STALE] or not world.fresh_only or _is_own(world, row, at)):
        _adopt(world, row, new, at)
    elif state == GRAVE and world.graves_hold and not world.pure and not old:
        new[at + PC] = END_GONE
    elif state == PARKED:
        new[at + PC] = END_PARKED
    elif state == INTENT:
        _meet_intent(world, row, new, at)
    elif state == RELEASED and row[FAILURE] and _failure_is_mine(world, row, at, waited):
        new[at + PC] = END_FAILED
        if row[REG_PRINT] != print_of(world, at):
            new[BROKEN] = I10
        if not (_is_own(world, row, at) or 0 < waited <= row[REG_EPOCH]):
            new[BROKEN] = W1
    else:
        new[at + PC], new[at + N] = BODY if world.pure else INTEND, _next_epoch(world, row)
    if new[at + PC] not in (INTEND, PARK, HELD, BODY):
        new[at + CURRENT] = 0
    out.append(("look", at, bytes(new)))


def _adopt(world: World, row: bytes, new: bytearray, at: int) -> None:
    """Take the result that is there."""
    new[at + PC], new[at + N], new[at + CURRENT] = END_DONE, row[REG_EPOCH], 0
    if row[STALE] and not _is_own(world, row, at):
        new[BROKEN] = I18
    if row[REG_PRINT] != print_of(world, at):
        new[BROKEN] = I10


def _is_own(world: World, row: bytes, at: int) -> bool:
    """Whether what stands there came from the run that this worker executes."""
    return at < world.callers_at and world.is_run(row[REG_HOLDER]) and not world.pure


def _has_failed(world: World, row: bytes, at: int) -> bool:
    """Whether the register knows that this run has failed, and nobody wants it executed once more."""
    return world.failure_stays and at < world.callers_at and row[NOTED] < row[REG_TOLD]


def _next_epoch(world: World, row: bytes) -> int:
    return row[REG_EPOCH] + 1 if world.epochs_grow else max(row[REG_EPOCH], 1)


def _meet_intent(world: World, row: bytes, new: bytearray, at: int) -> None:
    if holder_is(row, at, world) and (world.recognise == "nonce" or row[at + PC] != WAIT):
        new[at + PC] = HELD
    elif not world.confirmed_death or row[SEEN] & 1 << row[REG_HOLDER]:
        if world.once or new[AGES] < world.scenario.ages:  # or its receiver may not know the key any more
            new[at + PC] = PARK
        else:
            new[at + PC], new[at + N] = INTEND, _next_epoch(world, row)
    else:
        new[at + PC] = BACK if at < world.callers_at else WAIT


def _failure_is_mine(world: World, row: bytes, at: int, waited: int) -> bool:
    if world.waiters_alike and row[REG_PRINT] != print_of(world, at):
        return False
    return 0 < waited <= row[REG_EPOCH] or not world.waiters_only


def intend(world: World, row: bytes, at: int, out: Steps) -> None:
    new = bytearray(row)
    if row[at + CURRENT] or not world.if_match:
        put(world, new, _beginning(row), INTENT, row[at + N], at, holder=True)
        new[at + PC] = HELD
        out.append(("intend", at, bytes(new)))
        if row[LOSSES]:
            new[LOSSES] -= 1
            new[at + PC], new[at + CURRENT] = INTEND, 0
            out.append(("intend, reply lost", at, bytes(new)))
        return
    mine = row[REG] == INTENT and row[REG_EPOCH] == row[at + N] and holder_is(row, at, world)
    new[at + PC], new[at + CURRENT] = (HELD, 1) if mine else (LOOK, 0)
    out.append(("intend, 412", at, bytes(new)))


def _beginning(row: bytes) -> str:
    """The event by which an intent comes about."""
    if row[STALE]:
        return "renew"
    return "take over" if row[REG] == INTENT else "begin"


def begin(world: World, row: bytes, at: int, out: Steps) -> None:
    new = bytearray(row)
    new[at + PC] = GIVE_UP if row[at + LOOKS] else BODY
    out.append(("begin", at, bytes(new)))
    if row[BREAKS]:
        new[BREAKS] -= 1
        new[at + PC] = UNBEGUN
        out.append(("told to go before it began", at, bytes(new)))


def body(world: World, row: bytes, at: int, out: Steps) -> None:
    if row[RAISES]:
        raised = bytearray(row)
        raised[RAISES] -= 1
        raised[at + PC] = END_FAILED if world.pure else RELEASE
        out.append(("raise", at, bytes(raised)))
    new = bytearray(row)
    if world.pure:
        new[at + PC] = PUBLISH
        out.append(("compute", at, bytes(new)))
        return
    if row[at + CURRENT]:
        guarded = bytearray(row)
        put(world, guarded, "guard", INTENT, row[at + N], at)
        out.append(("guard", at, bytes(guarded)))
    begins_effect(world, new, at)
    new[at + PC] = SENT
    if not (world.transactional and row[APPLIED]):  # else the inbox has its row already: nothing is done again
        new[FLYING] |= 1 << row[at + ID]
    out.append(("effect begins", at, bytes(new)))
    if row[BREAKS]:
        _broken_into(world, row, at, out)


def _broken_into(world: World, row: bytes, at: int, out: Steps) -> None:
    """A cancel, a drain, a time limit: what the body has done is not known."""
    new = bytearray(row)
    new[BREAKS] -= 1
    new[at + PC] = OWN_PARK if world.once and world.break_parks else UNBEGUN
    out.append(("broken into", at, bytes(new)))


def sent(world: World, row: bytes, at: int, out: Steps) -> None:
    new = bytearray(row)
    bit = 1 << row[at + ID]
    if row[FLYING] & bit:
        new[FLYING] ^= bit
        comes_to_pass(world, new)
    new[at + PC] = COMMIT if world.commit_first else END_DONE
    out.append(("effect done", at, bytes(new)))
    if row[BREAKS]:
        _broken_into(world, row, at, out)


def commit(world: World, row: bytes, at: int, out: Steps) -> None:
    new = bytearray(row)
    epoch = row[at + N]
    after = END_DONE if world.commit_first else OVER if at >= world.callers_at else IDLE
    if row[at + CURRENT] or not world.commit_if_match:
        put(world, new, "commit", COMMITTED, epoch, at)
        new[at + PC] = after
        out.append(("commit", at, bytes(new)))
        if row[LOSSES]:
            new[LOSSES] -= 1
            new[at + PC] = COMMIT
            out.append(("commit, reply lost", at, bytes(new)))
        return
    state = row[REG]
    if state == COMMITTED or (state == GRAVE and row[REG_EPOCH] == epoch):
        new[at + PC] = after
    elif row[REG_EPOCH] == epoch and (state == PARKED or (state == INTENT and holder_is(row, at, world))):
        new[at + CURRENT] = 1  # late truth
    else:
        new[at + PC] = LOOK  # another one has taken over
    out.append(("commit, 412", at, bytes(new)))


def publish(world: World, row: bytes, at: int, out: Steps) -> None:
    """The commit of a pure task, which has no intent."""
    new = bytearray(row)
    if row[at + CURRENT] or not world.if_match:
        event = "refresh" if row[REG] == COMMITTED else "publish"
        put(world, new, event, COMMITTED, row[at + N], at, holder=True)
        new[at + PC] = END_DONE
        out.append(("publish", at, bytes(new)))
        if row[LOSSES]:
            new[LOSSES] -= 1
            new[at + PC] = PUBLISH
            out.append(("publish, reply lost", at, bytes(new)))
        return
    if row[REG] == COMMITTED and not (row[STALE] and world.fresh_only):
        _adopt(world, row, new, at)
    else:
        new[at + PC] = END_DONE  # its own, which is not kept
    out.append(("publish, 412", at, bytes(new)))


def release(world: World, row: bytes, at: int, out: Steps) -> None:
    """Its code raised."""
    _say(world, row, at, out, RELEASED, END_FAILED)


def unbegun(world: World, row: bytes, at: int, out: Steps) -> None:
    _say(world, row, at, out, RELEASED, BACK if at < world.callers_at else OVER)


def give_up(world: World, row: bytes, at: int, out: Steps) -> None:
    """Its code may not begin: the intent only keeps an earlier claim of the run from beginning."""
    _say(world, row, at, out, RELEASED, END_GIVEN_UP)


def own_park(world: World, row: bytes, at: int, out: Steps) -> None:
    _say(world, row, at, out, PARKED, END_PARKED)


def _say(world: World, row: bytes, at: int, out: Steps, state: int, after: int) -> None:
    """The holder says what became of its intent."""
    new = bytearray(row)
    name = "release" if state == RELEASED else "park"
    if row[at + CURRENT]:
        put(world, new, name, state, row[at + N], at)
        new[FAILURE], new[OWN_WORD] = after == END_FAILED, state == PARKED
        if at < world.callers_at and (after == END_FAILED or (after == END_GIVEN_UP and world.given_up_stays)):
            new[REG_TOLD] = claim_number(row[at + T_ERA], row[at + T_EPOCH])
        if row[LOSSES]:
            lost = bytearray(new)
            lost[LOSSES] -= 1
            out.append((f"{name} its own, reply lost", at, bytes(lost)))
    new[at + PC] = after
    out.append((f"{name} its own", at, bytes(new)))


def park(world: World, row: bytes, at: int, out: Steps) -> None:
    new = bytearray(row)
    if row[at + CURRENT] or not world.if_match:
        if not row[DEAD] & 1 << row[REG_HOLDER] and world.alarms:
            new[BROKEN] = I19
        if world.once_parks:
            put(world, new, "park", PARKED, row[at + N])
        else:
            put(world, new, "release", RELEASED, row[at + N])
        new[at + PC] = LOOK
    else:
        new[at + PC] = LOOK
    out.append(("park", at, bytes(new)))


STEPS: dict[int, Callable[[World, bytes, int, Steps], None]] = {
    LOOK: look,
    INTEND: intend,
    HELD: begin,
    BODY: body,
    SENT: sent,
    COMMIT: commit,
    PUBLISH: publish,
    RELEASE: release,
    UNBEGUN: unbegun,
    GIVE_UP: give_up,
    OWN_PARK: own_park,
    PARK: park,
    WAIT: look,
}

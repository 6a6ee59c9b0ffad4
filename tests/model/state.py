"""One state of the model: a row of small numbers in a bytes object, so that millions of them fit in memory.

One key, one background run of it in the queue, and the processes that work on the key: workers, which claim the run,
and callers, which call the task directly. A process is known by its number; one that died has a successor with another.
"""

from __future__ import annotations

from dataclasses import dataclass

# Redis: the run's record (its state, the process that holds it, the claim's token, whether it is to be cancelled
# and may have begun), and an older copy of it.
QUEUE, HOLDER, ERA, EPOCH, FLAGS = range(5)
OLD_QUEUE, OLD_HOLDER, OLD_ERA, OLD_EPOCH, OLD_FLAGS = range(5, 10)
# The era: the register outside Redis; whether this start of the server may mint tokens; the highest token ever minted.
NOW_ERA, RAISED, TOP_ERA, TOP_EPOCH = range(10, 14)
# The key's register: state, epoch, holder, whether a failure stands in it, whether its holder parked it, whether the
# result has expired, which of two requests it was made for, and the highest epoch that it ever had.
REG, REG_EPOCH, REG_HOLDER, FAILURE, OWN_WORD, STALE, REG_PRINT, TOP_REG = range(14, 22)
# The world: effects that came to pass, requests under way (a bit for each process), the result's bytes, what was told.
APPLIED, FLYING, BLOB, TOLD_FAILED, DEAD, SEEN, NEXT = range(22, 29)
# A slow person that was asked: the answer (0 none, 1 done, 2 not done), and whether the register is as it was then.
# Deaths of which the note was lost.
ANSWER, ANSWER_CURRENT, UNNOTED = range(29, 32)
# That the run has failed, as the register knows it, and that a person wants it executed once more, as the store does:
# the claim (see ``claim_number``) that failed, and up to which claim that is no matter any more.
REG_TOLD, NOTED = range(32, 34)
# The epoch that a slow rollback, one that was overtaken, looked at, and whether the register is as it was then. And the
# last epoch whose commit was undone.
UNDO, UNDO_CURRENT, UNDONE = range(34, 37)
# What may still go wrong, or happen.
CRASHES, ROLLBACKS, LOSSES, RAISES, BREAKS, ANSWERS, SWEEPS, AGES, RERUNS, UNDOES, CANCELS = range(37, 48)
BROKEN = 48  # the number of the invariant that the last step broke
SLOTS = 49
# Each process: what it does next, its number, the token of its claim, whether the register is as it read it, and an
# epoch: of its intent, or which it waits for; whether its claim is of a run that is to be cancelled.
PC, ID, T_ERA, T_EPOCH, CURRENT, N, LOOKS = range(7)
SLOT = 7
CANCEL, BEGUN = 1, 2
"""Flags. BEGUN: of class at_most_once, and somebody may have begun it who did not end it."""

READY, RUNNING, DONE, FAILED, PARKED_RUN, ENDED, NO_RUN = range(7)
"""States of the run in Redis. ENDED: it was given up: cancelled, or its process died too often, which is
the same here."""
ABSENT, INTENT, COMMITTED, RELEASED, PARKED, GRAVE = range(6)
"""States of the register."""
REGISTER_STATES = ("absent", "intent", "committed", "released", "parked", "grave")

(
    IDLE,
    LOOK,
    INTEND,
    HELD,
    BODY,
    SENT,
    COMMIT,
    PUBLISH,
    RELEASE,
    UNBEGUN,
    GIVE_UP,
    OWN_PARK,
    PARK,
    WAIT,
    BACK,
    END_DONE,
    END_FAILED,
    END_PARKED,
    END_GONE,
    END_OTHER,
    END_GIVEN_UP,
    OVER,
) = range(22)
"""What a process does next."""


def claim_number(era: int, epoch: int) -> int:
    """A token as one number, in the order of tokens."""
    return era * 16 + epoch


@dataclass(frozen=True, slots=True)
class Scenario:
    """Who takes part, and how much may go wrong.

    Attributes:
        effect: letter of the effect class.
        claims: how often the run is claimed at most.
        other_inputs: the last caller uses the key with other inputs.
    """

    effect: str
    workers: int
    callers: int
    claims: int = 3
    crashes: int = 1
    rollbacks: int = 1
    losses: int = 1
    raises: int = 0
    breaks: int = 0
    answers: int = 0
    sweeps: int = 0
    ages: int = 0
    reruns: int = 0
    undoes: int = 0
    cancels: int = 0
    other_inputs: bool = False

    def initial(self) -> bytes:
        row = bytearray(SLOTS + SLOT * (self.workers + self.callers))
        row[QUEUE] = READY if self.workers else NO_RUN
        row[OLD_QUEUE] = row[QUEUE]
        row[NOW_ERA] = row[RAISED] = 1
        row[NEXT] = self.workers + self.callers + 1
        row[CRASHES : CANCELS + 1] = bytes(
            (
                self.crashes,
                self.rollbacks,
                self.losses,
                self.raises,
                self.breaks,
                self.answers,
                self.sweeps,
                self.ages,
                self.reruns,
                self.undoes,
                self.cancels,
            )
        )
        for index in range(self.workers + self.callers):
            row[SLOTS + SLOT * index + ID] = index + 1
        return bytes(row)

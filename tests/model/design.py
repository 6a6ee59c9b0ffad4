"""The design that is checked, as switches: as it is shipped, and what a wrong one would do otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tests.model.state import ID, SLOT, SLOTS, Scenario

INVARIANTS = {
    "I1": "a commit stays: only a grave, a newer commit of what has expired, or the rollback of it takes its place",
    "I2": "no effect begins after the commit",
    "I3": "a commit's epoch is the highest that the key ever had",
    "I4": "an effect of class at_most_once or transactional comes to pass once",
    "I5": "tokens of claims and epochs of intents are never used twice, and grow",
    "I7": "the bytes that a commit refers to are there",
    "I8": "the queue shows an end only if the register knows it",
    "I10": "nobody gets the outcome of a request with other inputs",
    "I14": "whoever waits can go on: from everywhere, ordinary steps alone lead to an end",
    "I15": "a register that is there never goes away",
    "I17": "a run whose failure was told, or its cancel, is not executed after that, unless a person wants it",
    "I18": "what has expired is not given out as a result",
    "I19": "another one parks an intent only if its holder is dead",
    "W1": "nobody takes the failure of an execution that was over before its call began",
    "W2": "an outcome is in the register before anybody is told",
    "Q1": "the end of a run in the queue does not change",
}
NAMES = ("", "T", *INVARIANTS)
"""By number. T: a write that the table of transitions does not have; not looked for in mutants."""
NUMBER = {name: number for number, name in enumerate(NAMES)}


Table = Mapping[tuple[int, str], tuple[int, bool]]
"""Of the register: (state, event) -> the state after it, and whether the epoch grows."""


@dataclass(frozen=True, slots=True)
class Design:
    """Every default is what Kapstan does; every other value is a mutant."""

    if_match: bool = True  # a write that begins something names the version that its writer read
    commit_if_match: bool = True  # a commit names the version of its intent
    era: bool = True  # tokens carry an era, which grows with each start of the server
    own_claim: bool = True  # the queue takes an outcome only from the session that holds the run with that token
    confirmed_death: bool = True  # an intent is taken over, or parked, only if its holder is known to be dead
    alarms: bool = True  # whether a park of a living holder's intent is looked for; off to see what comes after it
    recognise: str = "nonce"  # how a writer knows its own write again, "epoch": by its number
    epochs_grow: bool = True  # each intent has an epoch of its own
    once_parks: bool = True  # at_most_once: an intent whose holder died is parked, "False": released
    break_parks: bool = True  # at_most_once: a body that was broken into is parked, "False": released
    failure_stays: bool = True  # a run that is claimed again, and is known to have failed, is not executed
    told_outlives: bool = True  # ... which the register knows whatever other runs of its key do after it
    waiters_only: bool = True  # only who waited takes a failure, and of no epoch before the one that it waited for
    notes_survive: bool = True  # what is known of a death outlives a restart of Redis, or a person knows it
    answer_after_death: bool = True  # "not done" counts only once the holder is dead ...
    answer_after_horizon: bool = True  # ... and no request of its can be under way
    answer_names_version: bool = True  # ... and only for what was looked at
    answer_requeues: bool = True  # a run that is parked comes back when its register is resolved
    undo_names_version: bool = True  # a rollback releases only the commit that it looked at
    sweep: str = "grave"  # what retention makes of a commit, "delete": nothing stays
    graves_hold: bool = True  # a grave keeps a class with an effect from beginning again
    swept_by_name: bool = True  # retention deletes the bytes that the grave referred to, "False": all of the key
    blob_after_grave: bool = True  # a result's bytes go only after its register is a grave
    blob_first: bool = True  # a result's bytes are stored before the commit
    commit_first: bool = True  # the register is committed before the queue, or a caller, is told
    fresh_only: bool = True  # what has expired is not adopted
    inputs_checked: bool = True  # a key that is used with other inputs is a conflict
    waiters_alike: bool = True  # ... and the failure of one with other inputs is not taken
    inbox_unique: bool = True  # transactional: a unique key decides, "False": a look before
    queue_ends_in_doubt: bool = False  # the queue gives up a run that may have begun, however its register stands
    given_up_stays: bool = True  # the register knows of a run that was given up, as of one that failed


class World:
    """A design in a scenario, with what the steps ask often."""

    __slots__ = (
        *Design.__dataclass_fields__,
        "callers_at",
        "claims",
        "design",
        "effect",
        "endless",
        "once",
        "other_inputs_at",
        "pure",
        "scenario",
        "size",
        "slots",
        "table",
        "transactional",
        "used",
        "workers",
    )

    def __init__(
        self, design: Design, scenario: Scenario, table: Table | None = None, *, endless: bool = False
    ) -> None:
        for name in Design.__dataclass_fields__:
            setattr(self, name, getattr(design, name))
        self.design = design
        self.scenario = scenario
        self.effect = scenario.effect
        self.once = scenario.effect == "a"
        self.pure = scenario.effect == "p"
        self.transactional = scenario.effect == "t"
        self.workers = scenario.workers
        self.endless = endless
        self.table = table
        self.used: set[tuple[int, str]] = set()
        self.claims = scenario.claims
        self.callers_at = SLOTS + SLOT * scenario.workers
        self.size = self.callers_at + SLOT * scenario.callers
        self.slots = tuple(range(SLOTS, self.size, SLOT))
        self.other_inputs_at = self.size - SLOT if scenario.other_inputs else 0

    def is_run(self, process: int) -> bool:
        """Whether the process number is a worker's, which executes the run."""
        return process <= self.workers or process > (self.size - SLOTS) // SLOT

    def slot_of(self, row: bytes | bytearray, process: int) -> int:
        """Where a living process stands in the row; 0: it is dead."""
        return next((at for at in self.slots if row[at + ID] == process), 0)

"""Designs that are wrong in one place, each with a scenario that shows it and the invariant that catches it."""

from __future__ import annotations

from typing import NamedTuple

from tests.model.design import Design
from tests.model.state import Scenario


class Mutant(NamedTuple):
    name: str
    design: Design
    scenario: Scenario
    caught_by: str


MUTANTS = (
    Mutant("an intent without If-Match", Design(if_match=False), Scenario("a", 2, 0), "I5"),
    Mutant("a pure result without If-Match", Design(if_match=False), Scenario("p", 0, 2, losses=0), "I1"),
    Mutant(
        "a commit without If-Match, taken over when the lease ends",
        Design(commit_if_match=False, confirmed_death=False),
        Scenario("i", 2, 0, losses=0),
        "I3",
    ),
    Mutant("tokens without an era", Design(era=False), Scenario("a", 2, 0), "I5"),
    Mutant("the queue takes what a late holder hands in", Design(own_claim=False), Scenario("a", 2, 0, sweeps=1), "Q1"),
    Mutant("taken over when the lease ends", Design(confirmed_death=False), Scenario("i", 2, 0), "I2"),
    Mutant("parked when the lease ends", Design(confirmed_death=False), Scenario("a", 2, 0), "I19"),
    Mutant("one's own write is known by its epoch", Design(recognise="epoch"), Scenario("a", 0, 2), "I2"),
    Mutant("a take-over keeps the epoch", Design(epochs_grow=False), Scenario("i", 2, 0), "I5"),
    Mutant("released when its holder died", Design(once_parks=False), Scenario("a", 2, 0), "I4"),
    Mutant("released when its body was broken into", Design(break_parks=False), Scenario("a", 1, 0, breaks=1), "I4"),
    Mutant("whoever comes takes an old failure", Design(waiters_only=False), Scenario("a", 0, 2, raises=1), "W1"),
    Mutant("a run that failed is executed again", Design(failure_stays=False), Scenario("a", 1, 0, raises=1), "I17"),
    Mutant(
        "the next run of the key makes it forget who failed",
        Design(told_outlives=False),
        Scenario("a", 1, 1, losses=0, crashes=0, raises=2),
        "I17",
    ),
    Mutant(
        "'not done' counts while the holder lives",
        Design(answer_after_death=False, confirmed_death=False, alarms=False),
        Scenario("a", 2, 0, answers=1, rollbacks=0, losses=0, crashes=0),
        "I4",
    ),
    Mutant(
        "'not done' counts while a request is under way",
        Design(answer_after_horizon=False),
        Scenario("a", 2, 0, answers=1, rollbacks=0),
        "I4",
    ),
    Mutant(
        "an answer counts for whatever is parked now",
        Design(answer_names_version=False),
        Scenario("a", 1, 0, crashes=0, rollbacks=0, losses=0, breaks=2, answers=2),
        "I4",
    ),
    Mutant("a parked run stays where it is", Design(answer_requeues=False), Scenario("a", 1, 0, answers=1), "I14"),
    Mutant("the end of a process is known to Redis alone", Design(notes_survive=False), Scenario("i", 1, 0), "I14"),
    Mutant(
        "a rollback releases whatever is committed now",
        Design(undo_names_version=False),
        Scenario("a", 0, 3, crashes=0, rollbacks=0, losses=0, undoes=2),
        "I1",
    ),
    Mutant("retention deletes", Design(sweep="delete"), Scenario("a", 2, 0, sweeps=1), "I15"),
    Mutant("a grave is as good as nothing", Design(graves_hold=False), Scenario("a", 2, 0, sweeps=1), "I4"),
    Mutant("the bytes of a result go first", Design(blob_after_grave=False), Scenario("a", 1, 0, sweeps=1), "I7"),
    Mutant("all bytes of a key go", Design(swept_by_name=False), Scenario("p", 0, 2, losses=0, sweeps=1), "I7"),
    Mutant("the bytes of a result come last", Design(blob_first=False), Scenario("a", 1, 0), "I7"),
    Mutant("the queue is told before the register", Design(commit_first=False), Scenario("a", 1, 0), "I8"),
    Mutant("a caller is told before the register", Design(commit_first=False), Scenario("a", 0, 1), "W2"),
    Mutant("what has expired is adopted", Design(fresh_only=False), Scenario("p", 0, 2, ages=1), "I18"),
    Mutant(
        "other inputs get the result, too", Design(inputs_checked=False), Scenario("a", 0, 2, other_inputs=True), "I10"
    ),
    Mutant(
        "who waited takes the failure of other inputs",
        Design(waiters_alike=False),
        Scenario("a", 0, 3, crashes=0, rollbacks=0, losses=0, raises=1, breaks=1, other_inputs=True),
        "I10",
    ),
    Mutant(
        "the queue ends a run that may have begun",
        Design(queue_ends_in_doubt=True),
        Scenario("a", 1, 0, rollbacks=0, cancels=1),
        "I8",
    ),
    Mutant(
        "the register does not know of a run that was given up",
        Design(given_up_stays=False),
        Scenario("a", 2, 0, rollbacks=0, losses=0, crashes=0, cancels=1),
        "I8",
    ),
    Mutant(
        "the inbox is looked at before, without a unique key", Design(inbox_unique=False), Scenario("t", 2, 0), "I4"
    ),
)

LIMITS = (Mutant("a run is cancelled whose claim Redis forgot", Design(), Scenario("a", 1, 0, cancels=1), "I8"),)
"""What the design as it is does not hold; docs/guarantees.md says so."""

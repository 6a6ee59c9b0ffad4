"""How states are spelt for people: lists, details, filters and messages all use this table."""

from __future__ import annotations

from kapstan.errors import ConfigurationError
from kapstan.ports import RunState
from kapstan.states import StateType

NAMES: dict[RunState, str] = {
    "ready": "Scheduled",
    "delayed": "Scheduled",
    "running": "Running",
    "parked": "Parked",
    "completed": "Completed",
    "failed": "Failed",
    "crashed": "Crashed",
    "cancelled": "Cancelled",
}
"""Of background runs; as ``Future.state.name`` in Python."""

_DELAYED = frozenset[RunState]({"delayed"})
ENDED: frozenset[RunState] = frozenset({"completed", "failed", "crashed", "cancelled"})
LOST = "Lost"
"""State name of a flow run whose process is gone without a word; it goes on with ``kapstan flow-run resume``."""

FLOW_NAMES = (
    "Scheduled",
    "AwaitingRetry",
    "Pending",
    "Running",
    "Retrying",
    "Paused",
    "Suspended",
    "Cancelling",
    "Completed",
    "Failed",
    "TimedOut",
    "Crashed",
    LOST,
    "Cancelled",
)


def background_states(words: tuple[str, ...]) -> frozenset[RunState]:
    """The states that words on a command line mean, in any case: names, or the queue's own words.

    Raises:
        ConfigurationError: no such state.
    """
    found: set[RunState] = set()
    for word in words:
        meant: set[RunState] = {state for state in NAMES if word.lower() in (state, NAMES[state].lower())}
        if word.lower() == "awaitingretry":
            meant = {*_DELAYED}
        if not meant:
            known = ", ".join(dict.fromkeys(NAMES.values()))
            raise ConfigurationError(f"--state {word}: give one of {known}")
        found |= meant
    return frozenset(found)


def flow_states(words: tuple[str, ...]) -> frozenset[str]:
    """The state names (and types, in capitals) that words on a command line mean, in any case.

    Raises:
        ConfigurationError: no such state.
    """
    found: set[str] = set()
    for word in words:
        meant = {name for name in FLOW_NAMES if name.lower() == word.lower()}
        meant |= {kind.value for kind in StateType if kind.value == word.upper() and word.lower() != LOST.lower()}
        if not meant:
            raise ConfigurationError(f"--state {word}: give one of {', '.join(FLOW_NAMES)}")
        found |= meant
    return frozenset(found)

"""What may become of a register: the table that the checked designs keep to; a test holds it to the shipped one."""

from __future__ import annotations

from tests.model.state import ABSENT, COMMITTED, GRAVE, INTENT, PARKED, RELEASED

PURE, EFFECT, REPEATABLE, ALL = "p", "iat", "it", "piat"
ROWS: dict[tuple[int, str], tuple[int, bool, str]] = {
    (ABSENT, "begin"): (INTENT, True, EFFECT),
    (RELEASED, "begin"): (INTENT, True, EFFECT),
    (INTENT, "guard"): (INTENT, False, EFFECT),
    (INTENT, "commit"): (COMMITTED, False, EFFECT),
    (INTENT, "release"): (RELEASED, False, EFFECT),
    (INTENT, "take over"): (INTENT, True, REPEATABLE),
    (INTENT, "park"): (PARKED, False, EFFECT),
    (PARKED, "commit"): (COMMITTED, False, EFFECT),
    (PARKED, "applied"): (COMMITTED, False, EFFECT),
    (PARKED, "not applied"): (RELEASED, False, EFFECT),
    (ABSENT, "publish"): (COMMITTED, True, PURE),
    (RELEASED, "publish"): (COMMITTED, True, PURE),
    (GRAVE, "publish"): (COMMITTED, True, PURE),
    (COMMITTED, "refresh"): (COMMITTED, True, PURE),
    (COMMITTED, "renew"): (INTENT, True, EFFECT),
    (GRAVE, "renew"): (INTENT, True, EFFECT),
    (COMMITTED, "bury"): (GRAVE, False, ALL),
    (COMMITTED, "undo"): (RELEASED, False, ALL),
}
"""By state and event: the state after it, whether the epoch grows, and the classes that it is for."""


def table(effect: str) -> dict[tuple[int, str], tuple[int, bool]]:
    """The rows of one class."""
    return {row: (after, grows) for row, (after, grows, classes) in ROWS.items() if effect in classes}

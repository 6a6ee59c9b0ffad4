"""The state of one key and its changes, for tables that keep it as a text and change it under a lock of their own.

Pure functions: time, tokens and who is alive are given. The Lua of ``queue`` follows the same rules for Redis; one
suite holds all tables to them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, cast

from kapstan.ports import Place, Wait

_FORMAT = 1


@dataclass(slots=True)
class Hold:
    """``until``: when it ends by itself, by the table's clock; ``since``: Unix seconds, for people."""

    holder: str
    client: str
    number: str
    token: int
    since: float
    until: float | None


@dataclass(slots=True)
class InLine:
    """A place in line: what a hold needs of a wait."""

    client: str
    number: str
    holder: str
    hold: float | None


@dataclass(slots=True)
class KeyState:
    """``looks``: (client, number) of those that only want to hear of a release."""

    key: str
    hold: Hold | None = None
    line: list[InLine] = field(default_factory=list[InLine])
    looks: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    @property
    def empty(self) -> bool:
        return self.hold is None and not self.line and not self.looks

    def to_text(self) -> str:
        return json.dumps({"v": _FORMAT, **asdict(self)})

    @classmethod
    def from_text(cls, text: str) -> KeyState:
        """Raises:
        ValueError: written by another release, or damaged.
        """
        kept: Any = json.loads(text)
        if not isinstance(kept, dict) or kept.get("v") != _FORMAT:  # pyright: ignore[reportUnknownMemberType]
            raise ValueError(f"the state of a lock has another format than {_FORMAT}")
        return cls._from_dict(cast("dict[str, Any]", kept))

    @classmethod
    def _from_dict(cls, kept: dict[str, Any]) -> KeyState:
        try:
            hold = kept["hold"]
            return cls(
                key=kept["key"],
                hold=Hold(**hold) if hold else None,
                line=[InLine(**each) for each in kept["line"]],
                looks=[(client, number) for client, number in kept["looks"]],
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"the state of a lock is damaged: {error}") from None


def digest(*parts: str) -> str:
    """The name of a key in files and tables: any key is a short plain one."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:40]


class Change:
    """One change of a key's state.

    Args:
        now: the table's clock, in seconds.
        wall: Unix seconds.
        mint: the next fencing token.
        ended: whether a client is known to have ended: what it holds is free.
        away: whether a client cannot be reached: it is passed over in line, and asks anew when it is back.

    Attributes:
        rings: (client, number) to ring once the state is kept.
    """

    def __init__(
        self,
        state: KeyState,
        now: float,
        wall: float,
        mint: Callable[[], int],
        ended: Callable[[str], bool],
        away: Callable[[str], bool] | None = None,
    ) -> None:
        self._state = state
        self._now = now
        self._wall = wall
        self._mint = mint
        self._away = away or ended
        self.rings: list[tuple[str, str]] = []
        hold = state.hold
        if hold is not None and ((hold.until is not None and now >= hold.until) or ended(hold.client)):
            self._pass_on()

    def ask(self, wait: Wait, stay: bool) -> Place:
        """``Place`` without ``about`` and ``beat``, which the table knows."""
        state = self._state
        if state.hold is None and state.line:
            self._pass_on()
        if state.hold is None:
            if wait.look:
                return Place(0)
            self._grant(InLine(wait.client, wait.number, wait.holder, wait.hold))
        hold = state.hold
        assert hold is not None
        if hold.holder == wait.holder and not wait.look:
            state.line = [each for each in state.line if not _of(each, wait)]
            return Place(hold.token)
        if wait.look:
            if stay and (wait.client, wait.number) not in state.looks:
                state.looks.append((wait.client, wait.number))
            ahead = 0
        else:
            ahead = next((at for at, each in enumerate(state.line) if _of(each, wait)), len(state.line))
            if stay and ahead == len(state.line):
                state.line.append(InLine(wait.client, wait.number, wait.holder, wait.hold))
        left = None if hold.until is None else hold.until - self._now
        return Place(None, client=hold.client, left=left, ahead=ahead)

    def give_up(self, wait: Wait) -> None:
        state = self._state
        state.line = [each for each in state.line if not _of(each, wait)]
        state.looks = [each for each in state.looks if each != (wait.client, wait.number)]
        if state.hold is not None and (state.hold.client, state.hold.number) == (wait.client, wait.number):
            self._pass_on()

    def release(self, holder: str, token: int | None) -> bool:
        hold = self._state.hold
        if hold is None or hold.holder != holder or token not in (None, hold.token):
            return False
        self._pass_on()
        return True

    def end_client(self, client: str) -> None:
        state = self._state
        state.line = [each for each in state.line if each.client != client]
        state.looks = [each for each in state.looks if each[0] != client]
        if state.hold is not None and state.hold.client == client:
            self._pass_on()

    def _pass_on(self) -> None:
        """The hold is over: the first in line that lives has it, and those that look hear of it."""
        state = self._state
        state.hold = None
        self.rings += state.looks
        state.looks = []
        while state.line and state.hold is None:
            first = state.line.pop(0)
            if not self._away(first.client):
                self._grant(first)
                self.rings.append((first.client, first.number))
        if state.line:  # who is first now looks, to see the end of the new holder at once
            self.rings.append((state.line[0].client, state.line[0].number))

    def _grant(self, to: InLine) -> None:
        until = None if to.hold is None else self._now + to.hold
        self._state.hold = Hold(to.holder, to.client, to.number, self._mint(), self._wall, until)


def _of(place: InLine, wait: Wait) -> bool:
    return place.client == wait.client and place.number == wait.number

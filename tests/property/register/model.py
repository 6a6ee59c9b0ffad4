"""What the property test of the register foresees."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.property.register.actors import Actor

from kapstan.ports import RegisterState as S


@dataclass
class Modelled:
    """What the model knows of the key.

    Attributes:
        writes: how often the register was changed: its version.
        holder: whose intent it is, or was.
        failed: it was released since the code raised.
        effects: (epoch, who) of each effect, in order.
        told: every result that somebody was told.
        refused_until: a request of its dead holder may arrive until then.
    """

    state: S = S.ABSENT
    epoch: int = 0
    writes: int = 0
    holder: Actor | None = None
    failed: bool = False
    result: str = ""
    effects: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    told: set[str] = field(default_factory=set[str])
    refused_until: float = 0.0

    def becomes(self, state: S, holder: Actor | None = None, *, failed: bool = False) -> None:
        """One write. ``holder``: of a new intent, or of a new result of a pure run."""
        self.state, self.failed, self.writes = state, failed, self.writes + 1
        if holder is not None:
            self.holder, self.epoch = holder, self.epoch + 1

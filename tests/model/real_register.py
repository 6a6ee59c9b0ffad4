"""The real register beside the model, in a real store."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

from tests.contract.queue.makers import TASK
from tests.model.design import World
from tests.model.state import FAILURE, INTENT, REG, REG_EPOCH, REG_HOLDER, REG_TOLD, REGISTER_STATES

from kapstan.ports.register import Entry, Holder, RegisterEvent, RegisterKey
from kapstan.states import EffectClass
from kapstan.store.register import StoredRegister

E = RegisterEvent
_BEGINS = (E.BEGIN, E.TAKE_OVER, E.RENEW, E.PUBLISH, E.REFRESH)
RUN = "run"
_keys = itertools.count(1)


@dataclass
class RealRegister:
    """One key, and what every process knows of it.

    Attributes:
        entries: by process: what it read of the register, or wrote there last.
        unheard: by process: what it wrote without hearing that it did.
        asked: what the slow person was shown.
        looked: what the slow rollback saw.
    """

    world: World
    register: StoredRegister
    entries: dict[int, Entry | None] = field(default_factory=dict[int, "Entry | None"])
    unheard: dict[int, Entry | None] = field(default_factory=dict[int, "Entry | None"])
    asked: Entry | None = None
    looked: Entry | None = None

    def __post_init__(self) -> None:
        self.key = RegisterKey(TASK, f"K{next(_keys):051d}")
        self.effect = EffectClass(self.world.effect)

    def read(self, process: int) -> None:
        self.entries[process] = self.register.read(self.key)

    def change(self, process: int, event: RegisterEvent, *, lost: bool = False, **fields: Any) -> bool:
        """Whether the register still was as the process knew it. ``lost``: the process does not hear of it."""
        given = {"holder": self.holder(process), **fields} if event in _BEGINS else fields
        entry = self.register.change(self.key, self.entries.get(process), event, self.effect, **given)
        if entry is not None:
            (self.unheard if lost else self.entries)[process] = entry
        return entry is not None

    def holder(self, process: int) -> Holder:
        return Holder(RUN, f"process-{process}")

    def by_another(self, event: RegisterEvent, before: Entry | None = None, **fields: Any) -> None:
        entry = before or self.register.read(self.key)
        self.register.change(self.key, entry, event, self.effect, **fields)

    def compare(self, row: bytes) -> None:
        """That the store holds what the model says.

        Raises:
            AssertionError: it does not.
        """
        entry = self.register.read(self.key)
        state = "absent" if entry is None else entry.record.state.value
        assert state == REGISTER_STATES[row[REG]]
        if entry is not None:
            assert entry.record.epoch == row[REG_EPOCH]
            assert bool(entry.record.outcome == "failed") == bool(row[FAILURE])
            assert entry.record.told == ({RUN: str(row[REG_TOLD])} if row[REG_TOLD] else {})
            if row[REG] == INTENT:
                assert entry.record.holder == self.holder(row[REG_HOLDER])

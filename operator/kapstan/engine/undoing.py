"""What a rollback undid does not stay done for its key: the register of a task's key is released once the hooks for a
rollback are through.

The register is read before a hook is called, and before the flow's journal takes that the rollback has begun. It is
released only if it is as it was then. So an attempt that was overtaken releases nothing that came later.
"""

from __future__ import annotations

from dataclasses import dataclass

from kapstan.backend import Backend
from kapstan.engine import key_watch
from kapstan.ids import RunId
from kapstan.ports import Entry, RegisterEvent, RegisterKey, RegisterState
from kapstan.states import EffectClass


@dataclass(frozen=True, slots=True)
class Undoable:
    """The key under which a task of a transaction was committed, by run ``run_id``."""

    backend: Backend
    key: RegisterKey
    effect: EffectClass
    run_id: RunId

    def found(self) -> Entry | None:
        """What stands there; None if it is not the commit of that run any more.

        Raises:
            BackendError, SignatureError: as ``ports.Register``.
        """
        entry = self.backend.register.read(self.key)
        if entry is None or entry.record.state is not RegisterState.COMMITTED or entry.record.holder is None:
            return None
        return entry if entry.record.holder.run_id == self.run_id else None

    def release(self, entry: Entry, why: str) -> None:
        """Whoever calls next executes anew, unless somebody has changed it since ``entry``.

        Raises:
            BackendError: as ``found``.
        """
        self.backend.register.change(
            self.key,
            entry,
            RegisterEvent.UNDO,
            self.effect,
            outcome="",
            result=b"",
            expires=None,
            at=self.backend.store_time(),
            evidence={"undone": why[:200]},
        )
        key_watch.look_at(self.key)

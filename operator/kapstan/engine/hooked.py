"""The hooks of a task: options, and decorators that add to them."""

from __future__ import annotations

import dataclasses
from typing import Any

from kapstan.engine.hook_options import hooks
from kapstan.engine.transaction import Hook
from kapstan.specs import TaskSpec


class Hooked:
    """What ``Task`` has of it."""

    spec: TaskSpec
    _options: dict[str, Any]

    def on_commit(self, hook: Hook) -> Hook:
        """Decorator: ``hook(transaction)`` is called when the task is committed with the transaction that it is called
        in; outside of one, when it has completed."""
        return self._hooked("on_commit", hook)

    def on_rollback(self, hook: Hook) -> Hook:
        """Decorator: ``hook(transaction)`` is called when the task is undone with the transaction that it is called
        in."""
        return self._hooked("on_rollback", hook)

    @property
    def on_commit_hooks(self) -> tuple[Hook, ...]:
        """The option ``on_commit``, and what was added since."""
        return self.spec.on_commit

    @property
    def on_rollback_hooks(self) -> tuple[Hook, ...]:
        """The option ``on_rollback``, and what was added since."""
        return self.spec.on_rollback

    def _hooked(self, option: str, hook: Hook) -> Hook:
        together = (*getattr(self.spec, option), *hooks(option, hook))
        self._options[option] = together
        changed: Any = {option: together}
        self.spec = dataclasses.replace(self.spec, **changed)
        return hook

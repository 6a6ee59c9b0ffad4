"""Memo keys of one flow run, and the outcomes that earlier attempts have left under them.

A key says which call this is: run, scope (the task or flow that makes the call), task, inputs, and the how-manieth
call of this content it is. Order plays no part, so ``gather``, threads and ``map`` find their outcomes again; two
intended equal calls stay two. The key is also the id of the task run, and of a background run that a flow submits.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from kapstan.engine import canonical
from kapstan.ids import RunId, derived_id


class Memo:
    """Keys and replayed outcomes of one execution of a flow's function; safe to share between threads."""

    def __init__(self, run_id: RunId, outcomes: Mapping[RunId, Any]) -> None:
        self._run_id = run_id
        self._outcomes = dict(outcomes)
        self._counts: dict[tuple[str, str, str], int] = {}
        self._lock = threading.Lock()

    def key(self, scope: str, identity: str, parameters: dict[str, Any]) -> tuple[RunId, str]:
        """The key of the next call of this content in ``scope``, and the digest of the content."""
        content = canonical.digest(parameters)
        place = (scope, identity, content)
        with self._lock:
            occurrence = self._counts.get(place, 0)
            self._counts[place] = occurrence + 1
        return derived_id("memo", self._run_id, scope, identity, content, str(occurrence)), content

    def take(self, key: RunId) -> Any:
        """The outcome that an earlier attempt left under ``key``, or None; each is handed out once."""
        with self._lock:
            return self._outcomes.pop(key, None)

    @property
    def unmatched(self) -> int:
        """Outcomes that no call has asked for so far."""
        return len(self._outcomes)

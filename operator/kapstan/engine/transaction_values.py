"""What a task left in its transaction for its hooks: it stands in the journal with the task's outcome, so that a hook
that a later attempt calls gets it, too."""

from __future__ import annotations

from kapstan.backend import Backend
from kapstan.engine.transaction import Transaction
from kapstan.errors import Parked, Unreadable
from kapstan.ids import RunId


def sealed(backend: Backend, run_id: RunId, part: Transaction | None) -> bytes | None:
    """The envelope of what run ``run_id`` left; None if it left nothing."""
    return backend.codec.encode(part.values, "value", run_id) if part is not None and part.values else None


def restore(backend: Backend, run_id: RunId, left: bytes | None, part: Transaction | None) -> None:
    """Give ``part`` what an earlier attempt left.

    Raises:
        Parked: it cannot be read here.
    """
    if left is None or part is None:
        return
    try:
        part.values = backend.codec.decode(left, "value", run_id)
    except Unreadable as error:
        raise Parked(f"what {part.name} left for its hooks cannot be read here: {error}") from error

"""Ends a flow run in its journal, where the truth is, for whoever is not its process."""

from __future__ import annotations

import os
import time
from dataclasses import replace

from kapstan.backend import Backend
from kapstan.errors import Fenced
from kapstan.ids import RunId
from kapstan.journal import AttemptEnd, Journal, read_journal
from kapstan.states import AttemptOutcome

_TRIES = 20


def end_run(backend: Backend, run_id: RunId, outcome: AttemptOutcome, message: str) -> AttemptEnd:
    """End the run under an attempt of its own, which fences the process that executes it: that one ends at its next
    record. A run that has ended, also while this was tried, stays as it is.

    Returns:
        The end that holds.

    Raises:
        StoreUnavailable: whether it was written is unknown; repeating is harmless.
        StoreUnsafe, SignatureError, SerializationError: the journal cannot be read; nothing was changed.
    """
    for _ in range(_TRIES):
        history = read_journal(backend.store, backend.codec, run_id)
        if history.end is not None and history.end.end.ends_run:
            return history.end
        number = 1 if history.last is None else history.last.number + 1
        journal = Journal(backend.store, backend.codec, run_id)
        try:
            before = journal.open(number, host=os.uname().nodename, now=time.time()).end
            if before is not None and before.end.ends_run:  # it came between the reading and the opening
                end = replace(before, attempt=number)
            else:
                end = AttemptEnd(number, outcome, time.time(), message)
            journal.append(end)
            return end
        except Fenced:
            continue  # another attempt began meanwhile: look again
        finally:
            journal.close()
    raise Fenced(f"flow run {run_id}: {_TRIES} other attempts began while it was to be ended")

"""A flow run's journal: what its attempts did, written so that the next attempt goes on from there.

The flow engine writes it through ``Journal``; the operator, the server and the CLI read it with ``read_journal``. It
stands on the store port and the codec, and knows neither flows nor adapters::

    journal = Journal(store, codec, run_id)
    history = journal.open(2, host="pod-7", now=time.time())  # fences attempt 1; what was there before
    outcome = history.outcomes.get(key)                       # by memo key: replay it
    journal.append(TaskOutcome(key, task, name, "COMPLETED", value=envelope))  # returns when it is durable
    journal.post(TaskOutcome(...), done)                      # returns at once; done(None) when it is durable
    journal.append(AttemptEnd(2, AttemptOutcome.COMPLETED, time.time(), result=envelope))
    journal.close()

``Fenced``, a BaseException, means that another attempt has begun and that this one must stop. Values are signed
envelopes that the caller made; what is larger than the inline limit belongs into the store first, and a reference to it
here.
"""

from __future__ import annotations

from kapstan.journal.burial import Changed, bury
from kapstan.journal.history import (
    Attempt,
    AttemptEnd,
    Grave,
    History,
    Opening,
    Record,
    Retry,
    TaskOutcome,
    after_retry,
    log_name,
    read_journal,
)
from kapstan.journal.writer import Done, Journal

__all__ = [
    "Attempt",
    "AttemptEnd",
    "Changed",
    "Done",
    "Grave",
    "History",
    "Journal",
    "Opening",
    "Record",
    "Retry",
    "TaskOutcome",
    "after_retry",
    "bury",
    "log_name",
    "read_journal",
]

"""Flow runs with a journal and a summary, as their processes leave them."""

from __future__ import annotations

import os
import time
from typing import Any

from kapstan import ids
from kapstan.backend import Backend
from kapstan.ids import RunId
from kapstan.journal import AttemptEnd, Journal
from kapstan.states import AttemptOutcome

HERE = os.uname().nodename


def begin(backend: Backend, *, end: str = "", run_id: RunId = "", number: int = 1, **summary: Any) -> RunId:
    """A run whose attempt began, and ended if ``end`` says how."""
    run_id = run_id or ids.new_id()
    journal = Journal(backend.store, backend.codec, run_id)
    journal.open(number, host=HERE, now=time.time())
    told = {"state": "RUNNING", "state_name": "Running", "attempt": number, "started": time.time(), "host": "elsewhere"}
    if end:
        journal.append(AttemptEnd(number, AttemptOutcome(end), time.time()))
        told |= {"state": end.upper(), "state_name": end, "outcome": end, "ended": time.time()}
    journal.close()
    backend.flow_runs.save(run_id, {**told, "name": "nimble-falcon", "flow": "etl", **summary})
    return run_id


def uuid(run_id: RunId) -> str:
    return str(ids.to_uuid(run_id))

"""Results of background runs that outlive the queue's record of them (``persist_result=True``): in the store, by id.

The first that is stored for a run stands. A run may be executed twice, since its claim was taken for lost: then the
second adopts what the first has stored, so that queue and store tell of one result.
"""

from __future__ import annotations

import base64
import time
from typing import Any

from kapstan.backend import Backend
from kapstan.ids import RunId, new_nonce
from kapstan.ports import Outcome

FORMAT = 1


def settled(backend: Backend, outcome: Outcome) -> Outcome:
    """How the run has ended: as ``outcome`` says, which is stored now, or with the result that is stored already.

    Raises:
        BackendError: the store does not answer; nothing is lost, call again.
    """
    if outcome.state not in ("completed", "failed", "crashed"):
        return outcome
    if outcome.state == "completed":
        result = base64.b64encode(outcome.envelope).decode()
        body = {"v": FORMAT, "nonce": new_nonce(), "at": time.time(), "result": result}
        sealed = backend.codec.encode(body, "result", _place(outcome.run_id))
        if backend.store.create(_name(outcome.run_id), sealed):
            return outcome
    envelope = envelope_of(backend, outcome.run_id)
    return outcome if envelope is None else outcome._replace(state="completed", envelope=envelope)


def envelope_of(backend: Backend, run_id: RunId) -> bytes | None:
    """The envelope of the result that is stored for a run; None: none is.

    Raises:
        SignatureError: what is there is not ours, or of another run.
        BackendError: the store does not answer.
    """
    stored = backend.store.get(_name(run_id))
    if stored is None:
        return None
    body: Any = backend.codec.decode_json(stored.body, "result", _place(run_id))
    return base64.b64decode(body["result"])


def _name(run_id: RunId) -> str:
    return f"values/{run_id}/{run_id}/outcome"  # as retention knows values of a background run


def _place(run_id: RunId) -> str:
    return f"{run_id}\0outcome"

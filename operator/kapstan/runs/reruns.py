"""That a person had a background run with an effect begun once more: noted in the store, since its register says that
it failed, and a run that failed is not executed again.

A note names the claim whose end the person saw. It stands among the values of its run, and goes with them.
"""

from __future__ import annotations

from kapstan.backend import Backend
from kapstan.ids import RunId


def note(backend: Backend, run_id: RunId, token: str) -> None:
    """What the claim ``token``, or an earlier one, told of the run is not its end any more."""
    path = _prefix(run_id) + token
    backend.store.put(path, backend.codec.encode(token, "rerun", path))


def is_noted(backend: Backend, run_id: RunId, token: str) -> bool:
    """Whether that was noted of the claim ``token`` or a later one.

    Raises:
        StoreUnavailable, StoreRefused: it cannot be read now.
        SignatureError: somebody else wrote there.
    """
    last = max(backend.store.keys(_prefix(run_id)), default="")
    if last.removeprefix(_prefix(run_id)) < token:
        return False
    stored = backend.store.get(last)
    return stored is not None and backend.codec.decode_json(stored.body, "rerun", last) == last[-len(token) :]


def _prefix(run_id: RunId) -> str:
    return f"values/{run_id}/{run_id}/rerun-"

"""Ends a journal for good: a grave in its place says how the run ended, and that it does not go on.

The grave is written as any record is, under the condition that nobody has written since the journal was looked at. So
of a resume and a burial at the same time one wins, and the other one sees that before it has changed anything.
"""

from __future__ import annotations

from collections.abc import Sequence

from kapstan.codec import Codec
from kapstan.ids import RunId
from kapstan.journal.history import Grave, History, decode, encode, fold, log_name
from kapstan.ports import Store


class Changed(Exception):
    """Another attempt has begun, or the run has ended otherwise, since its journal was read. Nothing was changed."""


def bury(store: Store, codec: Codec, run_id: RunId, seen: History, now: float) -> None:
    """Bury the journal of a run that has ended; harmless to repeat. What it held may be deleted then (``clear``).

    Args:
        seen: what the journal said when it was decided.
        now: Unix seconds.

    Raises:
        ValueError: by what was seen it has not ended.
        Changed: it says something else by now.
        StoreUnavailable, StoreRefused, StoreUnsafe, SignatureError, SerializationError: as ``read_journal``.
    """

    def admit(envelopes: Sequence[bytes]) -> None:
        there = fold(decode(envelope, codec, run_id) for envelope in envelopes)
        if not there.buried and there.attempts != seen.attempts:
            raise Changed(f"flow run {run_id} was begun again or ended otherwise meanwhile")

    last = seen.last
    if last is None or last.end is None or not last.end.end.ends_run:
        raise ValueError(f"flow run {run_id} has not ended")
    grave = Grave(now, last.number, last.started, last.end.end, last.end.at, last.end.message[:200])
    store.log(log_name(run_id)).bury(encode(grave, codec, run_id), admit)

"""Submits under a replace key: which run waits under it is asked first, since its arguments are signed for its id.

Called by ``RedisQueue.replace``; the script decides, and names the run where another call was faster.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kapstan.durability import Durability
from kapstan.errors import QueueUnavailable
from kapstan.ids import RunId, new_id, new_nonce
from kapstan.ports import Submission, Submitted
from kapstan.queue import scripts
from kapstan.queue.record import state_of
from kapstan.queue.submit_call import wishes_of, words_of
from kapstan.queue.wire import pack

_TRIES = 100


def replace(queue: Any, key: str, make: Callable[[RunId], Submission], client: bytes) -> tuple[RunId, Submitted]:
    """See ``ports.Queue.replace``.

    Args:
        client: the 8 characters of the submitting process.
    """
    nonce = new_nonce()[-8:]
    known = queue.command(pack("GETRANGE", f"{queue.prefix}rk:{key}", 0, 21))
    run_id: RunId = known.decode() or new_id()
    for _ in range(_TRIES):
        submission = make(run_id)
        call = queue.call if submission.durability is not Durability.AOF else queue.call_synced
        words = (*words_of(submission, client, queue.settings.result_ttl_seconds), *wishes_of(submission))
        _, answer, letter, current = call(scripts.replace.pack(queue.prefix, key, nonce, *words))
        if answer == b"OTHER":
            run_id = current.decode()
        elif answer in (b"TAKEN", b"CONFLICT"):
            run_id = new_id()
        else:
            return current.decode(), Submitted(state_of(letter[0]), answer == b"REPLACED")
    raise QueueUnavailable(f"key {key}: others replaced its run {_TRIES} times while this call tried to")

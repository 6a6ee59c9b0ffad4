"""The call of ``scripts.submit`` for one run, and what its reply says."""

from __future__ import annotations

from functools import lru_cache

from kapstan.errors import ConfigurationError
from kapstan.ids import ID_LENGTH, RunId
from kapstan.ports import Submission, Submitted
from kapstan.queue import scripts
from kapstan.queue.record import place_of_run, state_of, tail_of

_MARKS = {ord("0"): False, ord("1"): True}  # new, duplicate


def packed(prefix: str, submission: Submission, client: bytes, ttl: int) -> bytes:
    """The call as it goes over the wire.

    Args:
        client: the 8 characters of the submitting process.
        ttl: seconds for which the record stays after its end.

    Raises:
        ConfigurationError: a field that cannot be.
    """
    _, place, tail, _ = words = words_of(submission, client, ttl)
    if submission.delay or submission.expires is not None or submission.after:
        return scripts.submit.pack(prefix, *words, *wishes_of(submission))
    run_id = submission.run_id.encode()
    if len(run_id) != ID_LENGTH:
        return scripts.submit.pack(prefix, *words)
    head, between, end = _frame(prefix, place, ttl)
    return b"%b%b%b$%d\r\n%b%b" % (head, run_id, between, len(tail), tail, end)


def words_of(submission: Submission, client: bytes, ttl: int) -> tuple[RunId, str, bytes, int]:
    """What the script takes, up to the wishes."""
    return submission.run_id, place_of_run(submission), tail_of(submission, client), ttl


def wishes_of(submission: Submission) -> tuple[int, int | str, str]:
    """When the run is to begin, as scripts take it."""
    return milliseconds(submission.delay), expires_ms(submission), "".join(submission.after)


@lru_cache(maxsize=4096)
def _frame(prefix: str, place: str, ttl: int) -> tuple[bytes, bytes, bytes]:
    """What stands before the run id, before the length of the tail, and behind the tail, in a call without wishes;
    packing each call anew takes a microsecond."""
    run_id, tail = "?" * ID_LENGTH, b"\0"  # no place holds a NUL
    head, _, rest = scripts.submit.pack(prefix, run_id, place, tail, ttl).partition(run_id.encode())
    between, _, end = rest.partition(b"$1\r\n" + tail)
    return head, between, end


@lru_cache(maxsize=64)
def submitted_of(reply: bytes) -> Submitted | None:
    """What the reply says; None of a conflict."""
    _, letter, mark = reply
    return None if mark == ord("!") else Submitted(state_of(letter), _MARKS[mark])


def milliseconds(seconds: float, what: str = "delay") -> int:
    if not 0 <= seconds < 10 * 366 * 86400:
        raise ConfigurationError(f"{what}={seconds!r}: give 0 seconds to ten years")
    return round(seconds * 1000)


def expires_ms(submission: Submission) -> int | str:
    return "" if submission.expires is None else milliseconds(submission.expires, "expires")

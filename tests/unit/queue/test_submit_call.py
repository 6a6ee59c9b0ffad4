"""A submit that is put together from parts is, byte by byte, the call that is packed as a whole."""

from __future__ import annotations

import pytest

from kapstan.ids import new_id
from kapstan.ports import Submission
from kapstan.queue import scripts, submit_call

PLAIN = Submission(new_id(), "shop.tasks:charge", b"the envelope\r\n$1\r\n\0", "0123456789abcdef")


@pytest.mark.parametrize(
    "submission",
    [
        PLAIN,
        PLAIN._replace(queue="slow", priority=-5, group="$1\r\n? ü".replace("\r\n", " ")),
        PLAIN._replace(group="?" * 22),
        PLAIN._replace(envelope=b""),
        PLAIN._replace(run_id="another's"),
        PLAIN._replace(run_id="ü" * 22),
    ],
)
@pytest.mark.parametrize("prefix", ["{default}:", "{?}:"])
def test_it_is_the_same_call(prefix: str, submission: Submission) -> None:
    words = submit_call.words_of(submission, b"client-1", 86400)
    assert submit_call.packed(prefix, submission, b"client-1", 86400) == scripts.submit.pack(prefix, *words)


def test_wishes_follow_where_there_are_any() -> None:
    submission = PLAIN._replace(delay=1.5, after=(new_id(), new_id()))
    wishes = ("1500", "", "".join(submission.after))
    words = submit_call.words_of(submission, b"client-1", 86400)
    assert submit_call.packed("{a}:", submission, b"client-1", 86400) == scripts.submit.pack("{a}:", *words, *wishes)

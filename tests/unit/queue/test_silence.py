"""How long a session counts as silent: by the watcher's own clock, while it saw Redis answer."""

from __future__ import annotations

from kapstan.queue.silence import Silence

ERA = b"000001"


def watched(moments: list[float], beat: float = 2.5, lease: float = 10.0) -> Silence:
    """A watch whose renewals were answered at ``moments``, numbered 1, 2, ..."""
    silence = Silence(beat, lease)
    for number, moment in enumerate(moments, 1):
        silence.answered(moment, number, ERA)
    return silence


def test_a_session_is_silent_since_the_first_answer_that_showed_its_last_renewal() -> None:
    silence = watched([100.0, 102.5, 105.0, 107.5, 110.0])
    assert [silence.of(number) for number in (0, 1, 2, 5, 6)] == [10.0, 10.0, 7.5, 0.0, 0.0]
    assert silence.last == 5


def test_a_pause_counts_as_a_beat_at_most() -> None:
    assert watched([100.0, 102.5, 111.0]).of(1) == 5.0
    assert watched([100.0, 100.5, 101.0]).of(1) == 1.0


def test_a_pause_of_a_lease_begins_anew() -> None:
    silence = watched([100.0, 102.5, 105.0, 107.5, 118.0])
    assert silence.of(1) == 0.0
    silence.answered(120.5, 6, ERA)
    assert silence.of(1) == 2.5


def test_another_start_of_the_server_begins_anew() -> None:
    silence = watched([100.0, 102.5, 105.0])
    silence.answered(107.5, 2, b"000002")
    assert (silence.of(1), silence.last) == (0.0, 2)


def test_a_long_watch_is_thinned_and_says_too_little_rather_than_too_much() -> None:
    silence = watched([100.0 + number for number in range(2000)])
    for number in range(1, 2000, 37):
        assert silence.of(number) <= 2000 - number
    assert silence.of(1) > 500
    assert silence.of(1990) == 10.0


def test_nothing_is_known_before_the_first_answer() -> None:
    assert (Silence(2.5, 10.0).of(0), Silence(2.5, 10.0).last) == (0.0, -1)

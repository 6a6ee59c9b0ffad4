"""What a journal says afterwards, on every store: attempts, outcomes, retries; and who may read and open it."""

from __future__ import annotations

from typing import Any

import pytest

from kapstan.codec import Codec
from kapstan.errors import Fenced, OtherFlow, SerializationError, SignatureError
from kapstan.ids import RunId, new_id
from kapstan.journal import (
    Attempt,
    AttemptEnd,
    History,
    Journal,
    Retry,
    TaskOutcome,
    log_name,
    read_journal,
)
from kapstan.journal.history import decode_all, encode
from kapstan.ports import Store
from kapstan.signing_key import SigningKey


def outcome(key: str, state: str = "COMPLETED", value: bytes | None = b"\x00value") -> TaskOutcome:
    return TaskOutcome(key, "m:task", "task-1", state, at=3.0, value=value)


def test_a_run_without_a_journal_has_an_empty_history(store: Store, codec: Codec, run_id: RunId) -> None:
    history = read_journal(store, codec, run_id)
    assert (history, history.last, history.end) == (History(), None, None)


def test_every_field_comes_back(store: Store, codec: Codec, run_id: RunId) -> None:
    full = TaskOutcome(
        "k1", "m:é", "n\ud800", "FAILED", "Rolled back", "line\nbreak", 3, 9.5, bytes(range(256)), "a", "x=1, y='ü'"
    )
    bare = outcome("k2", value=None)
    end = AttemptEnd(1, "Suspended", 5.0, "waits", b"\xff\x00", 77.5)
    journal = Journal(store, codec, run_id)
    assert journal.open(1, host="pod", now=2.0, retries=3, token="t1") == History()
    journal.append(full, bare)
    journal.append(end)
    journal.close()
    history = read_journal(store, codec, run_id)
    assert list(history.outcomes.items()) == [("k1", full), ("k2", bare)]
    assert history.attempts == (Attempt(1, "t1", 2.0, "pod", end, retries=3),)
    assert history.end == end


def test_the_next_attempt_finds_what_was_done_and_fences_the_one_before(
    store: Store, codec: Codec, run_id: RunId
) -> None:
    first = Journal(store, codec, run_id)
    first.open(1, host="a", now=1.0)
    first.append(outcome("k1"))
    second = Journal(store, codec, run_id)
    history = second.open(2, host="b", now=2.0)
    assert list(history.outcomes) == ["k1"]
    assert [(attempt.number, attempt.end) for attempt in history.attempts] == [(1, None)]
    with pytest.raises(Fenced):
        first.append(outcome("late"))
    with pytest.raises(Fenced):
        first.post(outcome("later"), lambda error: None)
    first.close()
    second.append(outcome("k2"))
    second.append(AttemptEnd(2, "Completed", 3.0))
    second.close()
    history = read_journal(store, codec, run_id)
    assert list(history.outcomes) == ["k1", "k2"]
    assert [(attempt.number, attempt.end and attempt.end.end) for attempt in history.attempts] == [
        (1, None),
        (2, "Completed"),
    ]


@pytest.mark.parametrize("attempt", [1, 2])
def test_a_late_process_of_the_same_or_a_lower_attempt_disturbs_nobody(
    store: Store, codec: Codec, run_id: RunId, attempt: int
) -> None:
    current = Journal(store, codec, run_id)
    current.open(2, host="a", now=1.0)
    late = Journal(store, codec, run_id)
    with pytest.raises(Fenced, match=f"attempt 2 of run {run_id} has begun; attempt {attempt} must not go on"):
        late.open(attempt, host="b", now=2.0)
    late.close()
    current.append(outcome("k1"))
    current.close()


def test_a_retry_drops_what_did_not_complete_and_counts(store: Store, codec: Codec, run_id: RunId) -> None:
    journal = Journal(store, codec, run_id)
    journal.open(1, host="a", now=1.0)
    journal.append(outcome("good"), outcome("bad", "FAILED"))
    journal.append(Retry(1, 2.0))
    journal.append(outcome("bad", "FAILED"), outcome("crashed", "CRASHED"))
    assert list(read_journal(store, codec, run_id).outcomes) == ["good", "bad", "crashed"]
    journal.append(Retry(2, 2.0))
    journal.append(outcome("bad"))
    journal.append(Retry(0, 3.0, by_hand=True))
    journal.close()
    history = read_journal(store, codec, run_id)
    assert {key: found.state for key, found in history.outcomes.items()} == {"good": "COMPLETED", "bad": "COMPLETED"}
    assert history.retries == 0  # a person renews them
    assert history.run_count == 4


def test_a_journal_is_of_one_flow(store: Store, codec: Codec, run_id: RunId) -> None:
    Journal(store, codec, run_id).open(1, host="a", now=1.0, flow="shop:main")
    with pytest.raises(OtherFlow, match="is of the flow 'shop:main', not of 'shop:other'"):
        Journal(store, codec, run_id).open(2, host="a", now=2.0, flow="shop:other")
    assert len(read_journal(store, codec, run_id).attempts) == 1, "nothing was changed"
    Journal(store, codec, run_id).open(2, host="a", now=3.0)  # one that only ends the run
    assert Journal(store, codec, run_id).open(3, host="a", now=4.0, flow="shop:main").flow == "shop:main"


def test_a_record_of_another_run_or_key_is_refused(store: Store, codec: Codec, run_id: RunId) -> None:
    journal = Journal(store, codec, run_id)
    journal.open(1, host="a", now=1.0)
    journal.close()
    other = new_id()
    moved = store.log(log_name(other))
    moved.open(store.log(log_name(run_id)).read()[0])
    moved.close()
    with pytest.raises(SignatureError, match="was changed or moved"):
        read_journal(store, codec, other)
    with pytest.raises(SignatureError, match="which is not of namespace"):
        read_journal(store, Codec("ns", [SigningKey.of(b"x" * 32)]), run_id)


def test_records_of_two_signing_keys_are_read_and_a_changed_one_is_refused(
    local: Store, codec: Codec, run_id: RunId
) -> None:
    newer = Codec("ns", [SigningKey.of(b"n" * 32), SigningKey.of(b"k" * 32)])
    records = [*(outcome(f"old {number}") for number in range(3)), *(outcome(f"new {number}") for number in range(3))]
    envelopes = [encode(record, codec if "old" in record.key else newer, run_id) for record in records]
    assert list(decode_all(envelopes, newer, run_id)) == records
    with pytest.raises(SignatureError, match="which is not of namespace"):
        list(decode_all(envelopes, codec, run_id))
    for at in (1, 4):
        for place in (10, len(envelopes[at]) // 2, len(envelopes[at]) - 1):
            changed = bytearray(envelopes[at])
            changed[place] ^= 1
            with pytest.raises(SignatureError, match="was changed or moved"):
                list(decode_all([*envelopes[:at], bytes(changed)], newer, run_id))


@pytest.mark.parametrize("body", [{"v": 99, "kind": "outcome"}, {"v": 1, "kind": "novelty"}])
def test_a_record_of_a_newer_release_is_refused(
    local: Store, codec: Codec, run_id: RunId, body: dict[str, object]
) -> None:
    log = local.log(log_name(run_id))
    log.open(codec.encode(body, "journal", run_id))
    log.close()
    with pytest.raises(
        SerializationError, match=f"holds a record '{body['kind']}' of format {body['v']}, which a newer"
    ):
        read_journal(local, codec, run_id)


def test_an_attempt_that_cannot_read_a_record_leaves_the_journal_as_it_is(
    store: Store, codec: Codec, run_id: RunId
) -> None:
    newer = store.log(log_name(run_id))
    newer.open(codec.encode({"v": 1, "kind": "novelty"}, "journal", run_id))
    before = newer.read()
    older = Journal(store, codec, run_id)
    with pytest.raises(SerializationError, match="which a newer release wrote"):
        older.open(2, host="a", now=1.0)
    assert newer.read() == before
    newer.append([b"more"])  # it is not fenced
    newer.close()


def test_fields_of_a_newer_release_are_ignored(local: Store, codec: Codec, run_id: RunId) -> None:
    body = {"v": 1, "kind": "opening", "attempt": 1, "token": "t", "started": 1.0, "host": "h", "planet": "earth"}
    log = local.log(log_name(run_id))
    log.open(codec.encode(body, "journal", run_id))
    log.close()
    assert read_journal(local, codec, run_id).attempts == (Attempt(1, "t", 1.0, "h"),)


def test_reading_never_unpickles(local: Store, codec: Codec, run_id: RunId) -> None:
    journal = Journal(local, codec, run_id)
    journal.open(1, host="a", now=1.0)
    pickled = codec.encode({1, 2}, "result", "k1")
    journal.append(outcome("k1", value=pickled))
    journal.close()
    blind = Codec("ns", [SigningKey.of(b"k" * 32)], allow_pickle=False)
    assert read_journal(local, blind, run_id).outcomes["k1"].value == pickled
    log = local.log(log_name(run_id))
    log.open(codec.encode({1}, "journal", run_id))
    log.close()
    with pytest.raises(SerializationError, match="this journal is not JSON but pickled"):
        read_journal(local, codec, run_id)


def test_an_open_decodes_each_record_once(
    store: Store, codec: Codec, run_id: RunId, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resume of ten thousand outcomes spends its time here."""
    first = Journal(store, codec, run_id)
    first.open(1, host="a", now=1.0)
    first.append(*(outcome(f"k{number}") for number in range(20)))
    first.close()
    decoded: list[bytes] = []

    def counted(envelopes: list[bytes], *rest: Any) -> Any:
        decoded.extend(envelopes)
        return decode_all(envelopes, *rest)

    monkeypatch.setattr("kapstan.journal.writer.decode_all", counted)
    second = Journal(store, codec, run_id)
    assert len(second.open(2, host="b", now=2.0).outcomes) == 20
    second.close()
    assert len(decoded) == len(set(decoded)) == 21

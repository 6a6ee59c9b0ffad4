"""What a journal's records are, and what they add up to. No user code is run to read them, nothing is unpickled.

Records are signed JSON with a format version; fields that this release does not know are ignored. A kind that it does
not know refuses the whole journal: this release cannot know whether it ends the run or drops outcomes. A record that
stands twice counts once (a signal may interrupt a write, which is then made again).
"""

from __future__ import annotations

import binascii
import json
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, cast

from kapstan.codec import JSON, Codec
from kapstan.errors import SerializationError
from kapstan.ids import RunId
from kapstan.ports import Doubt, Store
from kapstan.states import AttemptOutcome, EffectClass

FORMAT = 1
READABLE = (FORMAT,)  # this format and the one before it


@dataclass(frozen=True, slots=True)
class Opening:
    """An attempt began. Times are seconds since 1970."""

    attempt: int
    token: str
    """New for every process start."""
    started: float
    host: str = ""
    retries: int = 0
    """How many retries the flow's policy grants."""
    flow: str = ""
    """Identity of the flow that this attempt executes; "" for an attempt that only ends the run."""
    caller: RunId | None = None
    """The flow run or background run that called this one, "" for none; None: an older release, which did not write
    it."""
    deployment: str = ""
    """Name of the deployment that the run was made from, "" for none."""


@dataclass(frozen=True, slots=True)
class Grave:
    """The run has ended and its journal was removed: this is all that is left, so that its id does not come back."""

    at: float
    """When it was buried."""
    attempt: int
    started: float
    end: AttemptOutcome
    """How the run ended."""
    ended: float
    message: str = ""


@dataclass(slots=True)  # not frozen: made for every task call, and ten thousand times in a resume
class TaskOutcome:
    """A task call ended (or anything else that a memo key names)."""

    key: RunId
    """Memo key, and the id of the task run."""
    task: str
    """Task identity."""
    name: str
    """Name of the task run."""
    state: str
    """Type of the final state, such as ``COMPLETED``."""
    state_name: str = ""
    message: str = ""
    run_count: int = 1
    at: float = 0.0
    value: bytes | None = None
    """Signed envelope of the result or failure, or of a reference to it. None: ended without a value that can be kept,
    so that a resumed run makes the call again."""
    effect: EffectClass = EffectClass.PURE
    inputs: str = ""
    """The inputs in short, for people, and for the difference that is shown when a resumed run parks."""
    position: str = ""
    """Which call it is, whatever its inputs: branch and number of the call."""
    background: bool = False
    """A run that the flow submitted to the queue. Its state is SCHEDULED until the flow has seen its end; ``run_count``
    is 1 more for each time that the flow, starting over, submitted it anew."""
    left: bytes | None = None
    """What a task of a transaction left for its hooks: signed envelope of a dict."""
    register: str = ""
    """Of a task of a transaction: the key under which it was committed, released when the transaction is undone."""
    undone: tuple[RunId, ...] = ()
    """Of a transaction that was rolled back: the calls that go with it when the flow starts over. With the name
    ``Undone`` they, and this record, are gone at once: a retry of the task around them makes them anew."""


@dataclass(frozen=True, slots=True)
class Retry:
    """The flow starts over within its run: outcomes that are not COMPLETED before this record no longer count.

    ``number`` counts the flow's own retries, from 1; ``by_hand`` says that a person asked, which spends none.
    """

    number: int
    at: float
    message: str = ""
    by_hand: bool = False


@dataclass(frozen=True, slots=True)
class AttemptEnd:
    """An attempt ended in an orderly way. An attempt that began and has no such record was lost."""

    attempt: int
    end: AttemptOutcome
    """Any but LOST."""
    at: float
    message: str = ""
    result: bytes | None = None
    """Signed envelope of the flow's result or failure, or of a reference to it."""
    until: float | None = None
    """Suspended: when to go on; None: at a signal."""
    doubt: Doubt | None = None
    """Suspended: for an effect of which nobody knows whether it happened."""


Record = Opening | TaskOutcome | Retry | AttemptEnd | Grave

_KINDS: dict[str, type[Record]] = {
    "opening": Opening,
    "outcome": TaskOutcome,
    "retry": Retry,
    "end": AttemptEnd,
    "grave": Grave,
}
_FIELDS = {kind: [(entry.default, f',"{entry.name}":') for entry in fields(kind)] for kind in _KINDS.values()}
_VALUES = {kind: operator.attrgetter(*(entry.name for entry in fields(kind))) for kind in _KINDS.values()}
_NAMES = {kind: frozenset(entry.name for entry in fields(kind)) for kind in _KINDS.values()}
_HEADS = {kind: f'{{"v":{FORMAT},"kind":"{name}"' for name, kind in _KINDS.items()}
_quoted = json.encoder.encode_basestring


def encode(record: Record, codec: Codec, run_id: RunId) -> bytes:
    kind = type(record)
    parts = [_HEADS[kind]]
    for value, (default, label) in zip(_VALUES[kind](record), _FIELDS[kind], strict=True):
        if value != default:  # by hand where most of them are told: this is on the way of every task call
            parts += label, _quoted(value) if type(value) is str else _to_json(value)
    parts.append("}")
    return codec.seal(JSON, "".join(parts).encode("utf-8", "backslashreplace"), "journal", run_id)


def _to_json(value: Any) -> str:
    """``value`` as JSON, bytes in base 64. By hand: this is on the way of every task call, and makes no encoder."""
    kind = cast("type[Any]", type(value))
    if kind is str:
        return _quoted(value)
    if kind is bytes:
        return f'"{binascii.b2a_base64(value, newline=False).decode()}"'
    if kind is int or (kind is float and math.isfinite(value)):
        return repr(value)
    return json.dumps(value, ensure_ascii=False)


def decode(envelope: bytes, codec: Codec, run_id: RunId) -> Record:
    return _record(codec.decode_json(envelope, "journal", run_id), run_id)


def decode_all(envelopes: Iterable[bytes], codec: Codec, run_id: RunId) -> Iterator[Record]:
    """The records of ``run_id`` that stand in ``envelopes``, one after the other.

    Raises:
        SignatureError, SerializationError: as ``read_journal``.
    """
    read = codec.json_reader("journal", run_id)
    for envelope in envelopes:
        yield _record(read(envelope), run_id)


def _record(body: dict[str, Any], run_id: RunId) -> Record:
    kind = _KINDS.get(body.get("kind", ""))
    if body.get("v") not in READABLE or kind is None:
        raise SerializationError(
            f"the journal of {run_id} holds a record {body.get('kind')!r} of format {body.get('v')!r}, which a newer "
            f"release wrote; this one reads {READABLE}"
        )
    del body["v"], body["kind"]
    try:
        for name, read in _READ[kind]:
            if name in body:
                body[name] = read(body[name], run_id)
    except (TypeError, ValueError) as error:
        raise SerializationError(f"the journal of {run_id} holds a record that is none: {error}") from None
    try:
        return kind(**body)
    except TypeError:  # fields of a newer release
        return kind(**{name: value for name, value in body.items() if name in _NAMES[kind]})


def _bytes(text: str, _: RunId) -> bytes:
    return binascii.a2b_base64(text)


def _ids(keys: list[str], _: RunId) -> tuple[RunId, ...]:
    return tuple(keys)


def _doubt(parts: list[str], _: RunId) -> Doubt:
    return Doubt(*parts[:3])


def _word_of(known: type[AttemptOutcome] | type[EffectClass]) -> Callable[[str, RunId], AttemptOutcome | EffectClass]:
    def read(word: str, run_id: RunId) -> AttemptOutcome | EffectClass:
        try:
            return known(word)
        except ValueError:
            raise SerializationError(
                f"the journal of {run_id} says {word!r}, which this release does not know; it knows " + ", ".join(known)
            ) from None

    return read


_READERS: dict[str, Callable[[Any, RunId], Any]] = {
    "value": _bytes,
    "result": _bytes,
    "left": _bytes,
    "undone": _ids,
    "doubt": _doubt,
    "end": _word_of(AttemptOutcome),
    "effect": _word_of(EffectClass),
}
_READ = {kind: [(name, _READERS[name]) for name in names if name in _READERS] for kind, names in _NAMES.items()}
"""What does not stand in JSON as it is, by kind of record: name of the field, and what reads it."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt; ``end`` is None while it runs and for ever when it was lost."""

    number: int
    token: str
    started: float
    host: str
    end: AttemptEnd | None = None
    retries: int = 0
    """As in its opening."""


@dataclass(frozen=True, slots=True)
class History:
    """What a journal says.

    Attributes:
        outcomes: by memo key, in the order in which they were first recorded; those that a retry dropped are not there.
        retries: how many of the flow's own retries were begun, since a person last started it again.
        run_count: how often the flow's function was begun, losses of a process left out.
    """

    attempts: tuple[Attempt, ...] = ()
    outcomes: Mapping[RunId, TaskOutcome] = field(default_factory=dict[RunId, TaskOutcome])
    retries: int = 0
    run_count: int = 1
    flow: str = ""
    """Identity of the flow, as the first attempt that executed one noted it."""
    caller: RunId | None = None
    """As in the first opening that tells."""
    deployment: str = ""
    buried: bool = False
    """Only how it ended is still known: the journal was removed when its time was over."""

    @property
    def last(self) -> Attempt | None:
        """The latest attempt; None if none has begun."""
        return self.attempts[-1] if self.attempts else None

    @property
    def end(self) -> AttemptEnd | None:
        """How the latest attempt ended; None if it has not, was lost, or none has begun."""
        return self.attempts[-1].end if self.attempts else None


def fold(records: Iterable[Record]) -> History:
    attempts: list[Attempt] = []
    outcomes: dict[RunId, TaskOutcome] = {}
    retries, run_count = 0, 1
    flow = deployment = ""
    caller: RunId | None = None
    last_retry: Retry | None = None
    for record in records:
        match record:
            case Opening():
                flow, deployment = flow or record.flow, deployment or record.deployment
                caller = record.caller if caller is None else caller
                attempts.append(
                    Attempt(record.attempt, record.token, record.started, record.host, retries=record.retries)
                )
            case TaskOutcome():
                outcomes[record.key] = record
                if record.state_name == "Undone":
                    for key in (record.key, *record.undone):
                        outcomes.pop(key, None)
            case Retry():
                outcomes = after_retry(outcomes)
                retries = 0 if record.by_hand else max(retries, record.number)
                run_count += record != last_retry
                last_retry = record
            case AttemptEnd():
                attempts[-1] = replace(attempts[-1], end=record)
            case Grave():
                end = AttemptEnd(record.attempt, record.end, record.ended, record.message)
                return History((Attempt(record.attempt, "", record.started, "", end),), buried=True)
    return History(tuple(attempts), outcomes, retries, run_count, flow, caller, deployment)


def after_retry(outcomes: Mapping[RunId, TaskOutcome]) -> dict[RunId, TaskOutcome]:
    """What counts of ``outcomes`` when the flow starts over: what completed and was not undone by its transaction, and
    that something was submitted."""
    undone = {key for outcome in outcomes.values() for key in outcome.undone}
    return {
        key: outcome if outcome.state == "COMPLETED" else replace(outcome, state="SCHEDULED", value=None)
        for key, outcome in outcomes.items()
        if (outcome.state == "COMPLETED" and key not in undone) or outcome.background
    }


def log_name(run_id: RunId) -> str:
    """Where the journal of ``run_id`` stands; in an object store everything below it belongs to the journal."""
    return f"flows/{run_id}"


def read_journal(store: Store, codec: Codec, run_id: RunId) -> History:
    """What the journal says now, without taking the run over. An empty history if there is no journal.

    Raises:
        StoreUnavailable, StoreRefused: the store.
        StoreUnsafe: the journal is damaged.
        SignatureError, SerializationError: it was written with another key, or by a newer release.
    """
    return fold(decode_all(store.log(log_name(run_id)).read(), codec, run_id))

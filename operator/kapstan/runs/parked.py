"""Keys whose effect is in doubt: finds them, shows what is known, and writes what a person decides. Runs that wait for
the decision go on.

What a person says is written by one conditional change, so of two that decide at once one is told that the other was
faster.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from kapstan import ids
from kapstan.backend import Backend
from kapstan.codec import exact_json
from kapstan.errors import NotFound, NotPossible
from kapstan.ports import BackgroundFilter, Entry, RegisterEvent, RegisterKey, RegisterRecord, RegisterState
from kapstan.runs import deaths

_KEY = re.compile(r"[A-Za-z2-7]{52}(@.+)?")
_SHORTENED = re.compile(r"-[0-9a-f]{32}$")  # a task whose identity is too long for a path, as ``all_keys`` gives it
_PAGE = 200
_CLOCK_ERROR = 1.0  # of the time that an S3 store tells, in whole seconds


def is_key(text: str) -> bool:
    """Whether ``text`` is that of a key, and not the id of a run."""
    return _KEY.fullmatch(text) is not None


def horizon_left(record: RegisterRecord, horizon: float, now: float) -> float:
    """Seconds until a request of the dead process cannot arrive any more.

    Args:
        now: by the store's clock.
    """
    return max(0.0, record.at + horizon + _CLOCK_ERROR - now) if horizon else 0.0


class ParkedKeys:
    """Operations on the registers of one backend.

    Raises (every method):
        StoreUnavailable: the store is away.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._register = backend.register

    def find(self, text: str) -> RegisterKey:
        """The key that is given, or that of the parked background run with this id.

        Raises:
            NotFound: neither.
            NotPossible: the run is not parked.
        """
        if is_key(text):
            for key in self._register.all_keys(RegisterKey.of("", text).storage):
                if key.text == text:
                    return key
            raise NotFound(f"no register has the key {text}")
        try:
            run_id = ids.parse(text)
        except ValueError:
            raise NotFound(f"{text!r} is neither the id of a task run nor a key of 52 characters") from None
        record = self._backend.queue.record(run_id)
        if record is None:
            raise NotFound(f"the queue does not know task run {text}; of a task in a flow, give the key")
        if record.state != "parked":
            raise NotPossible(f"task run {text} is {record.state} and not parked")
        return RegisterKey.of(record.task, record.key)

    def view(self, key: RegisterKey) -> dict[str, Any]:
        """What is known, for people.

        Raises:
            NotFound: nothing.
        """
        record = self._read(key).record
        holder = None if record.holder is None else asdict(record.holder)
        return {
            "task": key.task,
            "key": key.text,
            "state": record.state.value,
            "epoch": record.epoch,
            "effect": record.effect.name.lower(),
            "begun": record.begun,
            "at": record.at,
            "holder": holder,
            "evidence": dict(record.evidence),
        }

    def say_ended(self, key: RegisterKey) -> None:
        """A person has made sure that the process which holds ``key`` has ended, as of a machine that is gone for good:
        now its effect is in doubt.

        Raises:
            NotPossible: nobody holds it.
        """
        entry = self._read(key)
        if entry.record.state is not RegisterState.INTENT:
            raise NotPossible(f"key {key.key} is {entry.record.state} and not held")
        horizon = entry.record.evidence.get("horizon", 60.0)
        evidence = {**entry.record.evidence, "horizon": horizon, "seen": "a person says that its process has ended"}
        self._decide(key, entry, RegisterEvent.PARK, evidence=evidence)

    def say_applied(self, key: RegisterKey, result: Any, epoch: int | None = None) -> None:
        """The effect happened, and this is its result.

        Args:
            epoch: which execution was looked at, as ``view`` shows it; None: whichever is in doubt now.

        Raises:
            NotPossible: it is not in doubt (any more), or another execution is; or the result is not JSON.
        """
        if not exact_json(result):
            raise NotPossible(f"{result!r} is not JSON")
        entry = self._in_doubt(key, epoch)
        sealed = self._backend.codec.encode(result, "result", self._register.path(key))
        self._decide(key, entry, RegisterEvent.APPLIED, outcome="completed", result=sealed)

    def say_not_applied(self, key: RegisterKey, epoch: int | None = None) -> None:
        """The effect did not happen: the next run executes it.

        Args:
            epoch: as ``say_applied``. Without it, an answer about one execution can reach the one after it.

        Raises:
            NotPossible: it is not in doubt (any more), or another execution is; or its process may live, or a request
                of it may still arrive: then nobody can know.
        """
        entry = self._in_doubt(key, epoch)
        record = entry.record
        ended: Mapping[str, Any] | None = record.evidence if record.evidence.get("ended") else None
        if ended is None and record.holder is not None:
            ended = deaths.end_of(self._backend, record.holder) or (
                record.evidence if "seen" in record.evidence else None
            )
        if ended is None:
            raise NotPossible(
                f"key {key.key}: the process that held it may live, so nobody can say that it did nothing"
            )
        left = horizon_left(record, float(record.evidence.get("horizon", 60.0)), self._backend.store_time())
        if left > 0:
            raise NotPossible(
                f"key {key.key}: a request that was under way may still arrive; say it again in {left:.0f} s "
                "(effect_horizon)"
            )
        self._decide(key, entry, RegisterEvent.NOT_APPLIED)

    def go_on(self, key: RegisterKey) -> list[str]:
        """Have the parked background runs of ``key`` look at it again, which somebody has decided on; their ids."""
        gone_on: list[str] = []
        runs, cursor = self._backend.background_runs, ""
        task = "" if _SHORTENED.search(key.task) else key.task
        while True:
            page = runs.page(BackgroundFilter(frozenset({"parked"}), task=task), _PAGE, cursor)
            for listed in page.runs:
                if listed.record.key == key.text:
                    runs.rerun(listed.record.run_id)
                    gone_on.append(str(ids.to_uuid(listed.record.run_id)))
            if page.cursor is None:
                return gone_on
            cursor = page.cursor

    def _read(self, key: RegisterKey) -> Entry:
        entry = self._register.read(key)
        if entry is None:
            raise NotFound(f"nothing is known of key {key.key} of {key.task}")
        return entry

    def is_decided(self, key: RegisterKey) -> bool:
        """Whether it is known what became of the effect: runs that are parked can go on."""
        return self._read(key).record.state not in (RegisterState.PARKED, RegisterState.INTENT)

    def _in_doubt(self, key: RegisterKey, epoch: int | None) -> Entry:
        entry = self._read(key)
        if entry.record.state is not RegisterState.PARKED:
            raise NotPossible(f"key {key.key} is {entry.record.state} and not in doubt")
        if epoch is not None and entry.record.epoch != epoch:
            raise NotPossible(
                f"key {key.key}: epoch {epoch} is over, epoch {entry.record.epoch} is in doubt now; look at it again"
            )
        return entry

    def _decide(self, key: RegisterKey, entry: Entry, event: RegisterEvent, **fields: Any) -> None:
        at = self._backend.store_time()
        if self._register.change(key, entry, event, entry.record.effect, at=at, **fields) is None:
            raise NotPossible(f"key {key.key}: somebody else was faster; it is {self._read(key).record.state} now")

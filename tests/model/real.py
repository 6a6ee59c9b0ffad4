"""The real queue beside the model: a run in a real Redis, changed by the real scripts.

Scripts are called directly, without the lane's connection that repeats what was lost, so that each lost reply and each
late call is the walk's own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.contract.queue.makers import TASK, Register, run
from tests.model.design import World
from tests.model.state import (
    DONE,
    ENDED,
    EPOCH,
    ERA,
    FAILED,
    HOLDER,
    PARKED_RUN,
    QUEUE,
    READY,
    RUNNING,
)

from kapstan.ids import RunId, Token
from kapstan.ports import Outcome, RunState
from kapstan.queue import scripts
from kapstan.queue.holding import Held, claimed, hand_in, minted
from kapstan.queue.redis import RedisQueue
from kapstan.queue.wire import pack

NAMES: dict[int, RunState] = {
    READY: "ready",
    RUNNING: "running",
    DONE: "completed",
    FAILED: "failed",
    PARKED_RUN: "parked",
    ENDED: "cancelled",
}
TTL = 3600
_runs = itertools.count(1)


@dataclass
class Real:
    """One run in Redis.

    Attributes:
        held: by process: what it holds, as its lane knows it.
        copy: what the older copy of Redis holds: every key and its DUMP.
    """

    world: World
    queue: RedisQueue
    eras: Register
    held: dict[int, dict[RunId, Held]] = field(default_factory=dict[int, "dict[RunId, Held]"])
    copy: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])

    def begin(self) -> None:
        self.open_sessions([1 + index for index in range(self.world.workers)])
        submission = run(effect=self.world.effect)
        self.run_id = submission.run_id
        self.queue.submit(submission)
        self.copied()

    # ------------------------------------------------------------------ Redis

    def session(self, process: int) -> str:
        return f"process-{process}"

    def open_sessions(self, processes: list[int]) -> None:
        info = f'{{"routes":["{TASK}"],"lanes":1,"lease":10000}}'.ljust(80)
        for process in processes:
            while True:
                reply = self._call(scripts.renew, self.session(process), info, 1, TTL, -1, 0)
                if reply[1] == b"OK":
                    break
                self.raised(reply[2].decode(), int(reply[3]))

    def raised(self, start: str, stored: int) -> None:
        era = self.eras.raise_for(start, stored)
        assert self._call(scripts.set_era, f"{era:06d}", start)[1] == b"OK"

    def claim(self, process: int, *, lost: bool = False) -> tuple[str, bool]:
        """Claim the run; its token, and whether it is to be cancelled. ``lost``: the process does not hear of it."""
        reply = self._call(scripts.step, self.session(process), 0, "", 0, 1, TTL, 1, TASK, 1)
        assert reply[3], "the run can be claimed"
        _, record = reply[3]
        made = minted(reply[4], record[8:16], reply[5], self.session(process).encode())
        claim, held = claimed(self.run_id, made, record)
        if not lost:
            self.held[process] = {self.run_id: held}
        return made.text, claim.cancelled

    def hand_in(self, process: int, token: Token, state: RunState) -> bool:
        """Hand in an outcome as a lane does; whether it counted."""
        outcome = Outcome(self.run_id, token, state, b"outcome")  # type: ignore[arg-type]
        rest, _ = hand_in(dict(self.held.get(process, {})), [outcome], b"%010x" % next(_runs))
        reply = self._call(scripts.step, self.session(process), 0, "", 0, 0, TTL, 0, *rest)
        assert reply[1] != b"ERA"
        return not reply[2]

    def give_back(self, process: int, token: Token) -> None:
        self._call(scripts.take_back, self.session(process), TTL, "", self.run_id, str(token))

    def disown(self, process: int, known: Token) -> None:
        held = (self.run_id, str(known)) if known.epoch else ()
        self._call(scripts.announce, self.session(process), 0, next(_runs), TTL, *held)

    def expire(self, process: int) -> None:
        self._call(scripts.expire, self.session(process), 1, TTL)

    def cancel(self) -> None:
        self._call(scripts.cancel, self.run_id, TTL)

    def rerun(self) -> None:
        assert self._call(scripts.rerun, self.run_id, TTL)[1] == b"OK"

    def copied(self) -> None:
        keys = sorted(self.queue.command(pack("KEYS", f"{self.queue.prefix}*")))
        dumps = self.queue.commands([pack("DUMP", key) for key in keys])
        self.copy = {key: dump for key, dump in zip(keys, dumps, strict=True) if dump}

    def restart(self) -> None:
        """As a server that comes back with what the copy holds; the start that its era was raised for is over."""
        keys = self.queue.command(pack("KEYS", f"{self.queue.prefix}*"))
        restored = [pack("RESTORE", key, 0, dump, "REPLACE") for key, dump in self.copy.items()]
        self.queue.commands([pack("DEL", key) for key in keys] + restored)
        self.queue.command(pack("HSET", f"{self.queue.prefix}m", "run_id", "0" * 40))
        self.eras.start = ""

    def _call(self, script: Callable[..., object], *arguments: object) -> list[bytes]:
        return self.queue.call(script.pack(self.queue.prefix, *arguments))  # type: ignore[attr-defined]

    # ------------------------------------------------------------------ comparing

    def compare(self, row: bytes) -> None:
        """That Redis holds what the model says.

        Raises:
            AssertionError: they are not.
        """
        record = self.queue.record(self.run_id)
        assert record is not None
        assert (record.state, record.token) == (NAMES[row[QUEUE]], Token(row[ERA], row[EPOCH]))
        held = self.queue.commands(
            [pack("HGET", f"{self.queue.prefix}w:{self.session(p)}", self.run_id) for p in range(1, 9)]
        )
        assert [p for p, claim in enumerate(held, 1) if claim] == ([row[HOLDER]] if row[QUEUE] == RUNNING else [])

"""One campaign: a place, workers, a caller with its orders, and faults that come while these run."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple, cast

from tests.chaos import served
from tests.chaos.client import Call, Client
from tests.chaos.commits import Commits
from tests.chaos.outside import Outside
from tests.chaos.places import Place
from tests.servers.worker import Worker

from kapstan import backend, ids
from kapstan.queue.redis import RedisQueue
from kapstan.queue.wire import pack

WORKERS, LANES = 4, 2
AHEAD = 500
"""Calls that are open at a time."""
PATIENCE = 60.0
"""Seconds in which the next call must have ended, whatever happened."""


class Process(NamedTuple):
    """A process; its number may be given again."""

    pid: int
    started: int


class Campaign:
    """Use ``start``, then one fault after the other between calls of ``advance``, then ``finish``.

    Attributes:
        killed: processes that a fault has killed.
        hit: calls that a fault met, since when somebody could go on with them, and the fault.
        fault: the present one.
        counts: how often each fault was brought about, and what it was seen to do.
    """

    def __init__(self, place: Place, folder: Path, lease: float, seed: int) -> None:
        self.place = place
        self.lease = lease
        self.random = random.Random(seed)
        self.outside = Outside(folder / "effects")
        self.queue = cast("RedisQueue", backend.current().queue)
        self.commits = Commits(self.queue)
        self.client = Client(AHEAD, seed, self.outside, self.commits)
        self.workers: list[Worker] = []
        self.retired: list[Worker] = []
        self.killed: set[Process] = set()
        self.hit: list[tuple[Call, float, str]] = []
        self.fault = ""
        self.counts: Counter[str] = Counter()
        self._closed = False

    def start(self) -> None:
        served.make_ledgers()
        assert backend.current().codec  # makes the namespace's key, once
        backend.current().store.get("first")
        for _ in range(WORKERS):
            self.hire()
        self.client.start()

    def hire(self) -> None:
        name = f"chaos-{len(self.workers) + len(self.retired)}"
        self.workers.append(Worker("tests.chaos.served", limit=LANES, session=name, env=self.place.workers))

    def advance(self, ended: int) -> None:
        """Block until so many calls have ended, and two workers serve: somebody must be there to take over."""
        assert self.client.wait_for(ended, PATIENCE), self.told()
        for worker in self.workers[:3]:
            worker.ready()

    def finish(self) -> int:
        """How many calls do not end though nothing disturbs them any more."""
        calls = self.client.enough()
        self.client.wait_for(calls, PATIENCE)
        return calls - self.client.ended

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self.client.close()
        for worker in [*self.workers, *self.retired]:
            worker.close()
        self.commits.close()
        self.outside.close()

    # ------------------------------------------------------------------ what faults do

    def freeze(self) -> tuple[Worker, list[Call]]:
        """Stop a worker that holds calls, all its processes; the calls."""
        for _ in range(1000):
            worker = self.random.choice([worker for worker in self.workers if worker.serving])
            worker.signal_all(signal.SIGSTOP)
            held = self.held(worker)
            if held:
                return worker, held
            worker.signal_all(signal.SIGCONT)
            self.client.wait_for(self.client.ended + 1, 1.0)
        raise AssertionError("no worker ever held a run: the faults hit nothing")

    def held(self, worker: Worker) -> list[Call]:
        """The calls that a worker has claimed."""
        return [self.client.open[run_id] for run_id in self.claims(worker) if run_id in self.client.open]

    def claims(self, worker: Worker) -> list[str]:
        """The runs that a worker has claimed."""
        names = [info.session for info in self.queue.sessions()]
        found: list[str] = []
        for name in names:
            if name.startswith(f"{worker.session}-"):
                fields = self.queue.command(pack("HKEYS", f"{self.queue.prefix}w:{name}"))
                found += [field.decode() for field in fields if len(field) == ids.ID_LENGTH]
        return found

    def all_held(self) -> list[Call]:
        return [call for worker in self.workers for call in self.held(worker)]

    def kill(self, *pids: int) -> None:
        """SIGKILL; who it was is remembered."""
        self.killed |= {process_of(pid) for pid in pids}
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

    def met(self, calls: list[Call], since: float | None = None) -> None:
        """``calls`` were hit; others could go on with them since then (default: now)."""
        moment = time.monotonic() if since is None else since
        self.hit += [(call, moment, self.fault) for call in calls]

    def replace(self, worker: Worker) -> None:
        self.workers.remove(worker)
        self.retired.append(worker)
        self.hire()

    def told(self) -> str:
        """What is known of the calls that do not end."""
        open_calls = dict(self.client.open)
        records = self.queue.records(list(open_calls))
        lines = [f"{run_id} {call.kind}" for run_id, call in open_calls.items()][:20]
        lines += [f"{each.run_id} {each.state} {each.token}" for each in records if each is not None][:20]
        for worker in self.workers:
            lines += [f"-- {worker.session} holds {self.claims(worker)}", *worker.output[-20:]]
        return "\n".join([*lines, *map(str, self.queue.sessions()), str(self.client.troubles)])


def process_of(pid: int) -> Process:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return Process(pid, int(fields[19]))

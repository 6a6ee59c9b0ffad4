"""The scripts against a model: any order of what clients, workers, crashes and restarts do, on real servers.

The model is what docs/protocol.md promises, in Python: who holds which run with which token. After every step the
records are compared with it, so no run is lost, none has two holders, none commits twice and no token repeats.
"""

from __future__ import annotations

import itertools
import math
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.contract.queue.makers import TASK, Register, Worker, run, worker
from tests.servers.redis import RedisServer

from kapstan.errors import IdempotencyConflict
from kapstan.ids import RunId, Token
from kapstan.ports import Change, Claim, Outcome, RunState, Submitted
from kapstan.queue.background_runs import RedisBackgroundRuns
from kapstan.queue.redis import RedisQueue
from kapstan.queue.server import packaged_program
from kapstan.queue.wire import pack
from kapstan.settings import Settings

TERMINAL = ("completed", "failed", "crashed", "cancelled")
LANES = 2
NEVER = Token(0, 0)
_namespaces = itertools.count(1)


@dataclass
class Modelled:
    """What the model knows of one run."""

    state: RunState = "ready"
    token: Token = NEVER
    attempt: int = 1
    crashes: int = 0
    cancelling: bool = False
    doubt: bool = False  # of class at_most_once, and perhaps begun: the queue does not end it
    told: set[str] = field(default_factory=set[str])  # workers that are to break it off
    holder: tuple[str, int] | None = None
    envelope: bytes = b"arguments"
    effect: str = "p"
    due: float = math.inf
    """Hours of the model's clock by which it must have begun."""
    expired: bool = False
    claims: list[Claim] = field(default_factory=list)


class Protocol(RuleBasedStateMachine):
    """Two workers of two lanes, one task; ``server`` is set by the test."""

    server: RedisServer

    @initialize()
    def begin(self) -> None:
        self.register = Register()
        given = Settings(redis_url=self.server.url, namespace=f"model{os.getpid()}-{next(_namespaces)}")
        self.queue = RedisQueue(given, self.register)
        self.runs: dict[RunId, Modelled] = {}
        self.minted: set[tuple[RunId, Token]] = set()
        self.workers: dict[str, Worker] = {}
        self.serial = itertools.count()
        self.hours = 0
        for _ in range(2):
            self.hire()

    def teardown(self) -> None:
        if hasattr(self, "queue"):
            for each in self.workers.values():
                each.close()
            self.queue.close()

    def hire(self) -> None:
        name = f"worker-{next(self.serial)}"
        self.workers[name] = worker(self.queue, lanes=LANES, name=name)

    # ------------------------------------------------------------------ helpers of the rules

    def pick(self, choice: int, states: tuple[str, ...] = ()) -> RunId | None:
        fitting = [run_id for run_id, model in self.runs.items() if not states or model.state in states]
        return fitting[choice % len(fitting)] if fitting else None

    def holder(self, run_id: RunId) -> tuple[Worker, int, Claim]:
        name, lane = self.runs[run_id].holder
        return self.workers[name], lane, self.runs[run_id].claims[-1]

    def take_in(self, name: str, lane: int, claims: list[Claim]) -> None:
        for claim in claims:
            model = self.runs[claim.run_id]
            assert model.state == "ready", f"{claim.run_id} was {model.state} and is claimed"
            assert claim.token > model.token, "tokens grow"
            assert (claim.run_id, claim.token) not in self.minted, "tokens never repeat"
            assert (claim.attempt, claim.crashes, claim.envelope) == (model.attempt, model.crashes, b"arguments")
            assert claim.cancelled == model.cancelling
            assert len(claims) == 1 or model.effect == "p", "only what is pure comes in batches"
            self.minted.add((claim.run_id, claim.token))
            model.state, model.token, model.holder = "running", claim.token, (name, lane)
            model.claims.append(claim)

    def let_go(self, run_id: RunId, *, begun: bool = False, known: bool = False) -> None:
        model = self.runs[run_id]
        model.holder = None
        if begun:
            model.due, model.doubt = math.inf, model.effect == "a" and not known
        model.expired = not model.cancelling and model.due <= self.hours
        if (model.cancelling and not model.doubt) or model.expired:
            model.state, model.envelope = "cancelled", b""
        else:
            model.state = "ready"

    def held_by(self, name: str, lane: int | None = None) -> list[RunId]:
        return [r for r, m in self.runs.items() if m.holder and m.holder[0] == name and lane in (None, m.holder[1])]

    # ------------------------------------------------------------------ clients

    @rule(
        effect=st.sampled_from("ipat"),
        priority=st.sampled_from([0, 0, 2, -1]),
        group=st.sampled_from(["", "", "g"]),
        hours=st.sampled_from([None, 1]),
    )
    def submit(self, effect: str, priority: int, group: str, hours: int | None) -> None:
        submission = run(effect=effect, priority=priority, group=group, expires=hours and hours * 3600.0)
        assert self.queue.submit(submission) == Submitted("ready", duplicate=False)
        self.runs[submission.run_id] = Modelled(effect=effect, due=self.hours + (hours or math.inf))

    @rule(count=st.integers(1, 6), priority=st.sampled_from([0, 1]))
    def submit_many(self, count: int, priority: int) -> None:
        hours = [None, 3, None, None]
        submissions = [
            run(effect="pppi"[at % 4], priority=priority, expires=(h := hours[at % 4]) and h * 3600.0)
            for at in range(count)
        ]
        self.queue.submit_many(submissions)
        for at, submission in enumerate(submissions):
            due = self.hours + (hours[at % 4] or math.inf)
            self.runs[submission.run_id] = Modelled(effect=submission.effect, due=due)

    @rule()
    def hours_pass(self) -> None:
        self.hours += 2
        seconds, shift = int(self.queue.command(pack("TIME"))[0]), self.hours * 3_600_000
        self.queue.command(pack("HSET", f"{self.queue.prefix}m", "shift", shift, "clock", seconds * 1000 + shift))
        self.beat()
        for model in self.runs.values():
            if model.state in ("ready", "delayed") and model.due <= self.hours:
                model.state, model.envelope, model.expired = "cancelled", b"", True

    @rule(choice=st.integers(0, 99), same=st.booleans())
    def submit_again(self, choice: int, same: bool) -> None:
        if (run_id := self.pick(choice)) is None:
            return
        if same:
            assert self.queue.submit(run(run_id=run_id)) == Submitted(self.runs[run_id].state, duplicate=True)
            return
        with pytest.raises(IdempotencyConflict):
            self.queue.submit(run(run_id=run_id, fingerprint="other-inputs"))

    @rule(choice=st.integers(0, 99), state=st.sampled_from(["ready", "running", "delayed", "completed"]))
    def cancel(self, choice: int, state: RunState) -> None:
        if (run_id := self.pick(choice, (state,))) is None:
            return
        model = self.runs[run_id]
        waits = model.state in ("ready", "delayed")
        assert self.queue.cancel(run_id) == ("running" if waits and model.doubt else model.state)
        if waits and not model.doubt:
            model.state, model.envelope = "cancelled", b""
        elif waits or model.state == "running":
            model.cancelling = True
            model.told |= {model.holder[0]} if model.holder else set()

    @rule(choice=st.integers(0, 99))
    def begins_anew(self, choice: int) -> None:
        """A person has it run once more. What was cancelled while it waited may stand twice in its list then."""
        if (run_id := self.pick(choice, ("failed", "crashed", "cancelled"))) is None:
            return
        model = self.runs[run_id]
        assert RedisBackgroundRuns(self.queue).rerun(run_id) == (Change.DONE, model.state)
        model.state, model.attempt, model.crashes, model.cancelling, model.doubt = "ready", 1, 0, False, False
        model.envelope, model.due, model.expired = b"arguments", math.inf, False

    @rule(group=st.sampled_from(["", "g"]))
    def stands_twice(self, group: str) -> None:
        """Cancelled in the middle of its list and begun anew: the first of its two entries is stale."""
        submissions = [run(group=group) for _ in range(3)]
        self.queue.submit_many(submissions)
        self.runs.update({submission.run_id: Modelled() for submission in submissions})
        twice = submissions[1].run_id
        assert self.queue.cancel(twice) == "ready"
        assert RedisBackgroundRuns(self.queue).rerun(twice) == (Change.DONE, "cancelled")

    # ------------------------------------------------------------------ workers

    @rule(which=st.integers(0, 9), lane=st.integers(0, LANES - 1), want=st.integers(1, 4))
    def claim(self, which: int, lane: int, want: int) -> None:
        name = sorted(self.workers)[which % len(self.workers)]
        ready = [run_id for run_id, model in self.runs.items() if model.state == "ready"]
        claims = self.workers[name].lanes[lane].step([], want).claims
        assert bool(claims) == bool(ready), "what is ready can be claimed"
        assert len(claims) <= want
        self.take_in(name, lane, claims)
        if not claims:  # not idle: what the model does not see must not happen behind its back
            self.queue.command(pack("DEL", f"{self.queue.prefix}idle:{TASK}"))

    @rule(choice=st.integers(0, 99), state=st.sampled_from(["completed", "failed", "cancelled"]), twice=st.booleans())
    def finish(self, choice: int, state: RunState, twice: bool) -> None:
        if (run_id := self.pick(choice, ("running",))) is None:
            return
        each, lane, claim = self.holder(run_id)
        outcome = Outcome(run_id, claim.token, state, state.encode())
        for _ in range(1 + twice):
            assert each.lanes[lane].step([outcome], 0).lost == []
        model = self.runs[run_id]
        model.state, model.envelope, model.holder = state, state.encode(), None

    def late_claims(self) -> list[tuple[Claim, Worker]]:
        """Claims that are no longer good, each in the hands of every worker, its present holder too."""
        return [
            (claim, each)
            for model in self.runs.values()
            for claim in model.claims
            if claim.token != model.token or model.state in ("ready", "delayed")
            for each in self.workers.values()
        ]

    @precondition(lambda self: self.late_claims())
    @rule(choice=st.integers(0, 9999))
    def finish_late(self, choice: int) -> None:
        late = self.late_claims()
        claim, each = late[choice % len(late)]
        outcome = Outcome(claim.run_id, claim.token, "completed", b"too late")
        assert each.lanes[0].step([outcome], 0).lost == [claim.run_id]

    @precondition(lambda self: self.late_claims())
    @rule(choice=st.integers(0, 9999))
    def retry_late(self, choice: int) -> None:
        late = self.late_claims()
        claim, each = late[choice % len(late)]
        assert not each.lanes[0].retry(claim.run_id, claim.token, 0.0)

    @precondition(lambda self: any(len(m.claims) == 1 and m.state == "running" for m in self.runs.values()))
    @rule()
    def comes_back_to_its_holder(self) -> None:
        """A claim that went back and was claimed again by the same session, its first token still remembered."""
        run_id = next(r for r, m in self.runs.items() if len(m.claims) == 1 and m.state == "running")
        each, lane, _ = self.holder(run_id)
        mine = self.held_by(each.session.name, lane)
        assert sorted(each.lanes[lane].give_back([])) == sorted(mine)
        for other in mine:
            self.let_go(other)
        self.claim(sorted(self.workers).index(each.session.name), lane, 4)

    @rule(choice=st.integers(0, 99))
    def give_back(self, choice: int) -> None:
        if (run_id := self.pick(choice, ("running",))) is None:
            return
        each, lane, _ = self.holder(run_id)
        mine = self.held_by(each.session.name, lane)
        assert sorted(each.lanes[lane].give_back([run_id])) == sorted(set(mine) - {run_id})
        for other in mine:
            if other != run_id:
                self.let_go(other)

    @rule(choice=st.integers(0, 99), delay=st.sampled_from([0.0, 3e7]))
    def retry(self, choice: int, delay: float) -> None:
        if (run_id := self.pick(choice, ("running",))) is None:
            return
        each, lane, claim = self.holder(run_id)
        assert each.lanes[lane].retry(run_id, claim.token, delay)
        self.let_go(run_id, begun=True, known=True)
        model = self.runs[run_id]
        if model.state == "ready":
            model.attempt += 1
            model.state = "delayed" if delay else "ready"

    # ------------------------------------------------------------------ faults

    @rule(which=st.integers(0, 9))
    def worker_dies(self, which: int) -> None:
        name = sorted(self.workers)[which % len(self.workers)]
        held = self.held_by(name)
        assert self.queue.expire_session(name) == [name]
        for run_id in held:
            self.let_go(run_id, begun=True)  # and charged to none of them
        dead = self.workers.pop(name)
        dead.close()
        self.hire()

    @rule(choice=st.integers(0, 99))
    def lane_dies(self, choice: int) -> None:
        if (run_id := self.pick(choice, ("running",))) is None:
            return
        each, lane, _ = self.holder(run_id)
        model = self.runs[run_id]
        mine = self.held_by(each.session.name, lane)
        quarantined = model.crashes + 1 >= 3 and not model.cancelling and model.effect != "a"
        assert each.session.lane_died(lane, run_id, b"reason") == quarantined
        model.crashes = min(model.crashes + 1, 9)
        for other in mine:
            self.let_go(other, begun=other == run_id or self.runs[other].effect == "a")
        if quarantined:
            model.state, model.envelope = "crashed", b"reason"

    @rule()
    def era_changes(self) -> None:
        """As if the server had come back: the stored start is another one, until a supervisor sees it."""
        self.queue.command(pack("HSET", f"{self.queue.prefix}m", "run_id", "0" * 40))
        before = self.register.era
        for each in self.workers.values():
            self.renew(each)
        assert self.register.era == before + 1

    @precondition(lambda self: self.runs)
    @rule()
    def beat(self) -> None:
        for each in self.workers.values():
            self.renew(each)

    def renew(self, each: Worker) -> None:
        name, renewed = each.session.name, each.session.renew()
        told = [r for r in self.held_by(name) if name in self.runs[r].told and self.runs[r].cancelling]
        assert sorted(renewed.cancelled) == sorted(told)
        assert renewed.alive
        for run_id, model in self.runs.items():
            if run_id not in told:
                model.told.discard(name)

    # ------------------------------------------------------------------ what holds after every step

    @invariant()
    def records_are_as_modelled(self) -> None:
        ids = list(self.runs)
        for record, model in zip(self.queue.records(ids), self.runs.values(), strict=True):
            assert record is not None, "no run is lost"
            assert (record.state, record.token) == (model.state, model.token)
            assert record.expired == model.expired
            assert (record.attempt, record.crashes, record.envelope) == (model.attempt, model.crashes, model.envelope)

    @invariant()
    def holders_are_unique_and_counted(self) -> None:
        if not hasattr(self, "queue"):
            return
        states = [model.state for model in self.runs.values()]
        claimed = {info.session: info.claimed for info in self.queue.sessions()}
        assert claimed == {name: len(self.held_by(name)) for name in self.workers}
        depth = self.queue.depth([TASK])
        assert (depth.running, depth.delayed) == (states.count("running"), states.count("delayed"))
        assert depth.ready >= states.count("ready")


@pytest.fixture(scope="module", params=["redis", "valkey"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    program = {"redis": shutil.which("redis-server"), "valkey": packaged_program()}[request.param]
    if program is None:
        pytest.skip(f"no {request.param}-server on this machine")
    server = RedisServer(tmp_path_factory.mktemp(request.param), str(program))
    server.start()
    with server.client() as client:
        assert client.info("server").get("server_name", "redis") == request.param
    yield server
    server.stop()


@pytest.mark.timeout(7200)
def test_every_order_of_events_keeps_the_promises(server: RedisServer, capsys: pytest.CaptureFixture[str]) -> None:
    Protocol.server = server
    sequences = int(os.environ.get("KAPSTAN_TEST_SEQUENCES", "50"))
    run_state_machine_as_test(
        Protocol,
        settings=settings(
            max_examples=sequences,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    with server.client() as client, capsys.disabled():
        name, version = (client.info("server").get(f"{each}_version") for each in ("valkey", "redis"))
        print(
            f"\nqueue on {f'valkey {name}' if name else f'redis {version}'}: sequences={sequences} steps=50",
            file=sys.stderr,
        )

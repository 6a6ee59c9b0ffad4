"""What a campaign came to: compares what callers were told, what the store holds, and what happened outside."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from tests.chaos import outside, served
from tests.chaos.campaign import Campaign

from kapstan import backend
from kapstan.engine import values
from kapstan.ports.register import RegisterState


@dataclass
class Figures:
    """Each list names what is wrong; the printed figure is its length.

    Attributes:
        lost: calls without a result, or whose result no effect outside stands for.
        dup_commit: an end published twice without a reason, two results of one order, or a result that is not the
            register's.
        dup_effect: orders of a class with an effect whose effect happened more often than that class allows.
        stuck: calls that did not end.
        parked: executions in doubt; ``unexplained`` are those whose process no fault has ended, and those whose
            process was ended in its body and which were not found in doubt.
        recovery: for each call that a fault met, seconds until its caller heard of it, and the fault.
        in_body: of the kills, how many hit a body that was executing.
        reruns: executions of pure tasks beyond the first.
    """

    runs: int = 0
    kills: int = 0
    in_body: int = 0
    parked: int = 0
    reruns: int = 0
    again: int = 0
    recovery: list[tuple[float, str]] = field(default_factory=list[tuple[float, str]])
    lost: list[str] = field(default_factory=list[str])
    dup_commit: list[str] = field(default_factory=list[str])
    dup_effect: list[str] = field(default_factory=list[str])
    stuck: list[str] = field(default_factory=list[str])
    unexplained: list[str] = field(default_factory=list[str])

    @property
    def recover_p99(self) -> float:
        """Seconds from a fault (or its end) until a caller that it met heard of its call."""
        ordered = sorted(self.recovery)
        return ordered[int(0.99 * (len(ordered) - 1))][0]

    def line(self) -> str:
        lists = ("lost", "dup_commit", "dup_effect", "stuck", "unexplained")
        counted = " ".join(f"{name}={len(getattr(self, name))}" for name in lists)
        return (
            f"runs={self.runs} {counted} recover_p99={self.recover_p99:.2f}s parked={self.parked} kills={self.kills} "
            f"slowest={max(self.recovery)[0]:.1f}s({max(self.recovery)[1]}) "
            f"in_body={self.in_body} reruns={self.reruns} again={self.again}"
        )

    def check(self) -> None:
        assert not self.lost, self.lost[:5]
        assert not self.dup_commit, self.dup_commit[:5]
        assert not self.dup_effect, self.dup_effect[:5]
        assert not self.stuck, self.stuck[:5]
        assert not self.unexplained, self.unexplained[:5]
        assert self.recover_p99 <= 12.5

    def __add__(self, other: Figures) -> Figures:
        return Figures(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


def figures_of(campaign: Campaign, kills: int, stuck: int) -> Figures:
    """Read everything once more, now that nothing moves."""
    client = campaign.client
    found = Figures(
        len(client.calls), kills, parked=len(client.in_doubt), again=sum(call.again for call in client.calls)
    )
    found.stuck = [f"{call.order} {call.heard}" for call in client.open.values()]
    assert len(found.stuck) == stuck
    for call, since, fault in campaign.hit:
        later = [moment - since for moment in call.heard if moment >= since]
        found.recovery += [(min(later), fault)] if later else []
    _compare_results(campaign, found)
    _compare_effects(campaign, found)
    _compare_registers(campaign, found)
    _compare_deaths(campaign, found)
    return found


def _compare_results(campaign: Campaign, found: Figures) -> None:
    for order, results in _told(campaign).items():
        if len(results) > 1 and order.partition("-")[0] in served.ONCE:
            found.dup_commit.append(f"{order} was told {results}")
    for run_id, count in campaign.commits.seen.items():
        if count > 1 + campaign.client.allowed[run_id]:
            found.dup_commit.append(f"{run_id}: {count} ends")


def _told(campaign: Campaign) -> dict[str, set[str]]:
    """By order, every result that a caller has been told."""
    told: defaultdict[str, set[str]] = defaultdict(set)
    for call in campaign.client.calls:
        told[call.order] |= {call.result} if call.ended else set()
    return told


def _compare_effects(campaign: Campaign, found: Figures) -> None:
    in_file, in_ledgers = campaign.outside.effects(), outside.rows()
    for order, results in _told(campaign).items():
        kind = order.partition("-")[0]
        lines = in_file.get(order, [])
        names = in_ledgers.get(order, []) if kind == "transactional" else [line.by for line in lines]
        if not results <= set(names):
            found.lost.append(f"{order}: {results} and {names}")
        tokens = [line.token for line in lines]
        if kind in ("at_most_once", "transactional") and len(names) > 1:
            found.dup_effect.append(f"{order}: {names}")
        elif kind == "idempotent" and (len({line.key for line in lines}) > 1 or tokens != sorted(set(tokens))):
            found.dup_effect.append(f"{order}: {lines}")
        elif kind in ("pure", "cached"):
            found.reruns += len(lines) - 1


def _compare_registers(campaign: Campaign, found: Figures) -> None:
    used = backend.current()
    keys = {key.key: key for key in used.register.all_keys()}
    told = {call.order: call.result for call in campaign.client.calls if call.ended}
    for order, key in {line.order: line.key for line in campaign.outside.read()}.items():
        if order.partition("-")[0] not in served.ONCE or order not in told:
            continue
        entry = used.register.read(keys[key])
        if entry is None or entry.record.state is not RegisterState.COMMITTED:
            found.lost.append(f"{order}: was told its result, and its register is {entry}")
        elif values.open_value(used, entry.record.result, "result", used.register.path(keys[key])) != told[order]:
            found.dup_commit.append(f"{order}: was told {told[order]}, its register has another result")


def _compare_deaths(campaign: Campaign, found: Figures) -> None:
    """Parked are exactly those executions whose process a fault has ended between their intent and their commit: we
    killed it, or its worker did, which could not renew its lease."""
    in_doubt = {(doubt.key.key, doubt.epoch) for doubt in campaign.client.in_doubt}
    for doubt in campaign.client.in_doubt:
        said = _said_of_ends(campaign, doubt.holder.session)
        fenced = any("is broken off" in line for line in said) and doubt.evidence.get("cause") == "killed by SIGKILL"
        if (doubt.holder.pid, doubt.holder.started) not in campaign.killed and not fenced:
            found.unexplained.append(f"{doubt} is in doubt, and nobody ended its process: {said}")
    killed = {process.pid for process in campaign.killed}
    hit: set[int] = set()
    for line in campaign.outside.cut_off():
        hit |= {line.pid} & killed
        if line.order.startswith("at_most_once-") and (line.key, line.token) not in in_doubt:
            found.unexplained.append(f"{line} ended in its body, and is not in doubt")
    found.in_body = len(hit)


def _said_of_ends(campaign: Campaign, session: str) -> list[str]:
    """What the worker of this session has said of the ends of its executors."""
    workers = [*campaign.workers, *campaign.retired]
    lines = [line for worker in workers if session.startswith(f"{worker.session}-") for line in worker.output]
    return [line for line in lines if "is broken off" in line or "Executor" in line]

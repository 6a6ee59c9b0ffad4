"""The eight experiments, the same for every system. Each proves that its fault was one, and says what came of it."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from tests.bench.guarantees.site import Caller, DidNotBite, Site, until

Mode = Literal["as it comes", "careful"]

CALLERS = 5
PATIENCE = 60.0  # seconds that a caller waits
RECOVERY = 120.0
SUBMITS = 200


class Outcome(NamedTuple):
    """``text`` for the table; ``bit``: what shows that the fault was there."""

    text: str
    bit: str


def at_once(site: Site) -> Outcome:
    """Five processes ask for the same payment while none is through with it."""
    site.worker()
    site.close_gate()
    callers = [site.call("charge") for _ in range(CALLERS)]
    site.await_effects(1)
    until(lambda: len(site.effects()) == CALLERS, 3)  # whoever may begin has begun
    waiting = sum(not caller.was_answered() for caller in callers)
    ended = site.ended()
    site.open_gate()
    if ended:
        raise DidNotBite("a payment was through before all had asked")
    answers = _told(callers)
    return Outcome(
        f"{_charges(site)}; {answers}", f"5 asked before the first payment was through, {waiting} still waited then"
    )


def two_tasks(site: Site) -> Outcome:
    """A payment, then a refund with the same arguments."""
    site.worker()
    paid = site.call("charge").answer()
    if len(site.effects("charge")) != 1:
        raise DidNotBite("the payment before it did not happen")
    refunded = site.call("refund").answer()
    return Outcome(f"{len(site.effects('refund'))} refund; answers {paid}, {refunded}", "the payment had been answered")


def killed_after_the_effect(site: Site) -> Outcome:
    """The worker dies in the payment, and there is a new one. Who pays again? And without the lock that was left?"""
    worker = site.worker()
    site.close_gate()
    first = site.call("charge", seconds=PATIENCE)
    site.await_effects(1)
    gone = worker.kill()
    if site.ended() or not gone:
        raise DidNotBite("the payment was through before the kill")
    site.open_gate()
    site.worker()
    begun = time.monotonic()
    told = first.answer()
    took = time.monotonic() - begun
    charges = [len(site.effects())]
    second = site.call("charge", seconds=PATIENCE).answer()
    charges.append(len(site.effects()))
    with site.redis.client() as client:
        locks = list(client.scan_iter(site.side.locks))
        if locks:
            client.delete(*locks)
    third = site.call("charge", seconds=PATIENCE).answer()
    charges.append(len(site.effects()))
    removed = " (its lock removed before)" if locks else ""
    text = f"charges after each call {charges}; answers {told} after {took:.0f} s, {second}, {third}{removed}"
    return Outcome(text, f"1 effect begun and none through when {gone} processes were killed; {len(locks)} locks left")


def redis_forgets(site: Site) -> Outcome:
    """Redis comes back empty while a payment runs, its lock too; a second caller asks."""
    site.worker()
    site.close_gate()
    first = site.call("charge")
    site.await_effects(1)
    with site.redis.client() as client:
        keys = client.dbsize()
        locks = len(list(client.scan_iter(site.side.locks)))
        client.flushall()
    if not keys or site.ended():
        raise DidNotBite("there was nothing to forget")
    second = site.call("charge")
    until(lambda: len(site.effects()) > 1, 15)
    site.open_gate()
    answers = _told([first, second])
    return Outcome(
        f"{_charges(site)}; {answers}",
        f"{keys} keys were forgotten, {locks} of them locks, in the middle of the effect",
    )


def worker_killed(site: Site) -> Outcome:
    """Three runs without a key are running when their worker dies; a new one is started."""
    worker = site.worker()
    site.close_gate()
    for number in range(3):
        site.call("work", amount=number, seconds=RECOVERY)
    site.await_effects(3)
    gone = worker.kill()
    if site.ended() or not gone:
        raise DidNotBite("runs were through before the kill")
    site.open_gate()
    site.worker()
    begun = time.monotonic()
    until(lambda: site.ended() >= 3, RECOVERY)
    took = time.monotonic() - begun
    done = len({line.split()[2] for line in site.effects()[3:]})
    after = f" after {took:.0f} s" if done == 3 else f" within {RECOVERY:.0f} s"
    return Outcome(f"{done} of 3 run again{after}", f"3 begun and none through when {gone} processes were killed")


def nobody_serves(site: Site) -> Outcome:
    """Five calls without a worker, a server that is killed and started, then a worker."""
    for number in range(5):
        site.call("work", amount=number, seconds=PATIENCE)
    with site.redis.client() as client:
        before = client.info("server")["run_id"]
    site.redis.kill()
    site.redis.start()
    with site.redis.client() as client:
        after = client.info("server")["run_id"]
    if before == after or site.effects():
        raise DidNotBite("the server was not started anew")
    site.worker()
    until(lambda: site.ended() >= 5, 40)
    return Outcome(f"{len({*site.effects()})} of 5 ran", "the server had another run_id")


@dataclass(frozen=True, slots=True)
class Experiment:
    """One row.

    Attributes:
        modes: the settings of the systems with which it is made (see ``sides``).
        prefect: what came of it with Prefect 3.8.8 and prefect-redis 0.3.0, measured when the design was made; it is
            quoted, not measured here.
    """

    title: str
    run: Callable[[Site], Outcome]
    modes: Sequence[Mode]
    prefect: str


BOTH: Sequence[Mode] = ("as it comes", "careful")
ALL = (
    Experiment(
        "five processes ask for one payment at once, as the example is printed",
        at_once,
        ("as it comes",),
        "5 charges",
    ),
    Experiment("the same, with what the manual has against it", at_once, ("careful",), "1 charge (SERIALIZABLE)"),
    Experiment(
        "a refund with the arguments of a payment",
        two_tasks,
        ("careful",),
        "the refund never ran, and returned the payment's result",
    ),
    Experiment(
        "kill -9 in the payment, after the charge; asked twice more",
        killed_after_the_effect,
        BOTH,
        "blocked for ever (seen for 60 s); 2 charges once a person has deleted the lock",
    ),
    Experiment(
        "the lock vanishes while it is held (Redis forgets everything)",
        redis_forgets,
        ("careful",),
        "2 charges, the second result wins",
    ),
    Experiment("kill -9 of a worker with 3 runs; a new worker", worker_killed, BOTH, "0 of 3 within 60 s"),
    Experiment("5 runs queued, the server restarted, then a worker", nobody_serves, ("as it comes",), "0 of 5 (40 s)"),
)
SUBMIT = "200 submits of a no-op, one after the other"
SUBMIT_PREFECT = "2-5 /s (SQLite server)"


def submits(sites: dict[str, Site], rounds: int) -> dict[str, str]:
    """Calls a second that one client hands in, medians of rounds in turns."""
    figures: dict[str, list[float]] = {side: [] for side in sites}
    for number in range(rounds):
        for side in sorted(sites, reverse=bool(number % 2)):
            figures[side].append(SUBMITS / sites[side].submit(SUBMITS))
    return {side: f"{statistics.median(rates):,.0f} /s" for side, rates in figures.items()}


def _charges(site: Site) -> str:
    number = len(site.effects("charge"))
    return f"{number} charge{'' if number == 1 else 's'}"


def _told(callers: Sequence[Caller]) -> str:
    """What the callers got, and how often."""
    answers = Counter(caller.answer() for caller in callers)
    return ", ".join(f"{number} x {answer}" for answer, number in answers.items())

"""WorkPool: who of those that wait may start, and what is in flight.

Called by the loop whenever a run of the pool asks for a place or gives one back. Runs wait by their queue's priority,
then by the time they are due; a Deployment whose concurrency lets its runs wait counts here, too.
"""

from __future__ import annotations

import heapq
from collections import Counter
from datetime import datetime, timedelta

from kapstan.reconcile.brief import RunBrief
from kapstan.reconcile.kinds.work_pool.actions import Grant, SpendTokens
from kapstan.reconcile.kinds.work_pool.belonging import NEEDS_WORKER, needs_worker
from kapstan.reconcile.kinds.work_pool.observed import PoolObserved
from kapstan.reconcile.kinds.work_pool.places import Tokens
from kapstan.reconcile.plan import Action, Plan
from kapstan.reconcile.status import Conditions, changed_status, key_of
from kapstan.resources import WorkPool
from kapstan.resources.workpool import WorkPoolStatus


def reconcile(observed: PoolObserved, now: datetime) -> Plan:
    """Grants for those that may start now, and the pool's status."""
    pool = observed.pool
    if not observed.served:
        return Plan(changed_status(pool, _status(observed, now, 0, 0)))
    tokens = refilled(observed.tokens, pool, now)
    granted = [] if pool.spec.suspend else _choose(observed, int(tokens.left))
    actions: list[Action] = [Grant(run.key) for run in granted]
    if granted:
        tokens = Tokens(tokens.left - len(granted), now)
        actions.append(SpendTokens(key_of(pool), tokens.left, now))
    left = observed.queued - len(granted)
    in_flight = sum(observed.in_flight.values()) + observed.moved + len(granted)
    actions.extend(changed_status(pool, _status(observed, now, in_flight, left)))
    # Whoever else waits is looked at again when a place is given back; a token comes by itself.
    out_of_tokens = left and tokens.left < 1 and not pool.spec.suspend
    rate = pool.spec.concurrency.launches_per_second
    requeue = now + timedelta(seconds=(1 - tokens.left) / rate) if out_of_tokens else None
    return Plan(tuple(actions), requeue)


def refilled(tokens: Tokens | None, pool: WorkPool, now: datetime) -> Tokens:
    """The bucket as it is now: it holds one second's worth of launches, at least one."""
    rate = pool.spec.concurrency.launches_per_second
    full = max(1.0, rate)
    if tokens is None:
        return Tokens(full, now)
    return Tokens(min(full, tokens.left + rate * max(0.0, (now - tokens.at).total_seconds())), now)


def _choose(observed: PoolObserved, most: int) -> list[RunBrief]:
    """Those that may start now, at most so many. It looks at the heads of the lines, never at all who wait."""
    spec = observed.pool.spec
    if spec.concurrency.max_in_flight is not None:
        most = min(most, spec.concurrency.max_in_flight - sum(observed.in_flight.values()) - observed.moved)
    priority = {queue.name: queue.priority for queue in spec.queues}
    limits = {queue.name: queue.limit for queue in spec.queues if queue.limit is not None}
    by_deployment, by_queue = Counter(observed.in_flight), Counter[str]()
    for name, count in observed.in_flight.items():
        by_queue[observed.deployments[name].spec.queue] += count
    heads = [
        (priority.get(observed.deployments[name].spec.queue, 1), line[0].order(), name, 0)
        for name, line in observed.waiting.items()
        if line and name in observed.deployments
    ]
    heapq.heapify(heads)
    chosen: list[RunBrief] = []
    while heads and len(chosen) < most:
        rank, _, name, place = heapq.heappop(heads)
        queue, alone = observed.deployments[name].spec.queue, observed.deployments[name].spec.concurrency
        if queue in limits and by_queue[queue] >= limits[queue]:
            continue
        if alone.policy != "Allow" and by_deployment[name] >= alone.limit:
            continue
        line = observed.waiting[name]
        by_queue[queue] += 1
        by_deployment[name] += 1
        chosen.append(line[place])
        if place + 1 < len(line):
            heapq.heappush(heads, (rank, line[place + 1].order(), name, place + 1))
    return chosen


def _status(observed: PoolObserved, now: datetime, in_flight: int, queued: int) -> WorkPoolStatus:
    pool = observed.pool
    conditions = Conditions.of(pool, now)
    if not observed.served:
        message = needs_worker(pool.metadata.name)
        written = pool.status.condition(NEEDS_WORKER)
        if written is None:
            conditions.set(NEEDS_WORKER, True, "NotServed", message)
            conditions.set("Ready", False, NEEDS_WORKER, message)
        # What a worker has written about a pool that it serves is its own.
        return pool.status.model_copy(
            update={"conditions": conditions.items, "observed_generation": pool.metadata.generation}
        )
    if pool.spec.type == "process":
        conditions.set(NEEDS_WORKER, False, "Served")
    else:
        conditions.drop(NEEDS_WORKER)
    if pool.spec.suspend:
        conditions.set("Ready", False, "Suspended", "spec.suspend is set: no attempt is started")
    else:
        conditions.set("Ready", True, "Serving")
    limit = pool.spec.concurrency.max_in_flight
    full = limit is not None and in_flight >= limit
    conditions.set("Progressing", queued > 0, "Full" if full and queued else "Waiting" if queued else "Idle")
    return pool.status.model_copy(
        update={
            "observed_generation": pool.metadata.generation,
            "conditions": conditions.items,
            "in_flight": in_flight,
            "queued": queued,
        }
    )


def unserved(pool: WorkPool, now: datetime) -> Plan:
    """What a worker writes when it stops serving the pool."""
    conditions = Conditions.of(pool, now)
    message = needs_worker(pool.metadata.name)
    conditions.set(NEEDS_WORKER, True, "NotServed", message)
    conditions.set("Ready", False, NEEDS_WORKER, message)
    return Plan(changed_status(pool, pool.status.model_copy(update={"conditions": conditions.items})))

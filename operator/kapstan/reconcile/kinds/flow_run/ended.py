"""A FlowRun that is over: completes what its status says of its process, ends one that lingers, and removes in time
what is left.

Called by ``decision``.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from kapstan.reconcile.kinds.flow_run.actions import RemoveAttempt, StopAttempt
from kapstan.reconcile.kinds.flow_run.attempts import LINGER, RESYNC, grace_of, seen_on
from kapstan.reconcile.kinds.flow_run.observed import RunObserved
from kapstan.reconcile.kinds.flow_run.plan import RunPlan
from kapstan.reconcile.plan import Action
from kapstan.reconcile.status import changed_status, key_of


def reconcile(observed: RunObserved, now: datetime) -> RunPlan:
    """The next step of a run that is over."""
    run = observed.run
    status = run.status
    if not status.attempts or status.attempts[-1].finished_at is None:
        return RunPlan()
    last, pool_type = status.attempts[-1], observed.pool.spec.type if observed.pool else ""
    ended_at = status.attempts[-1].finished_at
    seen = next((seen for seen in observed.attempts if seen.number == last.number), None)
    if seen is None or not seen.exists:
        return RunPlan()
    actions: list[Action] = []
    if seen.ended:
        attempt = seen_on(last, seen).model_copy(update={"reason": last.reason or seen.reason or None})
        actions.extend(changed_status(run, status.model_copy(update={"attempts": [*status.attempts[:-1], attempt]})))
        keep = timedelta(seconds=observed.pool.spec.ttl_seconds_after_finished if observed.pool else 0)
        # A pod whose sidecar nobody stops would live on, and hold what it holds, for all that time.
        removal = ended_at + (min(keep, LINGER) if seen.lingers else keep)
        if now < removal:
            return RunPlan(tuple(actions), removal)
        uid = run.metadata.uid or ""
        gone = [RemoveAttempt(pool_type, key_of(run), uid, seen.job) for seen in observed.attempts if seen.exists]
        return RunPlan((*actions, *gone))
    if now < ended_at + LINGER:
        return RunPlan(requeue_at=ended_at + LINGER)
    if seen.stopping:
        return RunPlan(requeue_at=now + RESYNC)
    stop = StopAttempt(pool_type, key_of(run), run.metadata.uid or "", last.job, grace_of(observed.pool))
    return RunPlan((stop,), now + RESYNC)

"""The faults. Each one makes sure that it bit, or raises AssertionError: a fault that meets nothing shows nothing."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

from tests.chaos.campaign import PATIENCE, Campaign, process_of
from tests.chaos.client import Call, run_id_of
from tests.servers import trouble
from tests.servers.fault_proxy import Fault
from tests.servers.redis import RedisServer
from tests.servers.worker import Worker, await_exit

from kapstan.queue.record import TERMINAL

NOT_RENEWED, HAD_ENDED = "The lease is not renewed", "This session had ended"
"""What workers say."""
LOST_ENDS = 30
"""Calls that end in what Redis loses."""
BITES, MISSES = 15, 8
"""Requests that a fault of the store meets, and that find no store. Runs pause the longer the longer it is away."""


def kill_child(campaign: Campaign) -> None:
    """One executor of a worker that holds runs."""
    worker, held = campaign.freeze()
    campaign.kill(campaign.random.choice(worker.children()))
    worker.signal_all(signal.SIGCONT)
    campaign.met(held)


def kill_worker(campaign: Campaign) -> None:
    """A worker with all its executors."""
    worker, held = campaign.freeze()
    children = worker.children()
    campaign.kill(worker.pid, *children)
    worker.wait()
    for pid in children:
        await_exit(pid)
    campaign.met(held)
    campaign.replace(worker)


def kill_supervisor(campaign: Campaign) -> None:
    """A worker's first process alone: its executors must die with it."""
    worker, held = campaign.freeze()
    children = worker.children()
    campaign.killed |= {process_of(pid) for pid in children}
    campaign.kill(worker.pid)
    for pid in children:
        await_exit(pid)
    worker.wait()
    campaign.met(held)
    campaign.replace(worker)


def stop_past_the_lease(campaign: Campaign) -> None:
    """A worker stands still until others have its runs, then it goes on."""
    worker, held = campaign.freeze()
    stopped = time.monotonic()
    said = _count(worker, HAD_ENDED)
    while campaign.claims(worker):
        assert time.monotonic() < stopped + 5 * campaign.lease, "nobody took the runs of a stopped worker over"
        time.sleep(0.05)
    worker.signal_all(signal.SIGCONT)
    # Nobody may go on with an effect while the process that is at it may live.
    campaign.met([call for call in held if call.kind in ("pure", "cached")], stopped)
    campaign.met([call for call in held if call.kind not in ("pure", "cached")])
    _until(lambda: _count(worker, HAD_ENDED) > said, "the worker does not know that its lease was over")


def lose_the_tail(campaign: Campaign) -> None:
    """Redis is killed, and what it wrote last is cut off."""
    server = campaign.place.redis
    before, size = _ended(campaign), server.written()
    campaign.advance(len(before) + LOST_ENDS)
    held = campaign.all_held()
    server.kill()
    campaign.counts["tail_bytes"] += server.cut_tail(size)
    copy = RedisServer(server.folder.with_name(f"{server.folder.name}-{time.monotonic_ns()}"))
    server.save_copy(copy.folder / "appendonlydir")
    copy.start()
    _note_what_is_lost(campaign, copy, before)
    copy.stop()
    server.start()
    campaign.met(held)


def fail_over(campaign: Campaign) -> None:
    """The primary is killed when its replica lags behind; the Sentinels make that the primary."""
    watched = campaign.place.watched
    assert watched is not None
    before = _ended(campaign)  # what ends from here on, the replica may lack
    watched.cut_replica_off()
    campaign.advance(len(before) + LOST_ENDS)
    held = campaign.all_held()
    watched.primary.kill()
    _note_what_is_lost(campaign, watched.replica, before)
    with watched.replica.client() as client:
        _until(lambda: client.role()[0] == b"master", "the replica was not promoted")
    campaign.met(held)


def _ended(campaign: Campaign) -> set[Call]:
    return {call for call in list(campaign.client.calls) if call.ended}


def _note_what_is_lost(campaign: Campaign, server: RedisServer, before: set[Call]) -> None:
    """Which ends and which runs a server does not have that it was to have. Their ends may be published once more."""
    _until(lambda: not campaign.commits.follows, "the connection to a dead server stands")
    for call in list(campaign.client.calls):
        call.disturbed += call.future is None
    recent = {run_id_of(call): call for call in [*_ended(campaign) - before, *campaign.client.open.values()]}
    with server.client() as client:
        records = client.mget([f"{campaign.queue.prefix}t:{run_id}" for run_id in recent])
    lost = [run_id for run_id, record in zip(recent, records, strict=True) if not record or record[1] not in TERMINAL]
    ends = [run_id for run_id in lost if recent[run_id].ended]
    campaign.client.allow(run_id for run_id in lost if campaign.commits.seen[run_id])
    campaign.counts["lost_ends"] += len(ends)
    campaign.counts["lost_runs"] += records.count(None)
    assert ends, "Redis lost nothing that it had told"


def refuse_writes(campaign: Campaign) -> None:
    """Redis answers, and takes no writes, until every worker has noticed."""
    word, bring_about = trouble.REFUSING[campaign.random.choice(["noreplicas", "misconf-append", "readonly"])]
    said = {worker: _count(worker, NOT_RENEWED) for worker in campaign.workers if worker.serving}
    with bring_about(campaign.place.redis):
        trouble.await_refusal(campaign.place.redis, True)
        assert trouble.refusal(campaign.place.redis) == word
        held = campaign.all_held()
        _until(
            lambda: all(_count(worker, NOT_RENEWED) > said[worker] for worker in said), f"{word}: leases are renewed"
        )
    campaign.met(held)


def store_down(campaign: Campaign) -> None:
    """The store is killed, and started again when requests have met nothing."""
    minio, proxy = campaign.place.minio, campaign.place.proxy
    assert minio is not None
    assert proxy is not None
    minio.kill()
    proxy.wait_for_gone(proxy.counts["gone"] + MISSES)
    held = campaign.all_held()
    minio.start()
    campaign.met(held)


def store_that(fault: Fault, share: float) -> Callable[[Campaign], None]:
    """A store that does this with a share of the requests."""

    def bring_about(campaign: Campaign) -> None:
        proxy = campaign.place.proxy
        assert proxy is not None
        wanted = proxy.counts[fault] + BITES
        proxy.faults = {fault: share}
        _until(lambda: proxy.counts[fault] >= wanted, f"{fault} meets no requests")
        held = campaign.all_held()
        proxy.faults = {}
        campaign.met(held)

    return bring_about


def _count(worker: Worker, text: str) -> int:
    return sum(text in line for line in worker.output)


def _until(happened: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.02)


FAULTS: dict[str, Callable[[Campaign], None]] = {
    "child": kill_child,
    "worker": kill_worker,
    "supervisor": kill_supervisor,
    "stop": stop_past_the_lease,
    "tail": lose_the_tail,
    "failover": fail_over,
    "refuse": refuse_writes,
    "down": store_down,
    "slow": store_that("slow", 1.0),
    "500": store_that("broken", 0.5),
    "503": store_that("unavailable", 0.5),
    "drop_request": store_that("drop_request", 0.3),
    "drop_reply": store_that("drop_reply", 0.3),
    "cut_reply": store_that("cut_reply", 0.3),
    "late": store_that("late", 0.3),
}
KILLS = ("child", "worker", "supervisor")

"""A leader that lost its Lease ends at once with exit code 3 and writes nothing more; a standby goes on from there."""

from __future__ import annotations

import threading
import time

import pytest
from tests.contract.apiserver import ApiServer
from tests.contract.kubernetes.operators import Install, Installation, MakeTeam, Team, signing_key, until
from tests.e2e.deadly_relay import Blow, DeadlyRelay
from tests.servers.tcp_relay import TcpRelay

LOST = 3
STANDS_BY = "waiting for the Lease"
# All that an operator writes about a run up to its Job, but for the Job.
BEFORE_THE_JOB = frozenset(
    f"{verb} {what} {n}" for verb in ("POST", "PATCH") for what in ("flowruns", "events") for n in range(1, 9)
)


def assert_taken_over(installation: Installation, team: Team, run: str) -> None:
    """One Job of one attempt, by the operator ``b``."""
    status = team.started(run)
    assert [attempt["job"] for attempt in status["attempts"]] == [f"{run}-1"]
    assert team.jobs(run) == [f"{run}-1"]
    assert holder(installation) == "b"


def holder(installation: Installation) -> str:
    return installation.lease()["spec"]["holderIdentity"].partition("_")[0]


@pytest.mark.parametrize("after", [False, True], ids=["before its Job is made", "after its Job was made"])
def test_a_leader_that_is_cut_off_in_a_run_ends_before_another_leads(
    api_server: ApiServer, install: Install, make_team: MakeTeam, after: bool
) -> None:
    name = f"cut-off-{'after' if after else 'before'}"
    team = make_team(name)
    installation = install(f"{name}-system", f"namespaces={{{name}}}", signing_key(name))
    relay = DeadlyRelay(api_server.kubeconfig(), lambda: None)
    try:
        leader = installation.start("a", relay.url).leads()
        standby = installation.start("b").ready()
        standby.await_line(STANDS_BY)
        blow = Blow("r1", BEFORE_THE_JOB, after, kill=lambda: None)  # it lives on, and gets through no more
        relay.arm(blow)
        team.run("r1")
        assert leader.wait() == LOST
        assert holder(installation) == "a", "two leaders at once"
        assert relay.struck(blow) == "POST jobs 1"
        assert leader.said("the Lease was lost")
        assert team.jobs("r1") == (["r1-1"] if after else [])
        standby.leads()
        assert_taken_over(installation, team, "r1")
        assert installation.lease()["spec"]["leaseTransitions"] == 2
    finally:
        relay.close()


def test_a_leader_whose_api_server_falls_silent_ends_before_another_leads(
    api_server: ApiServer, install: Install, make_team: MakeTeam
) -> None:
    team = make_team("silent")
    installation = install("silent-system", "namespaces={silent}", signing_key("silent"))
    with TcpRelay(int(api_server.url.rpartition(":")[2])) as relay:
        leader = installation.start("a", f"https://127.0.0.1:{relay.port}").leads()
        standby = installation.start("b").ready()
        team.run("r1")
        team.started("r1")
        relay.silent()
        assert leader.wait() == LOST
        assert holder(installation) == "a", "two leaders at once"
        assert relay.held.is_set()
        team.run("r2")
        standby.leads()
        assert_taken_over(installation, team, "r2")
        before = team.status("r1"), team.status("r2")
        relay.flow()  # what the dead one had sent arrives
    assert (team.status("r1"), team.status("r2")) == before
    assert team.jobs("r1") == ["r1-1"]


def test_a_leader_whose_lease_another_holds_does_not_finish_what_it_is_at(
    api_server: ApiServer, install: Install, make_team: MakeTeam
) -> None:
    team = make_team("replaced")
    installation = install("replaced-system", "namespaces={replaced}", signing_key("replaced"))
    relay, hold = DeadlyRelay(api_server.kubeconfig(), lambda: None), threading.Event()
    try:
        leader = installation.start("a", relay.url).leads()
        standby = installation.start("b").ready()
        blow = Blow("r1", BEFORE_THE_JOB, after=True, kill=lambda: None, hold=hold)
        relay.arm(blow)
        team.run("r1")
        until(lambda: relay.struck(blow), lambda struck: struck == "POST jobs 1", "Job of r1")
        before = team.get("r1")
        taken = take(installation, "somebody", lease_seconds=6)
        taken_at = time.monotonic()
        assert leader.wait() == LOST
        assert leader.said("the Lease was lost")
        lease = installation.lease()
        assert lease["metadata"]["resourceVersion"] == taken, "it was released, or written again"
        assert team.get("r1") == before, "it wrote what was due after the Job was made"
        assert before["status"]["phase"] == "Scheduled", "nothing was due"
        standby.leads()
        assert time.monotonic() - taken_at > 5.5, "the Lease of somebody else was not waited for"
        assert_taken_over(installation, team, "r1")
    finally:
        hold.set()
        relay.close()


def take(installation: Installation, holder: str, lease_seconds: int) -> str:
    """Write another holder into the Lease, whatever the leader writes meanwhile; the version."""
    path = f"/apis/coordination.k8s.io/v1/namespaces/{installation.namespace}/leases/{installation.account}"
    while True:
        lease = installation.lease()
        lease["spec"] |= {"holderIdentity": holder, "leaseDurationSeconds": lease_seconds}
        answer = installation.server.request("PUT", path, lease)
        if answer.code == 200:
            return answer.body["metadata"]["resourceVersion"]
        assert answer.code == 409, answer.message


def test_told_to_go_it_hands_over_at_once(install: Install) -> None:
    """The other end: SIGTERM releases the Lease, and the exit code is 0."""
    installation = install("told-system", signing_key("told-system"))
    leader = installation.start("a").leads()
    standby = installation.start("b").ready()
    assert leader.terminate() == 0
    assert leader.said("released the Lease")
    standby.leads()

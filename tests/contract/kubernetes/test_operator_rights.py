"""Rights are taken from the operator and given back: it says what it may not watch, and needs no restart to go on."""

from __future__ import annotations

import copy

from tests.contract.apiserver import ApiServer
from tests.contract.kubernetes.operators import (
    Health,
    Install,
    Installation,
    MakeTeam,
    Manifest,
    OperatorProcess,
    signing_key,
    until,
)
from tests.servers.tcp_relay import TcpRelay

from kapstan.controllers.informers import Source, sources
from kapstan.reconcile.table import TABLE


class Rights:
    """The operator's ClusterRole, narrowed and restored; both return when the API server acts by it."""

    def __init__(self, installation: Installation, namespace: str) -> None:
        self._installation = installation
        self._namespace = namespace
        self._role = installation.one("ClusterRole", f"{installation.account}-{installation.namespace}")

    def narrow(self, source: Source) -> None:
        """Take away to list and watch one kind; whatever else may be done with it stays."""
        role = copy.deepcopy(self._role)
        role["rules"] = [part for rule in role["rules"] for part in _without(rule, source)]
        self._write(role, source, allowed=False)

    def restore(self, source: Source) -> None:
        self._write(self._role, source, allowed=True)

    def _write(self, role: Manifest, source: Source, *, allowed: bool) -> None:
        path = f"/apis/rbac.authorization.k8s.io/v1/clusterroles/{role['metadata']['name']}"
        answer = self._installation.server.request("PUT", path, role)
        assert answer.code == 200, answer.message
        group, plural = source.resource.group, source.resource.plural
        for verb in ("list", "watch"):
            until(
                lambda verb=verb: self._installation.may(verb, group, plural, self._namespace),
                lambda may: may == allowed,
                f"right to {verb} {plural}: {allowed}",
            )


def _without(rule: Manifest, source: Source) -> list[Manifest]:
    """``rule`` as one or two rules that do not let ``source`` be listed or watched."""
    plural = source.resource.plural
    if source.resource.group not in rule["apiGroups"] or plural not in rule["resources"]:
        return [rule]
    others = [resource for resource in rule["resources"] if resource != plural]
    verbs = [verb for verb in rule["verbs"] if verb not in ("list", "watch")]
    parts = ((others, rule["verbs"]), ([plural], verbs))
    return [rule | {"resources": resources, "verbs": verbs} for resources, verbs in parts if resources and verbs]


def refusal(source: Source, namespace: str) -> str:
    kind = f"{source.resource.plural}.{source.resource.group}".rstrip(".")
    return f"the watch of {kind} in {namespace}: HTTP 403"


def told(operator: OperatorProcess, health: Health) -> None:
    until(lambda: operator.ask("/readyz"), lambda answer: answer == health, str(health))


def test_each_kind_that_is_refused_is_named_and_watched_again_when_the_right_is_back(
    api_server: ApiServer, install: Install, make_team: MakeTeam
) -> None:
    team = make_team("narrowed")
    installation = install("narrowed-system", "namespaces={narrowed}", signing_key("narrowed"))
    rights = Rights(installation, team.name)
    with TcpRelay(int(api_server.url.rpartition(":")[2])) as relay:
        operator = installation.start("a", f"https://127.0.0.1:{relay.port}").leads()
        told(operator, Health(200, [], leading=True))
        for source in sources(TABLE):
            rights.narrow(source)
            relay.hang_up()  # a watch that is open stays open, whatever its user may do now
            told(operator, Health(503, [refusal(source, team.name)], leading=True))
            assert operator.ask("/healthz") == Health(200, [], leading=False), "a restart would not help"
            rights.restore(source)
            told(operator, Health(200, [], leading=True))
        team.run("r1")
        team.started("r1")
        assert operator.terminate() == 0


def test_what_happened_while_a_kind_was_refused_is_done_when_the_right_is_back(
    api_server: ApiServer, install: Install, make_team: MakeTeam
) -> None:
    team = make_team("deaf")
    installation = install("deaf-system", "namespaces={deaf}", signing_key("deaf"))
    rights = Rights(installation, team.name)
    (flow_runs,) = (source for source in sources(TABLE) if source.resource.plural == "flowruns")
    with TcpRelay(int(api_server.url.rpartition(":")[2])) as relay:
        operator = installation.start("a", f"https://127.0.0.1:{relay.port}").leads()
        team.run("known")
        team.started("known")
        rights.narrow(flow_runs)
        relay.hang_up()
        told(operator, Health(503, [refusal(flow_runs, team.name)], leading=True))
        team.run("unheard")
        team.apply("WorkPool", "later", {"suspend": True})
        path = f"/apis/kapstan.dev/v1alpha1/namespaces/{team.name}/workpools/later"
        until(lambda: api_server.request("GET", path).body.get("status"), bool, "a status of what may be watched")
        assert team.status("unheard") == {}, "the fault did not bite"
        rights.restore(flow_runs)
        team.started("unheard")
        told(operator, Health(200, [], leading=True))
        assert team.jobs("unheard") == ["unheard-1"]
        assert team.jobs("known") == ["known-1"]


def test_an_operator_that_starts_without_a_right_leads_when_it_has_it(install: Install, make_team: MakeTeam) -> None:
    team = make_team("poor")
    installation = install("poor-system", "namespaces={poor}", signing_key("poor"))
    rights = Rights(installation, team.name)
    (pods,) = (source for source in sources(TABLE) if source.resource.plural == "pods")
    rights.narrow(pods)
    operator = installation.start("a")
    told(operator, Health(503, ["pods in poor is not listed yet", refusal(pods, team.name)], leading=False))
    team.run("r1")
    rights.restore(pods)
    operator.leads()
    team.started("r1")
    told(operator, Health(200, [], leading=True))


def test_a_namespace_without_rights_keeps_no_other_from_being_served(install: Install, make_team: MakeTeam) -> None:
    rich, poor = make_team("rich"), make_team("shut")
    installation = install("two-system", "namespaces={rich,shut}", signing_key("rich"), signing_key("shut"))
    path = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{poor.name}/rolebindings"
    binding = installation.server.request("GET", f"{path}/{installation.account}").body
    assert installation.server.request("DELETE", f"{path}/{installation.account}").code == 200
    until(lambda: installation.may("list", "", "pods", poor.name), lambda may: not may, "the right is gone")
    poor.run("p1")
    operator = installation.start("a").leads()
    rich.run("r1")
    rich.started("r1")
    assert (poor.jobs("p1"), poor.status("p1")) == ([], {})
    health = operator.ask("/readyz")
    assert refusal(next(iter(sources(TABLE))), poor.name) in health.problems
    binding["metadata"] = {"name": binding["metadata"]["name"], "namespace": poor.name}
    assert installation.server.request("POST", path, binding).code == 201
    poor.started("p1")
    assert poor.jobs("p1") == ["p1-1"]
    told(operator, Health(200, [], leading=True))


def test_ten_namespaces_are_ninety_watches_and_leave_requests_their_connections(
    install: Install, make_team: MakeTeam
) -> None:
    """All watches in the one pool of 64 connections kept the operator from ever leading."""
    teams = [make_team(f"many-{number}") for number in range(10)]
    names = ",".join(team.name for team in teams)
    installation = install("many-system", f"namespaces={{{names}}}", *(signing_key(team.name) for team in teams))
    operator = installation.start("a").leads()
    for team in teams:
        team.run("r1")
    for team in teams:
        team.started("r1")
    told(operator, Health(200, [], leading=True))

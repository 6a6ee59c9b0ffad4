"""`clusterWide: true`: the operator has in every namespace what its table says and no more, and serves all of them."""

from __future__ import annotations

import itertools

import pytest
from tests.cluster.errors import CommandFailed
from tests.contract.apiserver import ApiServer
from tests.contract.kubernetes.operators import (
    DEV_SERVICES,
    Health,
    Install,
    Installation,
    MakeTeam,
    Manifest,
    Team,
    make_namespace,
    rendered,
    signing_key,
    until,
)

from kapstan.controllers import rbac


def table(*roles: str) -> set[tuple[str, str]]:
    """(resource.group, verb) of rows of the table."""
    return {
        (f"{resource}.{right.group}", verb)
        for role in roles
        for right in rbac.TABLE[role]
        for resource, verb in itertools.product(right.resources, right.verbs)
    }


def rights(installation: Installation, namespace: str) -> set[tuple[str, str]]:
    """What the API server allows the operator there (`kubectl auth can-i --list`), but for what everybody may."""
    return may_do(installation, installation.user, namespace) - may_do(installation, "nobody", namespace)


def may_do(installation: Installation, user: str, namespace: str) -> set[tuple[str, str]]:
    spec = {"namespace": namespace}
    review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": spec}
    path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"
    answer = installation.server.request("POST", path, review, as_user=user)
    assert answer.code == 201, answer.message
    assert not answer.body["status"]["incomplete"]
    return {
        (f"{resource}.{group}", verb)
        for rule in answer.body["status"]["resourceRules"]
        for group, resource, verb in itertools.product(rule["apiGroups"], rule["resources"], rule["verbs"])
    }


@pytest.mark.parametrize("wide", [True, False])
def test_the_operator_has_the_rights_of_the_table_in_every_namespace_or_in_those_it_serves(
    api_server: ApiServer, install: Install, wide: bool
) -> None:
    name = "wide" if wide else "listed"
    for namespace in (f"{name}-team", f"{name}-other"):
        make_namespace(api_server, namespace)
    values = (f"clusterWide={str(wide).lower()}", f"namespaces={{{name}-team}}", signing_key(f"{name}-team"))
    installation = install(f"{name}-system", *values)
    served, everywhere = table("operator"), table("operator") if wide else set()
    assert rights(installation, f"{name}-team") == served
    assert rights(installation, f"{name}-other") == everywhere
    assert rights(installation, "kube-system") == everywhere
    assert rights(installation, installation.namespace) == everywhere | table("operator-own-namespace")
    for verb, group, resource in (
        ("get", "", "secrets"),
        ("list", "", "secrets"),
        ("create", "", "pods"),
        ("create", "", "pods/exec"),
        ("create", "rbac.authorization.k8s.io", "rolebindings"),
        ("get", "", "namespaces"),
        ("list", "", "nodes"),
    ):
        assert not installation.may(verb, group, resource, ""), f"{verb} {resource} in the whole cluster"


def test_a_namespace_of_no_list_is_served(install: Install, make_team: MakeTeam) -> None:
    """It brings its key along, and the Secret that its pods read."""
    unlisted = make_team("unlisted")
    unlisted.run("early")
    installation = install("wide-home", "clusterWide=true", signing_key("unlisted"))
    operator = installation.start("a").leads()
    unlisted.started("early")
    unlisted.run("late")
    unlisted.started("late")
    assert (unlisted.jobs("early"), unlisted.jobs("late")) == (["early-1"], ["late-1"])
    newest = make_team("made-later")
    newest.run("r1")
    degraded = until(lambda: degradation(newest, "r1"), bool, "a word about r1")
    assert degraded["reason"] == "StoreUnavailable"
    assert "no signing key for namespace 'made-later'" in degraded["message"]
    assert "with clusterWide, its key to `signing.keys`" in degraded["message"]
    assert newest.jobs("r1") == []
    assert operator.ask("/readyz") == Health(200, [], leading=True)


@pytest.mark.parametrize("values", [("namespaces={home,team}",), ("namespaces={home}", "clusterWide=true")])
def test_the_namespace_with_all_keys_is_not_served_beside_others(values: tuple[str, ...]) -> None:
    with pytest.raises(CommandFailed, match="home is the release's own namespace and holds the signing keys"):
        rendered("home", *DEV_SERVICES, signing_key("home"), signing_key("team"), *values)


def degradation(team: Team, run: str) -> Manifest:
    """The condition, empty while it is not True."""
    conditions = team.status(run).get("conditions", [])
    return next((one for one in conditions if one["type"] == "Degraded" and one["status"] == "True"), {})

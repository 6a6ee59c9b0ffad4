"""The chart's product on real pods: a flow run completes, workers serve, rights are what the table says."""

from __future__ import annotations

import base64
import itertools
import json
import os
from dataclasses import replace

import pytest
from tests.cluster.errors import CommandFailed
from tests.contract.kubernetes.operators import DEV_SERVICES
from tests.e2e import product
from tests.e2e.conftest import TEAM, Installed

from kapstan import ids
from kapstan.controllers import rbac
from kapstan.errors import SignatureError
from kapstan.runs.records import Records

# What helm takes for the cluster's version where it does not ask.
_VERSION = ("--kube-version", "1.34.0")
OPERATOR = f"system:serviceaccount:{product.NAMESPACE}:{product.RELEASE}-operator"


def test_a_flow_run_completes_and_its_result_is_read_from_outside(installed: Installed) -> None:
    installed.deploy("squares", "sum_of_squares")
    installed.run("squares-1", "squares", parameters={"count": 4})
    run = installed.wait("flowruns", "squares-1", ".status.phase", "Completed")
    (attempt,) = run["status"]["attempts"]
    assert (attempt["number"], attempt["job"], attempt["outcome"]) == (1, "squares-1-1", "Completed")
    assert _result(installed, "squares-1") == 0 + 1 + 4 + 9


def test_a_flow_that_raises_fails_with_its_words(installed: Installed) -> None:
    installed.deploy("broken", "broken")
    installed.run("broken-1", "broken")
    run = installed.wait("flowruns", "broken-1", ".status.phase", "Failed")
    assert run["status"]["diagnosis"]["category"] == "UserCode"
    assert "broken on purpose" in run["status"]["diagnosis"]["message"]


@pytest.mark.parametrize(
    ("number", "text"),
    list(enumerate(["$(KAPSTAN_SIGNING_KEY)", "$$(KAPSTAN_SIGNING_KEY)", "$(KAPSTAN_NAMESPACE)", "pa$$word", "$("])),
)
def test_the_kubelet_expands_nothing_that_a_user_wrote(installed: Installed, number: int, text: str) -> None:
    installed.deploy("echo", "echo")
    installed.run(f"echo-{number}", "echo", parameters={"text": text})
    installed.wait("flowruns", f"echo-{number}", ".status.phase", "Completed")
    assert _result(installed, f"echo-{number}") == text


def test_a_key_of_parameters_shows_no_secret(installed: Installed) -> None:
    """A user who may only create FlowRuns read the signing key from the status."""
    installed.deploy("echo", "echo")
    installed.run("thief", "echo", parametersRef={"key": "parameters/$(KAPSTAN_SIGNING_KEY)"})
    run = installed.wait("flowruns", "thief", ".status.phase", "Failed")
    assert "parameters/$(KAPSTAN_SIGNING_KEY)" in run["status"]["message"]
    with installed.backend() as backend:
        assert backend.settings.signing_key not in json.dumps(run)


def test_a_pod_holds_no_token_and_no_rights(installed: Installed) -> None:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "kapstan-redis", "namespace": installed.namespace},
        "spec": {"ports": [{"port": 6379}]},
    }
    installed.cluster.kubectl("apply", "-f", "-", input=json.dumps(service))
    installed.deploy("facts", "pod_facts")
    installed.run("facts-1", "facts")
    installed.wait("flowruns", "facts-1", ".status.phase", "Completed")
    assert _result(installed, "facts-1") == {"root": False, "token": False, "service_variables": False}


def test_an_image_that_does_not_exist_is_diagnosed(installed: Installed) -> None:
    code = {"entrypoint": "shop.py:broken", "image": "kapstan.test/nowhere:1"}
    installed.apply("Deployment", "nowhere", {"flow": code, "workPoolRef": {"name": "pool"}})
    installed.run("nowhere-1", "nowhere")
    run = installed.wait("flowruns", "nowhere-1", ".status.diagnosis.category", "ImagePull")
    assert "kapstan.test/nowhere:1" in run["status"]["diagnosis"]["message"]
    assert "image" in run["status"]["diagnosis"]["resolution"]


def test_workers_serve_and_follow_scale(installed: Installed) -> None:
    installed.apply("TaskWorker", "shop", {"image": installed.image, "tasks": ["shop.py"], "replicas": 2})
    installed.wait("taskworkers", "shop", ".status.readyReplicas", "2")
    names = ("-n", installed.namespace, "taskworkers.kapstan.dev/shop")
    installed.cluster.kubectl("scale", "--replicas=1", *names)
    installed.wait("taskworkers", "shop", ".status.replicas", "1")
    installed.cluster.kubectl("scale", "--replicas=2", *names)
    installed.wait("taskworkers", "shop", ".status.readyReplicas", "2")


def test_kubectl_shows_and_explains(installed: Installed) -> None:
    shown = installed.cluster.kubectl("get", "kapstan", "-n", installed.namespace)
    assert "workpool.kapstan.dev/pool" in shown
    explained = installed.cluster.kubectl("explain", "flowrun.spec.deploymentRef")
    assert "The Deployment (kapstan.dev) to run" in explained


def test_a_quota_that_is_used_up_is_told_and_waited_for(installed: Installed) -> None:
    there = replace(installed, namespace=product.LIMITED)
    _quota(there, "pods", 0)
    there.apply("WorkPool", "pool", {})
    there.deploy("squares", "sum_of_squares")
    there.apply("TaskWorker", "shop", {"image": there.image, "tasks": ["shop.py"], "replicas": 1})
    there.run("squares-1", "squares", parameters={"count": 2})
    run = there.wait("flowruns", "squares-1", ".status.diagnosis.category", "QuotaExceeded")
    assert run["status"]["phase"] == "Pending"
    assert "exceeded quota: only" in run["status"]["diagnosis"]["message"]
    worker = there.wait("taskworkers", "shop", '.status.conditions[?(@.type=="Degraded")].status', "True")
    assert "exceeded quota: only" in json.dumps(worker["status"]["conditions"])
    _quota(there, "count/jobs.batch", 0)
    there.run("squares-2", "squares", parameters={"count": 2})
    run = there.wait("flowruns", "squares-2", ".status.diagnosis.category", "QuotaExceeded")
    assert run["status"]["phase"] == "Scheduled"
    assert "exceeded quota: only" in run["status"]["message"]
    _quota(there, "pods", 8)
    there.wait("flowruns", "squares-2", ".status.phase", "Completed")
    assert there.get("flowruns", "squares-2")["status"].get("diagnosis") is None


def _quota(there: Installed, resource: str, hard: int) -> None:
    """The namespace's only quota; it counts once its controller has written its status."""
    where = ("-n", there.namespace)
    there.cluster.kubectl("delete", "resourcequota", "only", "--ignore-not-found", *where)
    there.cluster.kubectl("create", "quota", "only", f"--hard={resource}={hard}", *where)
    path = "{.status.hard." + resource.replace(".", r"\.") + "}"
    words = ("wait", "resourcequota/only", f"--for=jsonpath={path}={hard}", "--timeout=60s")
    there.cluster.kubectl(*words, *where, timeout=70)


def test_what_no_pod_may_be_is_told(installed: Installed) -> None:
    """A template that opens its pod is refused by Kapstan, one that is no pod by the API server; both say why."""
    rooted = {"spec": {"hostNetwork": True}}
    installed.apply("WorkPool", "host", {"podTemplate": rooted})
    code = {"entrypoint": "shop.py:sum_of_squares", "image": installed.image}
    installed.apply("Deployment", "host", {"flow": code, "workPoolRef": {"name": "host"}})
    installed.run("host-1", "host", parameters={"count": 1})
    run = installed.wait("flowruns", "host-1", ".status.diagnosis.category", "ConfigError")
    assert "spec.podTemplate.spec.hostNetwork" in run["status"]["diagnosis"]["message"]
    spec = {"image": installed.image, "tasks": ["shop.py"], "replicas": 1}
    installed.apply("TaskWorker", "host", spec | {"podTemplate": rooted})
    degraded = '.status.conditions[?(@.type=="Degraded")].reason'
    worker = installed.wait("taskworkers", "host", degraded, "Refused")
    assert "spec.podTemplate.spec.hostNetwork" in json.dumps(worker["status"]["conditions"])
    installed.apply("TaskWorker", "host", spec | {"podTemplate": {"spec": {"terminationGracePeriodSeconds": "soon"}}})
    worker = installed.wait("taskworkers", "host", degraded, "Refused")
    assert "terminationGracePeriodSeconds" in json.dumps(worker["status"]["conditions"])
    installed.cluster.kubectl("delete", "taskworkers.kapstan.dev/host", "flowruns.kapstan.dev/host-1", "-n", TEAM)


@pytest.mark.parametrize(
    ("verb", "resource"),
    [
        *itertools.product(("get", "list", "create"), ("secrets",)),
        ("create", "pods/exec"),
        ("create", "pods"),
        ("delete", "workpools.kapstan.dev"),
        ("create", "rolebindings.rbac.authorization.k8s.io"),
    ],
)
def test_the_operator_may_not(installed: Installed, verb: str, resource: str) -> None:
    assert not _can(installed, OPERATOR, verb, resource)


def test_the_operator_has_the_rights_of_the_table_and_no_more(installed: Installed) -> None:
    assert _rights(installed, OPERATOR) == _table("operator")
    assert _rights(installed, OPERATOR, product.NAMESPACE) == _table("operator-own-namespace")
    assert _rights(installed, OPERATOR, "default") == set()


def test_workload_accounts_have_none_of_them(installed: Installed) -> None:
    assert _rights(installed, f"system:serviceaccount:{TEAM}:default") == set()


ROLES = ("kapstan-user", "kapstan-admin")


@pytest.fixture(scope="module")
def people(installed: Installed) -> None:
    """A user for each role of the chart, bound in the namespace as NOTES.txt says."""
    for role in ROLES:
        binding = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": role, "namespace": TEAM},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": role}],
        }
        installed.cluster.kubectl("apply", "-f", "-", input=json.dumps(binding))


@pytest.mark.parametrize("role", ROLES)
def test_people_may_do_what_their_role_says_and_no_more(installed: Installed, people: None, role: str) -> None:
    assert _rights(installed, role) == _table(role.removeprefix("kapstan-"))
    assert _rights(installed, role, product.NAMESPACE) == set(), "bound in one namespace only"
    for verb, resource in (("get", "secrets"), ("list", "secrets"), ("create", "pods/exec"), ("create", "pods")):
        assert not _can(installed, role, verb, resource), (verb, resource)


def _table(role: str) -> set[tuple[str, str]]:
    """The rows of `rbac.TABLE`, as `_rights` tells them."""
    return {
        (f"{resource}.{right.group}", verb)
        for right in rbac.TABLE[role]
        for resource, verb in itertools.product(right.resources, right.verbs)
    }


def _rights(installed: Installed, user: str, namespace: str = TEAM) -> set[tuple[str, str]]:
    """(resource.group, verb) that the API server would allow (`kubectl auth can-i --list`), but what everybody may."""
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace},
    }
    words = ("create", "-f", "-", "-o", "json", "--validate=false", f"--as={user}")
    status = json.loads(installed.cluster.kubectl(*words, input=json.dumps(review)))["status"]
    rules = [rule for rule in status["resourceRules"] if "selfsubject" not in rule["resources"][0]]
    return {
        (f"{resource}.{group}", verb)
        for rule in rules
        for group, resource, verb in itertools.product(rule["apiGroups"], rule["resources"], rule["verbs"])
    }


def _can(installed: Installed, account: str, verb: str, resource: str) -> bool:
    words = ("auth", "can-i", verb, resource, "-n", installed.namespace, f"--as={account}")
    try:
        return installed.cluster.kubectl(*words).strip() == "yes"
    except CommandFailed:
        return False


def test_the_chart_is_sound_and_keeps_its_keys(installed: Installed) -> None:
    key = base64.b64encode(bytes(32)).decode()
    values = ",".join((*DEV_SERVICES, f"signing.keys.default={key}"))
    installed.cluster.helm("lint", product.CHART, "--strict", *_VERSION, "--set", values)
    before = [_secret(installed, *place) for place in _PLACES]
    product.install(installed.cluster)
    assert [_secret(installed, *place) for place in _PLACES] == before


def test_a_key_is_rotated_and_what_the_old_one_signed_is_still_read(installed: Installed) -> None:
    there = replace(installed, namespace=product.LIMITED)
    there.apply("WorkPool", "pool", {})
    there.deploy("squares", "sum_of_squares")
    there.run("old-key", "squares", parameters={"count": 2})
    there.wait("flowruns", "old-key", ".status.phase", "Completed")
    stored = (product.LIMITED, "kapstan-workload", "KAPSTAN_SIGNING_KEY")
    old, new = base64.b64decode(_secret(there, *stored)).decode(), base64.b64encode(os.urandom(32)).decode()
    keys = (f"signing.keys.{product.LIMITED}={new}", f"signing.previousKeys.{product.LIMITED}={old}")
    product.install(there.cluster, values=keys)
    there.run("new-key", "squares", parameters={"count": 3})
    there.wait("flowruns", "new-key", ".status.phase", "Completed")
    assert (_result(there, "old-key"), _result(there, "new-key")) == (0 + 1, 0 + 1 + 4)
    product.install(there.cluster)
    assert base64.b64decode(_secret(there, *stored)).decode() == new
    with pytest.raises(SignatureError):
        _result(there, "old-key")


def _result(there: Installed, name: str) -> object:
    """A flow run's result, read from the store with the keys that the namespace has now."""
    run_id = ids.parse(there.get("flowruns", name)["status"]["runId"])
    with there.backend() as backend:
        end = Records(backend).history(run_id).attempts[-1].end
        assert end is not None
        assert end.result is not None
        return backend.codec.decode(end.result, "result", run_id)


@pytest.mark.parametrize(
    "values",
    [
        (*DEV_SERVICES, "devServices.redis.storage=1Gi", "devServices.minio.storage=1Gi"),
        ("clusterWide=true", "redis.url=rediss://u:p@redis.example:6380/0", "s3.endpoint=https://s3.example"),
        ("crds.install=false", "operator.replicas=3", "redis.url=redis://r:6379", "s3.endpoint=http://s3:9000"),
    ],
)
def test_the_api_server_takes_what_the_chart_renders(installed: Installed, values: tuple[str, ...]) -> None:
    key = base64.b64encode(bytes(32)).decode()
    settings = (*values, f"namespaces={{{TEAM}}}", f"signing.keys.{TEAM}={key}", f"signing.previousKeys.{TEAM}={key}")
    words = [word for setting in settings for word in ("--set", setting)]
    rendered = installed.cluster.helm("template", "other", product.CHART, "-n", product.NAMESPACE, *_VERSION, *words)
    installed.cluster.kubectl("apply", "--dry-run=server", "-f", "-", input=rendered)


def test_without_a_cluster_to_ask_no_key_is_invented(installed: Installed) -> None:
    template = ("template", "x", product.CHART, *_VERSION, "--set", "devServices.enabled=true")
    with pytest.raises(CommandFailed, match=r"devServices\.redis\.password is not given"):
        installed.cluster.helm(*template)
    with pytest.raises(CommandFailed, match=r"signing\.keys\.default is not given"):
        installed.cluster.helm(*template, "--set", ",".join(DEV_SERVICES))


def test_a_leader_that_is_told_to_go_hands_over(installed: Installed) -> None:
    product.install(installed.cluster, values=("operator.replicas=2",))
    lease = ("lease", f"{product.RELEASE}-operator", "-n", product.NAMESPACE)
    leader = installed.cluster.get(*lease)["spec"]["holderIdentity"].split("_")[0]
    installed.cluster.kubectl("delete", "pod", leader, "-n", product.NAMESPACE)
    successor = installed.cluster.get(*lease)["spec"]["holderIdentity"].split("_")[0]
    assert successor not in ("", leader), "the Lease runs for 15 s; a pod that is gone has released it"
    installed.deploy("squares", "sum_of_squares")
    installed.run("handed-over", "squares", parameters={"count": 2})
    installed.wait("flowruns", "handed-over", ".status.phase", "Completed")
    product.install(installed.cluster)


_PLACES = ((TEAM, "kapstan-workload", "KAPSTAN_SIGNING_KEY"), (product.NAMESPACE, "kapstan-signing-keys", TEAM))


def _secret(installed: Installed, namespace: str, name: str, key: str) -> str:
    return installed.cluster.get("secret", name, "-n", namespace)["data"][key]

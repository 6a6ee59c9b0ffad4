"""What a pod template may not ask for, in pools and workers alike, and how an operator is told to allow it."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.kubernetes.test_render import job_request, workers_request

from kapstan.cluster.kubernetes import render
from kapstan.errors import InvalidResource

OURS = {"job": "flow", "worker": "worker"}


def rendered(what: str, template: dict[str, Any], *, restricted: bool = True) -> dict[str, Any]:
    if what == "job":
        made = render.job(job_request(pool={"podTemplate": template}), restricted=restricted)
    else:
        made = render.app_deployment(workers_request({"podTemplate": template}), restricted=restricted)
    return made["spec"]["template"]["spec"]


def container(what: str, **security: Any) -> dict[str, Any]:
    return {"containers": [{"name": OURS[what], "securityContext": security}]}


POD: list[tuple[dict[str, Any], str]] = [
    ({"hostNetwork": True}, "hostNetwork"),
    ({"hostPID": True}, "hostPID"),
    ({"hostIPC": True}, "hostIPC"),
    ({"securityContext": {"runAsUser": 0}}, "securityContext.runAsUser"),
    ({"securityContext": {"runAsNonRoot": False}}, "securityContext.runAsNonRoot"),
    ({"securityContext": {"seccompProfile": {"type": "Unconfined"}}}, "securityContext.seccompProfile.type"),
    ({"securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}}, "securityContext.sysctls"),
    ({"securityContext": {"seLinuxOptions": {"role": "r"}}}, "securityContext.seLinuxOptions"),
    ({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}, "volumes[0].hostPath"),
    ({"volumes": [{"name": "v", "nfs": {"server": "s", "path": "/"}}]}, "volumes[0].nfs"),
    (
        {"volumes": [{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}]},
        "volumes[0].projected.sources[0].serviceAccountToken",
    ),
    # What we set is taken away instead of overridden.
    ({"securityContext": None}, "containers[0].securityContext.runAsNonRoot"),
    ({"securityContext": {"$patch": "replace"}}, "containers[0].securityContext.runAsNonRoot"),
    ({"securityContext": {"seccompProfile": None}}, "containers[0].securityContext.seccompProfile.type"),
]
CONTAINER: list[tuple[dict[str, Any], str]] = [
    ({"privileged": True}, "privileged"),
    ({"allowPrivilegeEscalation": True}, "allowPrivilegeEscalation"),
    ({"capabilities": {"add": ["SYS_ADMIN"]}}, "capabilities.add"),
    ({"capabilities": {"drop": ["NET_RAW"]}}, "capabilities.drop"),
    ({"runAsUser": 0}, "runAsUser"),
    ({"runAsNonRoot": False}, "runAsNonRoot"),
    ({"procMount": "Unmasked"}, "procMount"),
    ({"seccompProfile": {"type": "Unconfined"}}, "seccompProfile.type"),
    ({"appArmorProfile": {"type": "Unconfined"}}, "appArmorProfile.type"),
]


def index_of(path: str, what: str, template: dict[str, Any]) -> str:
    """A template's first volume comes after those of ours."""
    names = [volume["name"] for volume in rendered(what, template, restricted=False)["volumes"]]
    return path.replace("volumes[0]", f"volumes[{names.index('v')}]") if "v" in names else path


@pytest.mark.parametrize("what", OURS)
@pytest.mark.parametrize(("spec", "path"), POD)
def test_a_template_may_not_open_the_pod(what: str, spec: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidResource) as refused:
        rendered(what, {"spec": spec})
    fields = [field for field, _ in refused.value.problems]
    assert f"spec.podTemplate.spec.{index_of(path, what, {'spec': spec})}" in fields
    assert str(refused.value).startswith({"job": "WorkPool", "worker": "TaskWorker"}[what])
    assert "operator.podSecurity" in str(refused.value)


@pytest.mark.parametrize("what", OURS)
@pytest.mark.parametrize("part", ["containers", "initContainers"])
@pytest.mark.parametrize(("security", "path"), CONTAINER)
def test_a_template_may_not_open_a_container(what: str, part: str, security: dict[str, Any], path: str) -> None:
    name = OURS[what] if part == "containers" else "first"
    spec = {part: [{"name": name, "image": "i", "securityContext": security}]}
    with pytest.raises(InvalidResource) as refused:
        rendered(what, {"spec": spec})
    assert [field for field, _ in refused.value.problems] == [f"spec.podTemplate.spec.{part}[0].securityContext.{path}"]


@pytest.mark.parametrize("what", OURS)
@pytest.mark.parametrize(
    "security", [{"allowPrivilegeEscalation": None}, {"capabilities": None}, {"$patch": "replace"}]
)
def test_what_a_template_takes_from_a_container_is_put_back(what: str, security: dict[str, Any]) -> None:
    pod = rendered(what, {"spec": container(what, **security)})
    assert pod["containers"][0]["securityContext"]["allowPrivilegeEscalation"] is False
    assert pod["containers"][0]["securityContext"]["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize("what", OURS)
def test_a_port_of_the_node_is_refused(what: str) -> None:
    spec = {"containers": [{"name": "sidecar", "image": "s", "ports": [{"containerPort": 80, "hostPort": 80}]}]}
    with pytest.raises(InvalidResource, match=r"hostPort"):
        rendered(what, {"spec": spec})


@pytest.mark.parametrize("what", OURS)
def test_what_restricted_allows_stays_the_templates_to_say(what: str) -> None:
    spec = {
        "nodeSelector": {"disk": "fast"},
        "securityContext": {"runAsUser": 1000, "fsGroup": 1000},
        "volumes": [
            {"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
            {"name": "conf", "projected": {"sources": [{"configMap": {"name": "c"}}, {"secret": {"name": "s"}}]}},
        ],
        "containers": [
            {
                "name": OURS[what],
                "env": [{"name": "A", "value": "$(POD_NAME)"}],
                "securityContext": {"readOnlyRootFilesystem": False, "capabilities": {"add": ["NET_BIND_SERVICE"]}},
            },
        ],
    }
    pod = rendered(what, {"spec": spec})
    assert pod["nodeSelector"] == {"disk": "fast"}
    assert pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is False
    assert {"name": "A", "value": "$(POD_NAME)"} in pod["containers"][0]["env"], "a template is not a user's bytes"


@pytest.mark.parametrize("what", OURS)
def test_an_operator_may_be_told_to_leave_it_to_the_namespace(what: str) -> None:
    pod = rendered(what, {"spec": {"hostNetwork": True, **container(what, privileged=True)}}, restricted=False)
    assert pod["hostNetwork"] is True
    assert pod["containers"][0]["securityContext"]["privileged"] is True

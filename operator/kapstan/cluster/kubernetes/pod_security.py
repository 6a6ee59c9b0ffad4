"""The floor under every pod template: what a pod of Kapstan's must never be, unless the operator's settings allow it.

The rules of Pod Security `restricted`, and two of Kapstan's own: no token of the API server, no credentials of nodes.
Checked on the pod as it is rendered, whatever way a template took to get there. `render` calls it. A namespace may
enforce Pod Security besides; this holds where it does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

Json = dict[str, Any]
Problem = tuple[str, str]

VOLUMES = frozenset(
    {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
)
"""Kinds of volumes that show nothing of a node."""
CAPABILITIES = frozenset({"NET_BIND_SERVICE"})
_HOST = ("hostNetwork", "hostPID", "hostIPC")
_LOWER = "; or lower the floor for this operator (`operator.podSecurity: privileged` of the chart)"


def violations(pod: Json) -> list[Problem]:
    """(path below the pod's spec, what is wrong) of each broken rule, for a rendered pod's ``spec``."""
    return [(path, problem + _LOWER) for path, problem in _of_pod(pod)]


def _of_pod(pod: Json) -> Iterator[Problem]:
    for field in _HOST:
        if pod.get(field):
            yield field, "a pod has no part in its node's network, processes or memory: remove it"
    security = _object(pod, "securityContext")
    yield from _of_security("securityContext", security)
    if security.get("sysctls"):
        yield "securityContext.sysctls", "kernel settings are not a pod's to change: remove them"
    for index, volume in enumerate(_objects(pod, "volumes")):
        yield from _of_volume(f"volumes[{index}]", volume)
    for part in ("initContainers", "containers", "ephemeralContainers"):
        for index, container in enumerate(_objects(pod, part)):
            yield from _of_container(f"{part}[{index}]", container, security)


def _of_volume(path: str, volume: Json) -> Iterator[Problem]:
    for kind in sorted(volume.keys() - {"name"} - VOLUMES):
        yield f"{path}.{kind}", f"a volume of type {kind} is not allowed: use one of {', '.join(sorted(VOLUMES))}"
    for number, source in enumerate(_objects(_object(volume, "projected"), "sources")):
        for kind in ("serviceAccountToken", "clusterTrustBundle", "podCertificate"):
            if kind in source:
                yield f"{path}.projected.sources[{number}].{kind}", "pods hold no credentials of the cluster: remove it"


def _of_container(path: str, container: Json, of_pod: Json) -> Iterator[Problem]:
    security = _object(container, "securityContext")
    here = f"{path}.securityContext"
    if security.get("privileged"):
        yield f"{here}.privileged", "a privileged container is root on its node: remove it"
    if security.get("allowPrivilegeEscalation") is not False:
        yield f"{here}.allowPrivilegeEscalation", "must be false"
    capabilities = _object(security, "capabilities")
    if "ALL" not in (capabilities.get("drop") or []):
        yield f"{here}.capabilities.drop", "must hold ALL"
    added = sorted(set(capabilities.get("add") or []) - CAPABILITIES)
    if added:
        yield f"{here}.capabilities.add", f"{', '.join(map(str, added))} not allowed: only NET_BIND_SERVICE is"
    if security.get("procMount", "Default") != "Default":
        yield f"{here}.procMount", "must be Default"
    yield from _of_security(here, security)
    if security.get("runAsNonRoot", of_pod.get("runAsNonRoot")) not in (True, False):  # false: reported already
        yield f"{here}.runAsNonRoot", "must be true, here or for the pod"
    if "type" not in (_object(security, "seccompProfile") or _object(of_pod, "seccompProfile")):
        yield f"{here}.seccompProfile.type", "must be RuntimeDefault or Localhost, here or for the pod"
    for index, port in enumerate(_objects(container, "ports")):
        if port.get("hostPort"):
            yield f"{path}.ports[{index}].hostPort", "a pod takes no port of its node: remove it"
    for moment in ("postStart", "preStop"):
        if "host" in _object(_object(_object(container, "lifecycle"), moment), "httpGet"):
            yield f"{path}.lifecycle.{moment}.httpGet.host", "remove it: the kubelet asks the pod itself"


def _of_security(here: str, security: Json) -> Iterator[Problem]:
    """What a pod's and a container's ``securityContext`` have in common."""
    if security.get("runAsNonRoot") is False:
        yield f"{here}.runAsNonRoot", "must not be false"
    if security.get("runAsUser") == 0:
        yield f"{here}.runAsUser", "must not be 0, which is root"
    for profile in ("seccompProfile", "appArmorProfile"):
        if _object(security, profile).get("type") == "Unconfined":
            yield f"{here}.{profile}.type", "must be RuntimeDefault or Localhost"
    if _object(security, "windowsOptions").get("hostProcess"):
        yield f"{here}.windowsOptions.hostProcess", "a process of the node's is not allowed: remove it"
    options = _object(security, "seLinuxOptions")
    if options.get("user") or options.get("role"):
        yield f"{here}.seLinuxOptions", "user and role are not a pod's to choose: remove them"


def _object(parent: Json, name: str) -> Json:
    value = parent.get(name)
    return cast("Json", value) if isinstance(value, dict) else {}


def _objects(parent: Json, name: str) -> list[Json]:
    value = parent.get(name)
    items = cast("list[Any]", value) if isinstance(value, list) else []
    return [cast("Json", item) for item in items if isinstance(item, dict)]

"""What a test sees of a cluster, whichever way it was brought up.

Every method works on every provider, or raises NotApplicable where ``has_node`` is false and the test needs a node.
"""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.cluster import tools
from tests.cluster.command import run
from tests.cluster.errors import CommandFailed, NotApplicable
from tests.cluster.progress import Progress


class Cluster(ABC):
    """A running Kubernetes.

    ``provider``      node, kind or named
    ``kubeconfig``    path of a kubeconfig with all rights
    ``has_node``      whether ``kill_container`` and the like can reach the machine that the pods run on
    ``host_address``  an address of this machine that pods can connect to, None where it is not known
    ``base_image``    a Debian with python3 for ``FROM`` in a build on this cluster
    """

    provider: str
    has_node: bool
    base_image: str

    def __init__(self, kubeconfig: Path, kubectl: str | Path, host_address: str | None) -> None:
        self.kubeconfig = kubeconfig
        self.host_address = host_address
        self._kubectl = kubectl

    def kubectl(self, *words: str | Path, input: str | None = None, timeout: float = 60) -> str:  # noqa: A002
        """Standard output of ``kubectl``. Raises CommandFailed with what it wrote."""
        return run([self._kubectl, f"--kubeconfig={self.kubeconfig}", *words], text=input, timeout=timeout)

    def get(self, *words: str) -> dict[str, Any]:
        """``kubectl get ... -o json`` as a dictionary."""
        found: dict[str, Any] = json.loads(self.kubectl("get", *words, "-o", "json"))
        return found

    def helm(self, *words: str | Path, timeout: float = 300) -> str:
        """Standard output of ``helm``, which is built at first use. Raises CommandFailed with what it wrote."""
        tools.ensure(["helm"], Progress())
        return run([tools.path("helm"), f"--kubeconfig={self.kubeconfig}", *words], timeout=timeout)

    @abstractmethod
    def load_image(
        self,
        dockerfile: Path,
        *,
        tag: str,
        context: Path,
        target: str | None = None,
        build_args: Mapping[str, str] | None = None,
    ) -> str:
        """Build *target* of *dockerfile* and put it on the nodes. Returns the reference for ``image:``.

        Pods must use ``imagePullPolicy: IfNotPresent``: no registry is behind *tag*. An image that has not changed is
        not sent again. Raises CommandFailed with the build's output.
        """

    def kill_container(self, pod: str, namespace: str, container: str, signal: str = "SIGKILL") -> str:
        """Send *signal* to the first process of a running container, from its node. Returns the id of the container
        that was hit, as it stands in ``containerStatuses[].containerID`` and its ``lastState`` after ``//``.

        Raises NotApplicable without a node, LookupError where the container is not running.
        """
        if not self.has_node:
            raise NotApplicable(f"killing a container needs its node, which a {self.provider} cluster does not give")
        status = self.get("pod", pod, "-n", namespace)["status"]
        states = {one["name"]: one for one in status.get("containerStatuses", [])}
        if container not in states or "running" not in states[container]["state"]:
            raise LookupError(f"container {container} of pod {namespace}/{pod} is not running: {states.get(container)}")
        number = str(states[container]["containerID"]).partition("//")[2]
        self.ctr("task", "kill", "--signal", signal, number)
        return number

    @contextmanager
    def silent_node(self) -> Generator[None]:
        """The node's kubelet does nothing while the block lasts, as if the node were cut off: what runs there runs on.

        Raises NotApplicable without a node.
        """
        raise NotApplicable(f"a {self.provider} cluster gives no kubelet to stop")
        yield

    @contextmanager
    def policies(self) -> Generator[None]:
        """The network enforces NetworkPolicies while the block lasts, for the pods that run when it begins.

        Raises NotApplicable where that is not known of the network.
        """
        raise NotApplicable(f"whether the network of a {self.provider} cluster enforces policies is not known")
        yield

    def ctr(self, *words: str | Path) -> str:
        """``ctr -n k8s.io ...`` on the node. Raises NotApplicable without one."""
        raise NotApplicable(f"{' '.join(map(str, words))} needs a node, which a {self.provider} cluster does not give")

    @contextmanager
    def forward(self, service: str, namespace: str, port: int) -> Generator[tuple[str, int]]:
        """Host and port by which this process reaches *port* of a Service (``pod/NAME`` for a pod) in the block.

        Raises CommandFailed where there is no such Service or no pod behind it is ready within 30 s.
        """
        kind, _, name = service.rpartition("/")
        where = [f"--kubeconfig={self.kubeconfig}", "port-forward", "-n", namespace, f"{kind or 'service'}/{name}"]
        argv = [str(self._kubectl), *where, f":{port}", "--pod-running-timeout=30s"]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            try:
                yield "127.0.0.1", _forwarded_port(process, argv)
            finally:
                process.kill()


def _forwarded_port(process: subprocess.Popen[bytes], argv: list[str], timeout: float = 40) -> int:
    assert process.stdout is not None
    said, deadline = b"", time.monotonic() + timeout
    while True:
        found = re.search(rb"Forwarding from 127\.0\.0\.1:(\d+) ", said)
        if found is not None:
            return int(found[1])
        ready = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]
        chunk = os.read(process.stdout.fileno(), 4096) if ready else b""
        if not chunk:
            raise CommandFailed(argv, process.wait(5) if ready else None, said.decode(errors="replace"))
        said += chunk

"""The network of our own node enforces NetworkPolicies for a while: the bridge that joins its pods does not by itself.

kube-router writes them into the packet filter of the node. It runs only while a test wants it, since a pod that has
just started is refused until it has been written there, too.
"""

from __future__ import annotations

import shlex
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster import configuration, tools
from tests.cluster.command import run
from tests.cluster.errors import ClusterUnavailable
from tests.cluster.progress import Progress

_WRITTEN = "sync iptables took"


@contextmanager
def enforced(root: Path, pid: int) -> Generator[None]:
    """What policies forbid is refused while the block lasts, for all pods that run when it begins.

    Args:
        root: the node's state.
        pid: any process in the node's network.

    Raises:
        ClusterUnavailable: the agent cannot be built, or does not write its rules within 30 s.
    """
    tools.ensure(["kube-router"], Progress())
    inside = ("nsenter", f"--net=/proc/{pid}/ns/net")
    # It dies with this process, or it would keep the node's network alive.
    argv = ["setpriv", "--pdeathsig", "KILL", *inside, *configuration.policy_agent(root)]
    log = root / "log" / "kube-router.log"
    with log.open("wb") as output:
        agent = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        _wait(agent, log)
        yield
    finally:
        agent.kill()
        agent.wait()
        _unhook(inside)


def _wait(agent: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 30
    while _WRITTEN not in log.read_text(errors="replace"):
        if agent.poll() is not None or time.monotonic() > deadline:
            raise ClusterUnavailable(f"no policy is enforced; {log}: {log.read_text(errors='replace')[-500:]}")
        time.sleep(0.05)


def _unhook(inside: tuple[str, ...]) -> None:
    """Take the agent's chains out of the way of packets; what stands in them is overwritten at the next start."""
    for chain in ("INPUT", "FORWARD", "OUTPUT"):
        for rule in run([*inside, "iptables", "-S", chain]).splitlines():
            if f"-j KUBE-ROUTER-{chain}" in rule:
                run([*inside, "iptables", "-D", *shlex.split(rule)[1:]])

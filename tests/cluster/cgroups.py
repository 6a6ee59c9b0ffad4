"""The node's control groups: one directory of our own in every hierarchy, so that only ours are ever removed.

Works with version 1, version 2 and both at once. Called by the node only.
"""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

from tests.cluster.errors import ClusterUnavailable
from tests.cluster.state import ProcessIdentity


def name(state: Path) -> str:
    """The same for every run on one state directory, and no other's."""
    return f"kapstan-test-{hashlib.sha256(os.fsencode(state)).hexdigest()[:8]}"


def roots(state: Path) -> list[Path]:
    """Our directory in each hierarchy that is mounted, whether it exists or not."""
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    return [Path(fields[1]) / name(state) for fields in mounts if fields[2] in ("cgroup", "cgroup2")]


def create(state: Path) -> None:
    """The kubelet wants its root to exist. A new cpuset of version 1 has no processors until it is given some."""
    for root in roots(state):
        root.mkdir(exist_ok=True)
        for setting in ("cpuset.cpus", "cpuset.mems"):
            above = root.parent / setting
            if above.exists():
                (root / setting).write_text(above.read_text())


def remove(state: Path, timeout: float = 15) -> None:
    """Remove our directories, and end what still runs in them. Raises ClusterUnavailable where that takes too long."""
    deadline = time.monotonic() + timeout
    while True:
        left = [root for root in roots(state) if root.exists() and not _remove_tree(root)]
        if not left:
            return
        if time.monotonic() > deadline:
            raise ClusterUnavailable(f"control groups cannot be removed: {', '.join(map(str, left))}")
        for root in left:
            _end_members(root)
        time.sleep(0.05)


def _remove_tree(root: Path) -> bool:
    for directory, _, _ in os.walk(root, topdown=False):
        try:
            os.rmdir(directory)
        except FileNotFoundError:
            continue
        except OSError:  # busy: a process in it is not quite gone yet
            return False
    return True


def _end_members(root: Path) -> None:
    for members in root.rglob("cgroup.procs"):
        try:
            pids = members.read_text().split()
        except OSError:  # the directory went away meanwhile, or is threaded
            continue
        for pid in map(int, pids):
            try:
                ProcessIdentity.of(pid).kill()
            except ProcessLookupError:
                continue

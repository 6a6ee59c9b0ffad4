"""The system packages that a node of our own needs: looked for by their programs, installed only when asked to."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster import tools
from tests.cluster.command import run
from tests.cluster.errors import ClusterUnavailable
from tests.cluster.progress import Progress

# Debian package -> a program or file that shows that it is there.
NEEDED = {
    "buildah": "buildah",
    "conntrack": "conntrack",
    "containerd": "containerd",
    "containernetworking-plugins": "/usr/lib/cni/bridge",
    "faketime": "faketime",
    "iproute2": "ip",
    "ipset": "ipset",
    "iptables": "iptables",
    "mmdebstrap": "mmdebstrap",
    "mount": "mount",
    "nftables": "nft",
    "openssl": "openssl",
    "postgresql": "/usr/lib/postgresql",
    "redis-server": "redis-server",
    "runc": "runc",
    "util-linux": "unshare",
}


_NO_CLUSTER = Path("/etc/postgresql-common/createcluster.d/kapstan-tests.conf")


def missing() -> list[str]:
    """Names of the packages whose program is not on PATH."""
    return [package for package, proof in NEEDED.items() if not _found(proof)]


def may_install(asked: bool) -> bool:
    """Packages are installed where a person asked for it, and in CI; never behind a user's back."""
    return asked or os.environ.get("CI") == "true"


def ensure(install: bool, progress: Progress) -> None:
    """Raises ClusterUnavailable naming the missing packages and the command that installs them."""
    absent = missing()
    if not absent:
        return
    named = f"system packages are missing: {', '.join(absent)}"
    if not may_install(install):
        raise ClusterUnavailable(f"{named}; `make cluster-up` installs them by apt-get")
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise ClusterUnavailable(f"{named}; installing them needs root and apt-get")
    with _alone():
        absent = missing()  # another process may have installed them while this one waited
        if absent:
            with progress.step(f"install {', '.join(absent)}"):
                _install(absent)
    still = missing()
    if still:
        raise ClusterUnavailable(f"installed, but still not to be found: {', '.join(NEEDED[name] for name in still)}")


def _install(absent: list[str]) -> None:
    # Installing a daemon must not start it: the tests bring up their own, and this machine's are not our business.
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    if "postgresql" in absent:  # nor make a cluster in the system's folders
        _NO_CLUSTER.parent.mkdir(parents=True, exist_ok=True)
        _NO_CLUSTER.write_text("create_main_cluster = false\n")
    run(["apt-get", "update", "-q"], env=env, timeout=600)
    run(["apt-get", "install", "-q", "-y", "--no-install-recommends", *absent], env=env, timeout=1800)


@contextmanager
def _alone() -> Generator[None]:
    tools.cache().mkdir(parents=True, exist_ok=True)
    with (tools.cache() / ".packages.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _found(proof: str) -> bool:
    return Path(proof).exists() if proof.startswith("/") else shutil.which(proof) is not None

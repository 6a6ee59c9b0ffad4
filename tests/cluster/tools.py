"""The programs of a Kubernetes node, and Helm, MinIO and kind, built from the Go module proxy into a cache.

A program is built once per version: beside each lies a stamp that names what it was built from, so a version bump
builds it anew. Called by the node, by kind and by tests that need ``minio`` or ``helm``.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.command import run
from tests.cluster.errors import ClusterUnavailable, CommandFailed
from tests.cluster.progress import Progress

KUBERNETES = "1.34.4"  # the last minor version whose kubelet accepts cgroup v1 without being asked
ETCD = "3.6.4"
GO_NEEDED = (1, 25)

_PAUSE_SOURCE = """\
// The first process of every pod: it holds the pod's namespaces until it is told to end.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGINT, syscall.SIGTERM)
	<-told
}
"""


@dataclass(frozen=True, slots=True)
class Tool:
    """One program. ``package`` is its main package, ``module`` and ``version`` what it comes from."""

    package: str
    module: str
    version: str
    link: str = ""

    @property
    def stamp(self) -> str:
        return f"{self.module} {self.version}"


def _kubernetes(command: str) -> Tool:
    return Tool(f"k8s.io/kubernetes/cmd/{command}", "k8s.io/kubernetes", f"v{KUBERNETES}")


TOOLS: Mapping[str, Tool] = {
    **{
        name: _kubernetes(name)
        for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "kubectl")
    },
    "etcd": Tool("go.etcd.io/etcd/server/v3", "go.etcd.io/etcd/server/v3", f"v{ETCD}"),
    "coredns": Tool("github.com/coredns/coredns", "github.com/coredns/coredns", "v1.14.3"),
    "helm": Tool(
        "helm.sh/helm/v3/cmd/helm", "helm.sh/helm/v3", "v3.19.5", "-X helm.sh/helm/v3/internal/version.version=v3.19.5"
    ),
    "minio": Tool("github.com/minio/minio", "github.com/minio/minio", "v0.0.0-20260212201848-7aac2a2c5b7c"),
    "kind": Tool("sigs.k8s.io/kind", "sigs.k8s.io/kind", "v0.33.0"),
    "kube-router": Tool(
        "github.com/cloudnativelabs/kube-router/v2/cmd/kube-router",
        "github.com/cloudnativelabs/kube-router/v2",
        "v2.1.0",
    ),
    "pause": Tool("pause", "pause", hashlib.sha256(_PAUSE_SOURCE.encode()).hexdigest()[:12]),
}
NODE_TOOLS = tuple(name for name in TOOLS if name not in ("kind", "kube-router"))
TEST_TOOLS = (*NODE_TOOLS, "kube-router")
"""What the tests need: the agent that enforces network policies runs for one of them only."""


def cache() -> Path:
    """Where programs and images are kept between runs, outside the repository."""
    named = os.environ.get("KAPSTAN_TEST_CACHE")
    if named:
        return Path(named).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kapstan" / "cluster"


def path(name: str) -> Path:
    """Where the program *name* is, or will be once ``ensure`` has built it."""
    return cache() / "bin" / name


def missing(names: Iterable[str]) -> list[str]:
    """Those of *names* that are not in the cache in the version that is wanted."""
    return [name for name in names if not _is_current(name)]


def ensure(names: Iterable[str], progress: Progress) -> None:
    """Build what is missing of *names*. Raises ClusterUnavailable without a new enough Go, and where a build fails."""
    wanted = tuple(names)
    if not missing(wanted):
        return
    path("").mkdir(parents=True, exist_ok=True)
    with _building():
        absent = missing(wanted)  # another run may have built them while this one waited
        if not absent:
            return
        go = _go(absent)
        together = [name for name in absent if TOOLS[name].module == "k8s.io/kubernetes" or name == "etcd"]
        if together:
            title = f"build {', '.join(together)} (minutes where Go's own cache is empty)"
            with progress.step(title), _workspace() as work:
                _build_kubernetes(go, together, work)
        for name in absent:
            if name in together:
                continue
            with progress.step(f"build {name} {TOOLS[name].version}"), _workspace() as work:
                _build_pause(go, work) if name == "pause" else _install(go, name, work)


@contextmanager
def _building() -> Generator[None]:
    with (cache() / "bin" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left in (cache() / "bin").glob(".build-*"):  # of a run that was killed
            shutil.rmtree(left)
        yield


@contextmanager
def _workspace() -> Generator[Path]:
    # Inside the cache, so that the finished program is moved and never copied half.
    with tempfile.TemporaryDirectory(dir=cache() / "bin", prefix=".build-") as name:
        yield Path(name)


def _is_current(name: str) -> bool:
    program, stamp, tool = path(name), path(f".{name}.stamp"), TOOLS[name]
    if not os.access(program, os.X_OK):
        return False
    if stamp.exists():
        return stamp.read_text() == tool.stamp
    # Built by hand: Go writes into every program which modules it was made of.
    go = _find_go()
    if go is None:
        return False
    try:
        made_of = run([go, "version", "-m", program])
    except CommandFailed:
        return False
    origin = rf"^\s(mod|dep)\s+{re.escape(tool.module)}\s+{re.escape(tool.version)}\b"
    if re.search(origin, made_of, re.MULTILINE) is None:
        return False
    stamp.write_text(tool.stamp)
    return True


def _find_go() -> str | None:
    return shutil.which("go") or shutil.which("/usr/local/go/bin/go")


def _go(needed_for: list[str]) -> str:
    go = _find_go()
    wanted = ".".join(map(str, GO_NEEDED))
    if go is None:
        raise ClusterUnavailable(f"building {', '.join(needed_for)} needs Go >= {wanted} on PATH or in /usr/local/go")
    said = run([go, "env", "GOVERSION"]).strip()
    found = re.match(r"go(\d+)\.(\d+)", said)
    if found is None or (int(found[1]), int(found[2])) < GO_NEEDED:
        raise ClusterUnavailable(f"{go} is {said}; building {', '.join(needed_for)} needs Go >= {wanted}")
    return go


def _run_go(go: str, *words: str | Path, cwd: Path) -> str:
    env = {**os.environ, "CGO_ENABLED": "0", "GOBIN": str(cwd / "out"), "GOFLAGS": "-trimpath -buildvcs=false"}
    try:
        return run([go, *words], env=env, cwd=cwd, timeout=3600)
    except CommandFailed as failure:
        raise ClusterUnavailable(f"building the cluster's programs failed: {failure}") from failure


def _keep(name: str, program: Path) -> None:
    path(f".{name}.stamp").unlink(missing_ok=True)
    program.replace(path(name))
    path(f".{name}.stamp").write_text(TOOLS[name].stamp)


def _install(go: str, name: str, work: Path) -> None:
    tool = TOOLS[name]
    _run_go(go, "install", "-ldflags", f"-s -w {tool.link}", f"{tool.package}@{tool.version}", cwd=work)
    _keep(name, work / "out" / name)


def _build_pause(go: str, work: Path) -> None:
    (work / "main.go").write_text(_PAUSE_SOURCE)
    _run_go(go, "mod", "init", "pause", cwd=work)
    _run_go(go, "build", "-ldflags", "-s -w", "-o", work / "out" / "pause", ".", cwd=work)
    _keep("pause", work / "out" / "pause")


def _build_kubernetes(go: str, names: list[str], work: Path) -> None:
    """Kubernetes replaces the modules of its own staging tree by relative paths, which no other module can follow: ours
    points each at its published version, whose number is that of Kubernetes with 0 for the major part."""
    published = f"v0.{KUBERNETES.partition('.')[2]}"
    _run_go(go, "mod", "init", "cluster-tools", cwd=work)
    fetched = json.loads(_run_go(go, "mod", "download", "-json", f"k8s.io/kubernetes@v{KUBERNETES}", cwd=work))
    replaced = json.loads(_run_go(go, "mod", "edit", "-json", fetched["GoMod"], cwd=work))["Replace"]
    staged = [one["Old"]["Path"] for one in replaced if one["New"]["Path"].startswith("./staging/")]
    required = {TOOLS[name].module: TOOLS[name].version for name in ("kubelet", "etcd")}
    edits = [f"-require={module}@{version}" for module, version in required.items()]
    edits += [f"-replace={module}={module}@{published}" for module in staged]
    _run_go(go, "mod", "edit", *edits, cwd=work)
    together = (name for name, tool in TOOLS.items() if tool.module in required)
    imports = "\n".join(f'import _ "{TOOLS[name].package}"' for name in together)
    (work / "tools.go").write_text(f"//go:build tools\n\npackage tools\n\n{imports}\n")
    _run_go(go, "mod", "tidy", "-e", cwd=work)
    home = "k8s.io/component-base/version"
    major, minor, _ = KUBERNETES.split(".")
    said = {"gitVersion": f"v{KUBERNETES}", "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    link = "-s -w " + " ".join(f"-X {home}.{key}={value}" for key, value in said.items())
    for name in names:
        _run_go(go, "build", "-ldflags", link, "-o", work / "out" / name, TOOLS[name].package, cwd=work)
        _keep(name, work / "out" / name)

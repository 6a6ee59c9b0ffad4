"""Kubernetes on this machine without docker: one node in namespaces of its own, ended by ending its first process.

Needs root and the packages of ``packages``. The machine sees four things of it: a process, a network link with two
routes, a control group per hierarchy, and the state directory; ``take_down`` removes all of them, also after a crash.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.cluster import cgroups, configuration, images, machine, packages, policies, tools
from tests.cluster.cluster import Cluster
from tests.cluster.command import run
from tests.cluster.errors import ClusterUnavailable, CommandFailed
from tests.cluster.pki import Authority
from tests.cluster.progress import Progress
from tests.cluster.state import ProcessIdentity, Record, State

NAME = "node"
_KERNEL = Path("/proc/sys")


class NodeCluster(Cluster):
    """The cluster on our own node. Pods and Services are reached from here by their addresses."""

    provider = NAME
    has_node = True
    base_image = configuration.BASE_IMAGE

    def __init__(self, state: State) -> None:
        super().__init__(state.kubeconfig, tools.path("kubectl"), configuration.HOST_ADDRESS)
        self._root = state.root

    def load_image(
        self,
        dockerfile: Path,
        *,
        tag: str,
        context: Path,
        target: str | None = None,
        build_args: Mapping[str, str] | None = None,
    ) -> str:
        number = images.build(dockerfile, target, tag, context, build_args or {})
        loaded = self._root / "images" / number
        if not loaded.exists() or tag not in loaded.read_text().split():
            archive = self._root / f"image-{os.getpid()}.tar"
            try:
                images.export(tag, archive, set(self.ctr("content", "ls", "-q").split()))
                self.import_archives([archive])
            finally:
                archive.unlink(missing_ok=True)
            self._remember(tag, loaded)
        return tag

    def import_archives(self, archives: Iterable[Path]) -> None:
        for archive in archives:
            self.ctr("images", "import", archive)

    @contextmanager
    def silent_node(self) -> Generator[None]:
        kubelet = _process_with(f"--config={self._root}/kubelet.json")
        kubelet.send(signal.SIGSTOP)
        try:
            yield
        finally:
            kubelet.send(signal.SIGCONT)

    @contextmanager
    def policies(self) -> Generator[None]:
        with policies.enforced(self._root, _process_with(f"--config={self._root}/kubelet.json").pid):
            yield

    def ctr(self, *words: str | Path) -> str:
        return run(["ctr", "-a", configuration.socket(self._root), "-n", "k8s.io", *words], timeout=300)

    @contextmanager
    def forward(self, service: str, namespace: str, port: int) -> Generator[tuple[str, int]]:
        kind, _, name = service.rpartition("/")
        found = self.get(kind or "service", name, "-n", namespace)
        address = found["status"].get("podIP") if kind == "pod" else found["spec"].get("clusterIP")
        if address in (None, "", "None"):
            with super().forward(service, namespace, port) as forwarded:
                yield forwarded
        else:
            yield str(address), port

    def _remember(self, tag: str, loaded: Path) -> None:
        """A tag is on the node in one version only: whatever it named before is forgotten."""
        loaded.parent.mkdir(exist_ok=True)
        for other in loaded.parent.iterdir():
            other.write_text(" ".join(one for one in other.read_text().split() if one != tag))
        loaded.write_text(f"{loaded.read_text() if loaded.exists() else ''} {tag}")


class _Init:
    """The run that brings the node up holds its first process by two pipes; when this run dies, the node ends."""

    def __init__(self, state: State, lock: int) -> None:
        self._root = state.root
        keep = [state.root, tools.cache(), Path(sys.executable).resolve().parent.parent]
        inner = [sys.executable, "-I", "-S", Path(__file__).with_name("init.py"), *keep]
        outer = ["unshare", "--net", "--mount", "--pid", "--mount-proc", "--kill-child", *inner]
        # The shell tells its number and waits: nothing is started before the number is written down.
        waits = ["setsid", "--fork", "sh", "-c", 'echo $$; read -r _ && exec "$@"', "kapstan-test-node", *outer]
        with (state.root / "log" / "init.log").open("ab") as log:
            self._process = subprocess.Popen(
                waits,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=state.root,
                pass_fds=(lock,),
            )
        self._process.wait()  # setsid is done; what it started stays
        self.pid = int(self._line())
        outside = ProcessIdentity.of(self.pid)
        state.update(processes=(outside,))
        self._send("go")
        self._line()
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        inside = tuple(ProcessIdentity.of(int(child)) for child in children)
        state.update(processes=(outside, *inside))

    def __enter__(self) -> _Init:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()

    def run(self, *argv: str) -> None:
        """Run a program inside the node to its end. Raises CommandFailed."""
        answer = self._ask({"do": "run", "argv": argv})
        if answer["code"] != 0:
            raise CommandFailed(argv, answer["code"], answer["output"])

    def start(self, name: str, argv: list[str]) -> None:
        log = str(self._root / "log" / f"{name}.log")
        self._ask({"do": "start", "name": name, "argv": argv, "log": log, "cwd": str(self._root)})

    def wait_for(self, what: str, ready: Callable[[], bool], timeout: float = 60) -> None:
        """Raises ClusterUnavailable where a daemon ends, or *ready* stays false for *timeout* seconds."""
        deadline = time.monotonic() + timeout
        while not ready():
            ended = self._ask({"do": "check"})["ended"]
            if ended:
                names = [line.partition(" ")[0] for line in ended]
                raise ClusterUnavailable(f"{'; '.join(ended)}; {self._last_words(names)}")
            if time.monotonic() > deadline:
                raise ClusterUnavailable(f"{what} after {timeout:g} s; the daemons' logs are in {self._root}/log")
            time.sleep(0.1)

    def leave(self) -> None:
        """From now on the node lives without us."""
        self._ask({"do": "ready"})

    def _last_words(self, names: list[str]) -> str:
        logs = [self._root / "log" / f"{name}.log" for name in names]
        return "; ".join(f"{log}: {log.read_text(errors='replace').strip()[-500:]}" for log in logs if log.exists())

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        self._send(json.dumps(request))
        answer: dict[str, Any] = json.loads(self._line())
        return answer

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._line()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ClusterUnavailable(f"the node's first process ended; {self._last_words(['init'])}")
        return line


def attach(state: State, record: Record) -> NodeCluster | None:
    """The cluster that is up, None where it is not whole any more."""
    if not (record.ready and record.this_boot() and all(process.alive() for process in record.processes)):
        return None
    cluster = NodeCluster(state)
    return cluster if _answers(cluster) else None


def bring_up(state: State, kept: bool, install: bool, progress: Progress) -> NodeCluster:
    """Build what is missing, start the node and wait until pods can run on it. Only after ``take_down``.

    Raises ClusterUnavailable; whatever was started then is ended, and the logs stay until the next run.
    """
    if sys.platform != "linux":
        raise ClusterUnavailable("a node of our own needs Linux; start docker, or set KAPSTAN_TEST_KUBECONFIG")
    if os.geteuid() != 0:
        raise ClusterUnavailable("a node of our own needs root; start docker, or set KAPSTAN_TEST_KUBECONFIG")
    packages.ensure(install, progress)
    tools.ensure(tools.NODE_TOOLS, progress)
    archives = images.ensure(progress)
    with machine.turn(state, progress.note, take_down) as lock:
        _check_addresses(state)
        return _begin(state, kept, lock, archives, progress)


def _begin(state: State, kept: bool, lock: int, archives: list[Path], progress: Progress) -> NodeCluster:
    cluster = NodeCluster(state)
    record = Record(NAME, kept, sysctls={name: (_KERNEL / name).read_text() for name in configuration.KERNEL_SETTINGS})
    state.write(record)
    with ExitStack() as undo:
        undo.callback(_end, state)
        try:
            with progress.step("certificates and configuration"):
                _write_files(state.root)
            cgroups.create(state.root)
            with _Init(state, lock) as node:
                with progress.step("network link"):
                    _connect(node, state)
                _start_daemons(cluster, node, archives, progress)
                node.leave()
        except (ClusterUnavailable, CommandFailed) as failure:
            raise ClusterUnavailable(f"the node did not come up: {failure}") from failure
        state.update(ready=True)
        undo.pop_all()
    return cluster


def take_down(state: State) -> None:
    """Remove everything of a node, whole or half. Raises ClusterUnavailable where something cannot be removed."""
    _end(state)
    state.remove()


def _end(state: State) -> None:
    record = state.record()
    if record is None or not record.this_boot():
        return
    if record.link and _link() == record.link:
        # The kernel removes it with the node's namespace, but on a busy machine that takes its time.
        with suppress(CommandFailed):
            run(["ip", "link", "delete", configuration.LINK])
    for process in reversed(record.processes):
        process.kill()
    cgroups.remove(state.root)
    if not _comes_true(lambda: _link() != record.link, 60):
        raise ClusterUnavailable(f"network link {configuration.LINK} is still there 60 s after its node ended")
    for name, value in record.sysctls.items():
        if (_KERNEL / name).read_text() != value:
            (_KERNEL / name).write_text(value)


def _process_with(word: str) -> ProcessIdentity:
    """The process that has ``word`` among its arguments."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if word.encode() in path.read_bytes().split(b"\0"):
                return ProcessIdentity.of(int(path.parent.name))
    raise LookupError(f"no process has {word} among its arguments")


def _link() -> int | None:
    """The number of the link that bears our name now, None where there is none."""
    try:
        return int(Path(f"/sys/class/net/{configuration.LINK}/ifindex").read_text())
    except OSError:
        return None


def _comes_true(what: Callable[[], bool], timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while not what():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _check_addresses(state: State) -> None:
    # The kernel removes a link with its node's namespace, a moment after the node's last process.
    if not _comes_true(lambda: _link() is None, 60):
        raise ClusterUnavailable(
            f"network link {configuration.LINK} is there, but {state.root} knows no node: another cluster's state is "
            "elsewhere (KAPSTAN_TEST_STATE), or was removed by hand; end its `unshare ... tests/cluster/init.py`"
        )
    if len(str(configuration.socket(state.root))) > 100:
        raise ClusterUnavailable(f"{state.root}: too long for a unix socket; set KAPSTAN_TEST_STATE to a shorter path")


def _write_files(root: Path) -> None:
    (root / "log").mkdir(parents=True)
    authority = Authority(root / "pki")
    authority.service_accounts()
    authority.server("apiserver", "/CN=kube-apiserver", configuration.API_SERVER_NAMES)
    node_names = f"IP:{configuration.NODE_ADDRESS},DNS:{configuration.NODE}"
    authority.server("kubelet-server", f"/CN={configuration.NODE}", node_names)
    for name, subject in configuration.CLIENTS.items():
        authority.client(name, subject)
        path = root / ("kubeconfig" if name == "admin" else f"{name}.kubeconfig")
        authority.kubeconfig(name, configuration.SERVER, path)
    for name, content in configuration.files(root).items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(content)


def _connect(node: _Init, state: State) -> None:
    """A pair of linked interfaces, one end in the node. Pods and Services are routed there; nothing gets out."""
    link, prefix = configuration.LINK, configuration.LINK_PREFIX
    run(["ip", "link", "add", link, "type", "veth", "peer", "name", "uplink", "netns", str(node.pid)])
    state.update(link=_link())
    run(["ip", "address", "add", f"{configuration.HOST_ADDRESS}/{prefix}", "dev", link])
    run(["ip", "link", "set", link, "up"])
    for subnet in (configuration.POD_SUBNET, configuration.SERVICE_SUBNET):
        run(["ip", "route", "add", subnet, "via", configuration.NODE_ADDRESS, "dev", link])
    node.run("ip", "link", "set", "lo", "up")
    node.run("ip", "address", "add", f"{configuration.NODE_ADDRESS}/{prefix}", "dev", "uplink")
    node.run("ip", "link", "set", "uplink", "up")
    # Services are addresses that the packet filter rewrites, but a packet must have a route before it gets there.
    node.run("ip", "route", "add", configuration.SERVICE_SUBNET, "via", configuration.HOST_ADDRESS)
    # A name or registry that is looked up fails at once instead of after a minute of silence.
    node.run("ip", "route", "add", "unreachable", "default")
    node.run("sysctl", "-qw", "net.ipv4.ip_forward=1")


def _start_daemons(cluster: NodeCluster, node: _Init, archives: list[Path], progress: Progress) -> None:
    root = cluster.kubeconfig.parent
    with ThreadPoolExecutor(1) as beside:
        with progress.step("etcd, containerd, API server"):
            node.start("etcd", configuration.etcd(root))
            node.start("containerd", configuration.containerd(root))
            node.start("apiserver", configuration.api_server(root))
            node.wait_for("containerd does not answer", configuration.socket(root).exists)
            imported = beside.submit(cluster.import_archives, archives)
            node.wait_for("the API server is not ready", lambda: _answers(cluster))
        with progress.step("controllers, scheduler, kubelet, proxy, name server"):
            node.start("controller-manager", configuration.controller_manager(root))
            node.start("scheduler", configuration.scheduler(root))
            node.start("kubelet", configuration.kubelet(root))
            node.start("proxy", configuration.proxy(root))
            node.start("coredns", configuration.name_server(root))
            cluster.kubectl("apply", "-f", "-", input=configuration.manifests())
            node.wait_for("the node is not Ready", lambda: _node_ready(cluster))
            node.wait_for("the default service account is not there", lambda: _has_service_account(cluster))
        with progress.step("names and Services"):
            node.wait_for("the name server does not answer on its Service's address", _names_answer)
        with progress.step("images"):
            imported.result()


def _answers(cluster: Cluster) -> bool:
    try:
        return cluster.kubectl("get", "--raw", "/readyz", "--request-timeout=5s").strip() == "ok"
    except CommandFailed:
        return False


def _node_ready(cluster: Cluster) -> bool:
    path = '{.items[*].status.conditions[?(@.type=="Ready")].status}'
    return cluster.kubectl("get", "nodes", "-o", f"jsonpath={path}") == "True"


def _has_service_account(cluster: Cluster) -> bool:
    return cluster.kubectl("get", "serviceaccount", "default", "--ignore-not-found", "-o", "name") != ""


def _names_answer() -> bool:
    """Ask the name server for the API server's Service, by way of the proxy: tries routes, proxy and name server."""
    name = "kubernetes.default.svc.cluster.local"
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    question = struct.pack(">6H", 1, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">2H", 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(0.5)
        try:
            asking.sendto(question, (configuration.DNS_SERVICE, 53))
            return socket.inet_aton(configuration.KUBERNETES_SERVICE) in asking.recv(512)
        except OSError:
            return False

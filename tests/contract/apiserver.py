"""A real API server without a node: etcd and kube-apiserver on loopback, for what schemas and CEL rules really answer.

`test_bad_samples` starts one for itself. The binaries are those of the test cluster (`make cluster-up` builds them);
nothing of a running cluster is touched. Plain HTTPS with a bearer token: no client library stands between the test and
the server's own words.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster import tools
from tests.cluster.errors import ClusterUnavailable
from tests.cluster.progress import Progress

START_SECONDS = 60.0
PROGRAMS = ("etcd", "kube-apiserver", "kubectl")


def build(progress: Progress) -> None:
    """Make sure that the programs are there; minutes, once, where they have to be built.

    Raises:
        ClusterUnavailable: something is missing that cannot be built here.
    """
    absent = [name for name in ("openssl", "setpriv") if shutil.which(name) is None]
    if absent:
        raise ClusterUnavailable(f"{' and '.join(absent)} not on PATH")
    tools.ensure(PROGRAMS, progress)


@dataclass(frozen=True)
class Answer:
    """What the API server said."""

    code: int
    body: dict[str, Any]

    @property
    def causes(self) -> list[tuple[str, str]]:
        """(field, message) of each problem with the object."""
        causes = self.body.get("details", {}).get("causes", [])
        return [(cause.get("field", ""), cause.get("message", "")) for cause in causes]

    @property
    def message(self) -> str:
        return self.body.get("message", "")


class ApiServer:
    """A running API server, and the two ways to talk to it."""

    def __init__(self, port: int, token: str, authority: Path, home: Path) -> None:
        self.url = f"https://127.0.0.1:{port}"
        self._token = token
        self._authority = authority
        self._home = home
        self._tls = ssl.create_default_context(cafile=str(authority))

    def request(
        self, method: str, path: str, body: dict[str, Any] | None = None, query: str = "", *, as_user: str = ""
    ) -> Answer:
        """One request with strict field validation, made by ``as_user`` if one is named; an HTTP error is an answer."""
        request = urllib.request.Request(
            f"{self.url}{path}?fieldValidation=Strict{query}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": f"Bearer {self._token}",
                "Content-Type": "application/json",
                **({"Impersonate-User": as_user} if as_user else {}),
            },
        )
        try:
            with urllib.request.urlopen(request, context=self._tls, timeout=30) as response:
                return Answer(response.status, json.load(response))
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, json.load(error))

    def kubeconfig(self) -> Path:
        """A kubeconfig for clients that read one."""
        path = self._home / "kubeconfig"
        path.write_text(self.kubeconfig_of(self._token))
        return path

    def kubeconfig_of(self, token: str, server: str = "") -> str:
        """The text of one for another token, or for a relay to this server."""
        cluster = {"server": server or self.url}
        if cluster["server"].startswith("https:"):
            cluster["certificate-authority"] = str(self._authority)
        context = {"cluster": "test", "user": "tester", "namespace": "default"}
        return json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "test", "cluster": cluster}],
                "users": [{"name": "tester", "user": {"token": token}}],
                "contexts": [{"name": "test", "context": context}],
                "current-context": "test",
            }
        )

    def ready(self) -> bool:
        request = urllib.request.Request(f"{self.url}/readyz", headers={"Authorization": f"Bearer {self._token}"})
        try:
            with urllib.request.urlopen(request, context=self._tls, timeout=5) as response:
                return response.status == 200
        except (OSError, urllib.error.URLError):
            return False

    def kubectl(self, *arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run kubectl against this server and no other, with ``text`` on its standard input."""
        return subprocess.run(
            [
                str(tools.path("kubectl")),
                f"--server={self.url}",
                f"--certificate-authority={self._authority}",
                f"--token={self._token}",
                f"--cache-dir={self._home / 'kubectl'}",
                *arguments,
            ],
            input=text,
            capture_output=True,
            text=True,
            timeout=60,
            env={"PATH": os.environ["PATH"], "HOME": str(self._home), "KUBECONFIG": os.devnull},
        )


@contextlib.contextmanager
def running() -> Iterator[ApiServer]:
    """Start both, hand out the server once it is ready, leave nothing behind."""
    home = Path(tempfile.mkdtemp(prefix="kapstan-apiserver-"))
    etcd_port, peer_port, port = _free_ports(3)
    token = secrets.token_hex(16)
    (home / "tokens.csv").write_text(f'{token},tester,tester,"system:masters"\n')
    subprocess.run(["openssl", "genrsa", "-out", str(home / "sa.key"), "2048"], check=True, capture_output=True)
    processes: list[subprocess.Popen[bytes]] = []
    try:
        processes.append(_start(home, "etcd", *_etcd_arguments(home, etcd_port, peer_port)))
        processes.append(_start(home, "kube-apiserver", *_apiserver_arguments(home, port, etcd_port)))
        authority = home / "certificates" / "apiserver.crt"
        _until(lambda: authority.exists() and authority.stat().st_size > 0, processes, home)
        server = ApiServer(port, token, authority, home)
        _until(server.ready, processes, home)
        yield server
    finally:
        for process in reversed(processes):
            _end(process)
        shutil.rmtree(home, ignore_errors=True)


def _etcd_arguments(home: Path, port: int, peer_port: int) -> list[str]:
    client, peer = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer_port}"
    return [
        f"--data-dir={home / 'etcd'}",
        "--unsafe-no-fsync",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
    ]


def _apiserver_arguments(home: Path, port: int, etcd_port: int) -> list[str]:
    return [
        f"--etcd-servers=http://127.0.0.1:{etcd_port}",
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        "--endpoint-reconciler-type=none",
        f"--secure-port={port}",
        f"--cert-dir={home / 'certificates'}",
        "--service-cluster-ip-range=198.19.0.0/16",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={home / 'sa.key'}",
        f"--service-account-signing-key-file={home / 'sa.key'}",
        f"--token-auth-file={home / 'tokens.csv'}",
        "--authorization-mode=RBAC",
        "--disable-admission-plugins=ServiceAccount",
    ]


def _start(home: Path, name: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Start one binary so that it ends with this process, however this process ends."""
    command = ["setpriv", "--pdeathsig", "KILL", str(tools.path(name)), *arguments]
    with (home / f"{name}.log").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=home)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(2)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)


def _until(condition: Any, processes: list[subprocess.Popen[bytes]], home: Path) -> None:
    """Ask again ten times a second until it holds, a process has ended, or the time is up."""
    pause = threading.Event()
    for _ in range(int(START_SECONDS * 10)):
        if condition():
            return
        if any(process.poll() is not None for process in processes):
            break
        pause.wait(0.1)
    logs = "\n".join(f"--- {path.name}\n{path.read_text(errors='replace')[-2000:]}" for path in home.glob("*.log"))
    raise RuntimeError(f"the API server did not become ready\n{logs}")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for bound in sockets:
            bound.bind(("127.0.0.1", 0))
        return [bound.getsockname()[1] for bound in sockets]

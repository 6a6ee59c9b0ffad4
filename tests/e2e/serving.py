"""What tests of background runs share: a TaskWorker for a while, this process as a submitter, a sink for pods."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.conftest import Installed
from tests.e2e.sink import Sink

from kapstan import backend


@contextmanager
def serving(installed: Installed, name: str, replicas: int) -> Iterator[None]:
    """A TaskWorker whose pods execute one run of ``background.py`` at a time; none of its pods is left afterwards."""
    installed.apply("TaskWorker", name, {"image": installed.image, "tasks": ["background.py"], "replicas": replicas})
    installed.wait("taskworkers", name, ".status.readyReplicas", str(replicas))
    yield
    kubectl, where = installed.cluster.kubectl, ("-n", installed.namespace)
    kubectl("delete", "taskworkers.kapstan.dev", name, *where)
    pods = ("pods", "-l", f"kapstan.dev/task-worker={name}")
    kubectl("wait", "--for=delete", *pods, *where, "--timeout=90s", timeout=100)


@contextmanager
def submitting(installed: Installed) -> Iterator[backend.Backend]:
    """This process reaches queue and store of the namespace, as a program outside of the cluster does."""
    with installed.backend() as outside:
        backend.use(outside.settings)
        try:
            yield backend.current()
        finally:
            backend.use(None)


@contextmanager
def listening(installed: Installed, folder: Path) -> Iterator[Sink]:
    """A sink that pods reach."""
    assert installed.cluster.host_address is not None
    sink = Sink(folder / "effects", installed.cluster.host_address)
    try:
        yield sink
    finally:
        sink.close()

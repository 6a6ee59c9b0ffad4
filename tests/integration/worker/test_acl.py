"""The Redis user of one tenant, as docs/kubernetes.md writes it: enough for its work, and for nothing of another's."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.worker import served
from tests.integration.worker.conftest import Start
from tests.servers.redis import RedisServer

from kapstan import backend, flow
from kapstan.errors import KapstanError
from kapstan.ports import BackgroundFilter
from kapstan.queue.access import ROLES, rules
from kapstan.runs.flow_runs import FlowRunFilter, FlowRuns
from kapstan.runs.task_runs import TaskRuns
from kapstan.worker import in_process

PAGE = Path(__file__).parents[3] / "docs" / "kubernetes.md"


@flow
def sums_of_a_tenant(count: int) -> int:
    return sum(served.add.delay(n, 1).result(timeout=30) for n in range(count))


@pytest.fixture
def tenant(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process and the workers are the page's user, in the page's namespace; the default user is off."""
    (line,) = re.findall(r"^ACL SETUSER .*$", PAGE.read_text(), re.MULTILINE)
    with server.client() as client:
        client.execute_command(*shlex.split(line.replace(">PASSWORD", ">secret")))  # pyright: ignore
    monkeypatch.setenv("KAPSTAN_REDIS_URL", f"redis://team:secret@127.0.0.1:{server.port}/0")
    monkeypatch.setenv("KAPSTAN_NAMESPACE", "team")
    backend.use(None)
    yield
    in_process.stop()  # what ``.submit()`` has started
    backend.use(None)


def test_it_is_enough_for_a_tenant(tenant: None, start: Start) -> None:
    start()
    assert served.add.delay(1, 2).result(timeout=30) == 3
    assert served.add.map([1, 2, 3], 1, deferred=True).result(timeout=30) == [2, 3, 4]
    assert served.add.submit(2, 2).result(timeout=30) == 4
    assert sums_of_a_tenant(3) == 1 + 2 + 3
    waiting = served.add.apply_async((1, 2), countdown=3600)
    runs = TaskRuns(backend.current())
    runs.cancel(runs.find(str(waiting.task_run_id)))
    assert waiting.state.is_cancelled()
    assert [run.flow for run in FlowRuns(backend.current()).page(FlowRunFilter(), 10).runs] == ["sums-of-a-tenant"]


def test_clients_workers_and_readers_have_users_of_their_own(
    server: RedisServer, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ``kapstan server acl`` prints them; nobody else may use the server."""
    with server.client() as client:
        for role in ROLES:
            client.execute_command(*shlex.split(f"ACL SETUSER {role} reset on >secret {rules(role, 'team')}"))
        client.execute_command("ACL", "SETUSER", "default", "resetkeys", "-@all", "+acl", "+ping", "+shutdown")

    def url(role: str) -> str:
        return f"redis://{role}:secret@127.0.0.1:{server.port}/0"

    monkeypatch.setenv("KAPSTAN_NAMESPACE", "team")
    monkeypatch.setenv("KAPSTAN_REDIS_URL", url("worker"))
    start(2)
    monkeypatch.setenv("KAPSTAN_REDIS_URL", url("client"))
    backend.use(None)
    assert served.add.map([1, 2, 3], 1, deferred=True).result(timeout=30) == [2, 3, 4]
    assert sums_of_a_tenant(3) == 1 + 2 + 3
    monkeypatch.setenv("KAPSTAN_REDIS_URL", url("reader"))
    backend.use(None)
    assert len(TaskRuns(backend.current()).page(BackgroundFilter(), 10).runs) == 6
    assert [run.flow for run in FlowRuns(backend.current()).page(FlowRunFilter(), 10).runs] == ["sums-of-a-tenant"]
    with pytest.raises(KapstanError, match="Redis refuses this user"):
        served.add.delay(1, 2)


def test_it_reaches_no_other_namespace(tenant: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAPSTAN_NAMESPACE", "other")
    backend.use(None)
    with pytest.raises(KapstanError, match=r"NOPERM|No permissions"):
        served.add.delay(1, 2)

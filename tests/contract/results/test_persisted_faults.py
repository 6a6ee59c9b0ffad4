"""``persist_result=True`` on a store of which each request fails in its turn, and all that follow it until somebody
repairs it: the run is executed once, and one result is stored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.contract.results.test_persisted_runs import claim, keyed, ran, value
from tests.servers.fault_proxy import Fault, FaultProxy
from tests.servers.minio import Minio, new_namespace

from kapstan import backend as backends
from kapstan.engine.background import BackgroundEngine
from kapstan.errors import BackendError
from kapstan.ports import Claim, Outcome
from kapstan.runs import persisted
from kapstan.specs import TaskSpec
from kapstan.tasks import Task

SIZE = 20_000  # an object of its own


class Failing(FaultProxy):
    """Every request fails from the one numbered ``first`` on; 0: none does."""

    mode: Fault = "drop_reply"
    first = requests = 0

    def _draw(self) -> Fault | None:
        self.requests += 1
        return self.mode if 0 < self.first <= self.requests else None

    def begin(self, first: int) -> None:
        self.first, self.requests = first, 0


@pytest.fixture
def proxy(minio: Minio) -> Iterator[Failing]:
    with Failing(minio.url, {}).running() as proxy:
        assert isinstance(proxy, Failing)
        yield proxy
    backends.use(None)
    ran.clear()


def text(size: int) -> str:
    ran.append(size)
    return f"{len(ran)}".ljust(size, ".")


def ended(spec: TaskSpec, proxy: Failing) -> tuple[Outcome, list[str]]:
    """How the run ends, and which calls had to be repeated; the store is repaired when one has failed."""
    failed: list[str] = []

    def again(name: str, call: Any, *arguments: Any) -> Any:
        while True:
            try:
                return call(*arguments)
            except BackendError:
                failed.append(name)
                proxy.begin(0)

    with closing(BackgroundEngine({"kept": spec}, backends.current())) as engine:
        outcome = again("run", engine.run, _claimed())
        assert type(outcome) is Outcome
        return again("stored", engine.stored, outcome), failed


def _claimed() -> Claim:
    return claim(keyed(), SIZE)


@pytest.mark.parametrize("mode", ["drop_request", "drop_reply", "unavailable"])
@pytest.mark.parametrize("storage", [False, True])
def test_each_request_fails_in_its_turn(
    minio: Minio, proxy: Failing, tmp_path: Path, storage: bool, mode: Fault
) -> None:
    proxy.mode = mode
    seen: set[str] = set()
    for first in range(1, 20):
        settings = minio.settings(
            proxy.url, home=str(tmp_path / "home"), namespace=new_namespace(), store_deadline_seconds=0.3
        )
        proxy.begin(0)
        backends.use(settings)
        where = f"s3://{settings.s3_bucket}/{settings.namespace}-results" if storage else None
        spec = Task(text, name="kept", persist_result=True, result_storage=where).spec
        assert backends.current().store.get("probed") is None  # it was probed before
        ran.clear()
        proxy.begin(first)
        outcome, failed = ended(spec, proxy)
        proxy.begin(0)
        assert value(outcome) == "1".ljust(SIZE, ".")
        assert persisted.envelope_of(backends.current(), outcome.run_id) == outcome.envelope
        assert value(ended(spec, proxy)[0]) == value(outcome)
        assert ran == [SIZE], f"request {first}"
        seen.update(failed)
        if not failed:
            break
    assert seen == {"run", "stored"}, "the fault bites"
    assert first > (4 if storage else 2)

"""Flow runs whose journal cannot be read: they are named and told, and deleted only with ``--force``."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from click.testing import Result
from tests.integration.runs.makers import begin, uuid

from kapstan.backend import Backend
from kapstan.ids import RunId, new_id
from kapstan.journal import log_name
from kapstan.runs.flow_runs import FlowRuns

Kapstan = Callable[..., Result]


@pytest.fixture
def spoilt(backend: Backend) -> RunId:
    """A run whose journal another program has written, and whose summary is gone."""
    run_id = new_id()
    backend.store.log(log_name(run_id)).open(b"\x00\xff{}")
    return run_id


def test_it_is_there_and_says_what_is_wrong(backend: Backend, kapstan: Kapstan, spoilt: RunId) -> None:
    assert FlowRuns(backend).knows(uuid(spoilt))
    assert not FlowRuns(backend).knows(uuid(new_id()))
    for operation in ("inspect", "cancel", "resume", "retry", "delete"):
        answer = kapstan("flow-run", operation, uuid(spoilt))
        assert answer.exit_code != 0
        assert "the journal of" in answer.stderr
    assert "--force deletes it all the same" in kapstan("flow-run", "delete", uuid(spoilt)).stderr


def test_it_is_deleted_on_request(backend: Backend, kapstan: Kapstan, spoilt: RunId) -> None:
    backend.store.put(f"values/{spoilt}/{spoilt}/v", b"a value of it")
    answer = kapstan("flow-run", "delete", "--force", uuid(spoilt))
    assert (answer.exit_code, answer.stdout) == (0, f"Deleted flow run {uuid(spoilt)}\n")
    assert not FlowRuns(backend).knows(uuid(spoilt))
    assert list(backend.store.keys(f"values/{spoilt}/")) == []


def test_not_while_a_process_executes_it(backend: Backend, kapstan: Kapstan, spoilt: RunId) -> None:
    lease = backend.flow_runs.lease(spoilt, 1, "vm:77:x")
    assert lease.renew()
    answer = kapstan("flow-run", "delete", "--force", uuid(spoilt))
    assert answer.exit_code != 0
    assert "process 77 on vm executes it" in answer.stderr
    assert FlowRuns(backend).knows(uuid(spoilt))
    lease.release()


def test_one_that_can_be_read_and_has_not_ended_stays(backend: Backend, kapstan: Kapstan) -> None:
    run_id = begin(backend)
    assert "has not ended: cancel it" in kapstan("flow-run", "delete", "--force", uuid(run_id)).stderr

"""``kapstan task-run retry --state ...``: all runs that a filter chooses, counted and asked about."""

from __future__ import annotations

import pytest
from click.testing import CliRunner
from tests.contract.queue.makers import worker
from tests.servers.redis import RedisServer

from kapstan import ids
from kapstan.backend import Backend
from kapstan.cli import cli
from kapstan.errors import ConfigurationError
from kapstan.ids import RunId
from kapstan.ports import BackgroundFilter, Outcome, RunState, Submission
from kapstan.runs import retrying

TASK, OTHER = "shop.tasks:charge", "shop.tasks:other"


def ended(
    backend: Backend, count: int, state: RunState = "failed", task: str = TASK, queue: str = "default"
) -> list[RunId]:
    runs = [Submission(ids.new_id(), task, b"arguments", "same-inputs", queue) for _ in range(count)]
    backend.queue.submit_many(runs)
    hired = worker(backend.queue, ((task, queue),))  # type: ignore[arg-type]
    while claims := hired.lane.step([], 200).claims:
        hired.lane.step([Outcome(claim.run_id, claim.token, state, b"") for claim in claims], 0)
    hired.close()
    return [each.run_id for each in runs]


def states(backend: Backend, runs: list[RunId]) -> set[str]:
    return {record.state for record in backend.queue.records(runs) if record is not None}


def test_a_filter_chooses_which_run_once_more(backend: Backend, kapstan) -> None:
    failed, crashed, others = ended(backend, 3), ended(backend, 2, "crashed"), ended(backend, 2, task=OTHER)
    slow, completed = ended(backend, 2, queue="slow"), ended(backend, 1, "completed")
    answer = kapstan("task-run", "retry", "--state", "failed", "--task", "charge", "--queue", "default", "--yes")
    assert (answer.exit_code, answer.stdout) == (0, "Submitted again: 3 of 3 runs\n")
    assert states(backend, failed) == {"ready"}
    assert [states(backend, each) for each in (crashed, others, slow, completed)] == [
        {"crashed"},
        {"failed"},
        {"failed"},
        {"completed"},
    ]
    answer = kapstan("task-run", "retry", "--state", "failed", "--state", "crashed", "--since", "1h", "--yes")
    assert answer.stdout == "Submitted again: 6 of 6 runs\n"
    assert kapstan("task-run", "retry", "--state", "failed", "--yes").stdout == "There are no such runs\n"


def test_it_asks_before(backend: Backend) -> None:
    failed = ended(backend, 2)
    arguments = ["task-run", "retry", "--state", "failed"]
    refused = CliRunner().invoke(cli, arguments, input="n\n")
    assert refused.exit_code == 1
    assert "Have 2 runs run once more?" in refused.stderr
    assert CliRunner().invoke(cli, arguments, input="").exit_code == 1, "nobody is there to answer"
    assert states(backend, failed) == {"failed"}
    assert CliRunner().invoke(cli, arguments, input="y\n").exit_code == 0
    assert states(backend, failed) == {"ready"}


def test_thousands_go_on_and_it_says_how_far_it_is(backend: Backend, kapstan) -> None:
    failed = ended(backend, 2_300)
    answer = kapstan("task-run", "retry", "--state", "failed", "--yes")
    assert answer.stdout == "Submitted again: 2,300 of 2,300 runs\n"
    assert [line for line in answer.stderr.splitlines() if " of " in line] == [
        f"{done:,} of 2,300" for done in (500, 1_000, 1_500, 2_000)
    ]
    assert states(backend, failed) == {"ready"}


def test_one_that_was_retried_or_forgotten_meanwhile_is_refused_and_stops_none(backend: Backend) -> None:
    first, second, third = ended(backend, 3)
    chosen = retrying.chosen_runs(backend, BackgroundFilter(frozenset({"failed"})))
    assert sorted(chosen) == sorted([first, second, third])
    backend.background_runs.rerun(second)
    backend.background_runs.delete(first)
    retries = retrying.retry_each(backend, chosen)
    assert retries.retried == 1
    assert "is Scheduled: it needs no retry" in retries.refused[second]
    assert "does not know task run" in retries.refused[first]


def test_what_was_refused_is_named(backend: Backend, kapstan, shared_server: RedisServer) -> None:
    runs = ended(backend, 12)
    prefix = f"{{{backend.settings.namespace}}}:"
    with shared_server.client() as client:
        assert client.delete(*(f"{prefix}args:{run_id}" for run_id in runs)) == 12
    answer = kapstan("task-run", "retry", "--state", "failed", "--yes")
    assert (answer.exit_code, answer.stdout) == (1, "Submitted again: 0 of 12 runs\n")
    assert answer.stderr.count("its arguments are not kept any more") == 10
    assert "2 more were refused" in answer.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "give ids of runs, or --state, and not both"),
        (("--state", "failed", "0" * 36), "give ids of runs, or --state, and not both"),
        (("--task", "charge"), "--state: give failed, crashed or cancelled"),
    ],
)
def test_what_says_not_which_runs_is_refused(kapstan, arguments: tuple[str, ...], words: str) -> None:
    answer = kapstan("task-run", "retry", *arguments)
    assert answer.exit_code == 2
    assert words in answer.stderr


def test_other_states_are_refused(backend: Backend) -> None:
    ended(backend, 1, "completed")
    for states in (
        frozenset[RunState](),
        frozenset[RunState]({"completed"}),
        frozenset[RunState]({"failed", "parked"}),
    ):
        with pytest.raises(ConfigurationError, match="--state: give failed, crashed or cancelled"):
            retrying.chosen_runs(backend, BackgroundFilter(states))

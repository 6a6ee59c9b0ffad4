from __future__ import annotations

import pytest

from kapstan import states
from kapstan.errors import CancelledRun, CrashedRun, MissingResult, PausedRun, RunFailed, UnfinishedRun
from kapstan.states import StateType


def test_every_type_has_a_phase_and_every_phase_a_type() -> None:
    assert set(states.PHASE_OF_TYPE) == set(StateType)
    assert set(states.PHASE_OF_TYPE.values()) == set(states.PHASES)
    assert {states.PHASE_OF_TYPE[t] for t in StateType if t.final} == set(states.TERMINAL_PHASES)


def test_a_completed_state_gives_its_data_even_if_that_is_none() -> None:
    assert states.Completed(data=None).result() is None
    assert states.Completed(data=5).result() == 5
    with pytest.raises(MissingResult, match="not stored"):
        states.Completed().result()


def test_a_failed_state_raises_what_the_run_raised() -> None:
    state = states.Failed(data=KeyError("x"), message="no x")
    with pytest.raises(KeyError):
        state.result()
    assert isinstance(state.result(raise_on_failure=False), KeyError)


@pytest.mark.parametrize(
    ("state", "error"),
    [
        (states.Failed(message="m"), RunFailed),
        (states.Crashed(message="m"), CrashedRun),
        (states.Cancelled(message="m"), CancelledRun),
        (states.Suspended(), PausedRun),
        (states.Running(), UnfinishedRun),
        (states.AwaitingRetry(), UnfinishedRun),
    ],
)
def test_other_states_say_why_there_is_no_result(state: states.State, error: type[Exception]) -> None:
    with pytest.raises(error):
        state.result()


def test_a_loader_is_asked_when_the_data_is_elsewhere() -> None:
    assert states.State(StateType.COMPLETED, loader=lambda: "from the store").result() == "from the store"


def test_states_print_as_people_know_them() -> None:
    assert str(states.Completed(data=1)) == "Completed()"
    assert str(states.Failed(message="boom")) == "Failed('boom')"
    assert states.AwaitingRetry().type is StateType.SCHEDULED
    assert states.Completed(name="Cached").is_completed()

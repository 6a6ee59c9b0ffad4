"""The name of a stored value tells who may need it: retention goes by that."""

from __future__ import annotations

from contextlib import closing

from kapstan import backend as backends
from kapstan import flow, task
from kapstan.engine import values
from kapstan.engine.background import BackgroundEngine
from kapstan.ids import Token, new_id
from kapstan.journal import read_journal
from kapstan.ports import Claim, Outcome
from kapstan.tasks import Task

LARGE = 20_000


def place(envelope: bytes, purpose: str, key: str) -> list[str]:
    reference = backends.current().codec.reference(envelope, purpose, key)  # type: ignore[arg-type]
    assert reference is not None
    return reference.key.split("/")


def ended(run_id: str, *further: object) -> Outcome:
    backend = backends.current()
    spec = Task(lambda n: "x" * n, name="owned").spec
    key = values.arguments_key(run_id, "owned")
    sealed = values.seal_value(backend, [[LARGE], {}, *further], "arguments", key, what="arguments")
    with closing(BackgroundEngine({"owned": spec}, backend)) as engine:
        outcome = engine.run(Claim(run_id, "owned", Token(1, 1), 1, 0, "p", sealed))
        assert isinstance(outcome, Outcome)
        return engine.stored(outcome)


def test_a_result_of_a_background_run_is_its_own_or_also_its_flow_s() -> None:
    run_id, flow_id = new_id(), new_id()
    assert place(ended(run_id).envelope, "result", run_id)[:3] == ["values", run_id, run_id]
    submitted = ended(run_id, {"flow_run": flow_id})
    assert place(submitted.envelope, "result", run_id)[:3] == ["values", flow_id, run_id]


@task
def owned_work() -> str:
    return "x" * LARGE


@flow
def owned_below() -> str:
    return owned_work()


@flow
def owned_flow() -> str:
    return owned_work() + owned_below()


def test_what_a_flow_stores_is_below_the_flow_and_openings_tell_the_caller() -> None:
    state = owned_flow(return_state=True)
    assert state.is_completed()
    backend = backends.current()
    journals = {}
    for log in backend.store.logs("flows/"):
        run_id = log.name.rpartition("/")[2]
        journals[run_id] = read_journal(backend.store, backend.codec, run_id)
    [root] = [run_id for run_id, history in journals.items() if history.caller == ""]
    [below] = [run_id for run_id, history in journals.items() if history.caller]
    assert journals[below].caller == root
    for run_id, history in journals.items():
        for key, outcome in history.outcomes.items():
            assert outcome.value is not None
            assert place(outcome.value, "result", key)[:3] == ["values", run_id, key]
        assert history.end is not None
        assert history.end.result is not None
        assert place(history.end.result, "result", run_id)[:3] == ["values", run_id, run_id]

"""The one chain that every run of a task walks: called, submitted, mapped, delayed, embedded, in a subflow, sync or
async.

Each step is one file in ``engine/steps``: it sees a typed record of the run, does its part and hands on to the next
one; it never knows which of the ways it is on. A feature of tasks is one more step. Steps that a task does not use are
left out when its chain is made, once per task; a step that sees at once that it has nothing to do returns the rest of
the chain.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from kapstan.engine.execution import Next, Step, TaskExecution
from kapstan.engine.operations import Steps
from kapstan.engine.steps.call import call
from kapstan.engine.steps.commit import commit
from kapstan.engine.steps.inputs import inputs
from kapstan.engine.steps.keyed import keyed
from kapstan.engine.steps.replay import replay
from kapstan.engine.steps.retry import retry
from kapstan.engine.steps.storage import storage
from kapstan.engine.steps.transact import transact, within
from kapstan.specs import TaskSpec
from kapstan.states import State


class Link(NamedTuple):
    """One step, and which tasks use it."""

    step: Step
    used_by: Callable[[TaskSpec], bool] = lambda _: True


def _has_storage(spec: TaskSpec) -> bool:
    if spec.result_storage_key is not None:
        return True
    return bool(spec.result_storage) and spec.persist_result is not False


def _has_retries(spec: TaskSpec) -> bool:
    return spec.retries > 0


def _has_key(spec: TaskSpec) -> bool:
    return spec.is_keyed


STEPS: tuple[Link, ...] = (
    Link(transact),  # a part of the transaction around it
    Link(replay),  # the outcome that an earlier attempt left: the rest is not walked
    Link(inputs),  # wait for futures and states among the arguments
    Link(commit),  # what came of it is durable before anybody sees it
    Link(storage, _has_storage),  # where the result will stand; without a place nothing is executed
    Link(keyed, _has_key),  # not at all where its key is known to be done; an intent before an effect
    Link(retry, _has_retries),  # again, as the policy says
    Link(within),  # one execution's own part of the transaction
)
"""From the outside to the inside; ``call`` follows them. Read when the chain of a task is made, at its first run."""


def walk(execution: TaskExecution) -> Steps[State]:
    """What the run asks for, one after the other, and its final state."""
    spec = execution.spec
    chain = spec.chain
    if chain is None:
        chain = _chain_of(spec)
        object.__setattr__(spec, "chain", chain)  # kept with the spec, which is frozen in everything else
    return chain(execution)


def _chain_of(spec: TaskSpec) -> Next:
    chain: Next = call
    for link in reversed(STEPS):
        if link.used_by(spec):
            chain = _linked(link.step, chain)
    return chain


def _linked(step: Step, rest: Next) -> Next:
    return lambda execution: step(execution, rest)

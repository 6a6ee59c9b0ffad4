"""Results that outlive the queue's record of their run, as the engine has to do with them: looked for before a run is
executed that may have completed before, stored when one completes. Called by ``background``; ``runs.persisted`` says
how they are stored.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from kapstan import ids
from kapstan.backend import Backend
from kapstan.engine import canonical, values
from kapstan.errors import BackendError, KapstanError
from kapstan.ids import RunId
from kapstan.ports import Claim, Outcome
from kapstan.runs import persisted
from kapstan.specs import TaskSpec

logger = logging.getLogger("kapstan.task_runs")


class Persisting:
    """Those of one engine. ``open``: what the runs were asked whose outcomes are to be stored."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.open: dict[RunId, str] = {}

    def ended_before(self, claim: Claim, spec: TaskSpec, request: str | None) -> Outcome | None:
        """How a run ends that is claimed and may have completed before; None: it has not.

        Only a run that was claimed before can have, and one whose id follows from a key or from the call that made it:
        those come again when the record has expired.

        Args:
            request: None: its arguments are not known, since reading them may be what ends its process.

        Raises:
            BackendError: the store does not answer.
        """
        if not spec.persist_result:
            return None
        if claim.token.epoch == 1 if ids.made_at(claim.run_id) is not None else request is None:
            return None
        try:
            envelope = persisted.known(self._backend, claim.run_id, request or "")
        except BackendError:
            raise
        except KapstanError as error:
            logger.error("Task run %s of %s was not executed: %s", claim.run_id, spec.name, error)
            return self._failed(Outcome(claim.run_id, claim.token, "failed", b""), error)
        if envelope is None:
            return None
        logger.info("Task run %s of %s is not executed: it has completed before", claim.run_id, spec.name)
        return Outcome(claim.run_id, claim.token, "completed", envelope)

    def settled(self, outcome: Outcome) -> Outcome:
        """``outcome``, or the one that is stored already; stored now where the task wants that.

        Raises:
            BackendError: the store does not answer; nothing is lost, call again.
        """
        request = self.open.get(outcome.run_id)
        if request is None:
            return outcome
        try:
            outcome = persisted.settled(self._backend, outcome, request)
        except BackendError:
            raise
        except KapstanError as error:  # before the next one to ask is told the same
            logger.error("The result of run %s does not count: %s", outcome.run_id, error)
            outcome = self._failed(outcome, error)
        self.open.pop(outcome.run_id, None)
        return outcome

    def _failed(self, outcome: Outcome, error: KapstanError) -> Outcome:
        envelope = values.failure_envelope(self._backend, error, outcome.run_id)
        return outcome._replace(state="failed", envelope=envelope)


def request_of(claim: Claim, spec: TaskSpec, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """What a run whose result is persisted is asked, as ``persisted.settled`` takes it.

    Only the id of an idempotency key stands for more than one request. Arguments of which no key can be made are not
    looked at."""
    if ids.made_at(claim.run_id) is not None:
        return ""
    try:
        bound = spec.bind(tuple(args), kwargs)
        told = {name: value for name, value in bound.items() if not canonical.unkeyable(value)}
        return f"{canonical.VERSION.decode()}-{canonical.digest(told)}"
    except Exception:  # noqa: BLE001  (of classes of the user's; or they do not fit, and the run will say so)
        return ""

"""``apply_async`` and ``apply_async_many``: background runs with wishes, which ``Task.delay`` makes without any.

Read by ``tasks``; what a call says becomes ``engine.submit_options.SubmitOptions``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kapstan.engine import submission
from kapstan.engine.submit_options import keys_of, of_call
from kapstan.errors import ConfigurationError
from kapstan.futures import Future, FutureList, future_of

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from kapstan.durability import Durability
    from kapstan.specs import TaskSpec

Call = tuple[Iterable[Any], Mapping[str, Any]]


class Deferred:
    """The part of ``Task`` that submits background runs with options of their own."""

    if TYPE_CHECKING:
        spec: TaskSpec
        _bound: tuple[Any, ...]

    def apply_async(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        countdown: float = 0.0,
        eta: datetime | None = None,
        expires: float | timedelta | datetime | None = None,
        idempotency_key: str | None = None,
        wait_for: Iterable[Any] | None = None,
        replace_key: str | None = None,
        queue: str | None = None,
        priority: int | None = None,
        group: str | None = None,
        durability: Durability | str | None = None,
    ) -> Future[Any]:
        """As ``delay``, with the arguments in a tuple and a dict.

        Args:
            countdown: seconds until the run may start, 0 or more.
            eta: instead of it the moment, with a time zone, by this machine's clock; one that has passed means now.
            expires: how long from now, or until when, the run may wait: one that was not begun by then ends as
                Cancelled, with the name ``Expired``. Seconds, a timedelta, or a datetime with a time zone. Default: the
                task's option.
            idempotency_key: one key of a task is one run, whoever submits it and however often, as long as its record
                stays (``KAPSTAN_RESULT_TTL_SECONDS`` after its end). The options of the first submit count.
            wait_for: futures or ids of background runs that must complete before it starts; this call does not wait
                for them. If one ends otherwise the run does not start: it ends as Failed and names that one. What
                ``submit`` runs in this process is waited for here.
            replace_key: if a run of this task, queue and key still waits, it gets these arguments, this time and these
                options instead of its own, and its future is returned. With ``countdown`` that is a debounce: of many
                submits the last one runs, so long after it. One that runs already is left alone, and a new one is
                queued. Not in flows.
            queue, priority, group, durability: other ones than those of the task.

        Raises:
            ConfigurationError: an option that cannot be, or two that contradict each other.
            IdempotencyConflict: the key was used for other arguments.
            Exception: that of something in ``wait_for`` that this process knows not to have completed; nothing was
                submitted.
        """
        options = of_call(
            self.spec,
            countdown=countdown,
            eta=eta,
            expires=expires,
            idempotency_key=idempotency_key,
            wait_for=wait_for,
            replace_key=replace_key,
            queue=queue,
            priority=priority,
            group=group,
            durability=durability,
        )
        call = (*self._bound, *(args or ())), dict(kwargs or {})
        return future_of(submission.submit(self.spec, *call, options))

    def apply_async_many(
        self,
        calls: Iterable[Call],
        *,
        countdown: float = 0.0,
        eta: datetime | None = None,
        expires: float | timedelta | datetime | None = None,
        idempotency_keys: Sequence[str] | None = None,
        wait_for: Iterable[Any] | None = None,
        queue: str | None = None,
        priority: int | None = None,
        group: str | None = None,
        durability: Durability | str | None = None,
    ) -> FutureList[Any]:
        """Submit many runs at once, in order: ``[(args, kwargs), ...]``. The options are those of ``apply_async`` and
        hold for each. If one call cannot be sent, none is submitted: all are serialised, and large arguments stored,
        before the first is sent.

        Args:
            idempotency_keys: the key of each.

        Raises:
            ConfigurationError: as ``apply_async``; a call that is no pair; not as many keys as calls, or one key twice.
            IdempotencyConflict: keys that were used for other arguments; all others were submitted.
            StoreUnavailable, StoreRefused: the store does not take large arguments; none was submitted.
            QueueUnavailable: it broke off; ``error.accepted`` names the runs that were accepted.
        """
        given = list(calls)
        keys = None if idempotency_keys is None else keys_of(idempotency_keys, len(given))
        pairs = [((*self._bound, *args), kwargs) for args, kwargs in (_pair(*item) for item in enumerate(given))]
        wishes = {"countdown": countdown, "eta": eta, "expires": expires, "wait_for": wait_for}
        return self._submitted(
            pairs, keys, **wishes, queue=queue, priority=priority, group=group, durability=durability
        )

    def _submitted(
        self, calls: Sequence[submission.Call], keys: Sequence[str] | None = None, **options: Any
    ) -> FutureList[Any]:
        options = {"countdown": 0.0, "eta": None, "expires": None, **options}
        run_ids = submission.submit_many(self.spec, calls, of_call(self.spec, **options), keys)
        return FutureList([future_of(run_id) for run_id in run_ids])


def _pair(at: int, call: Any) -> submission.Call:
    if isinstance(call, (tuple, list)) and len(call) == 2:  # pyright: ignore[reportUnknownArgumentType]
        args, kwargs = call  # pyright: ignore[reportUnknownVariableType]
        if isinstance(args, (tuple, list)) and isinstance(kwargs, Mapping):
            return tuple(args), dict(kwargs)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    raise ConfigurationError(
        f"calls[{at}]={call!r}: give a pair of positional and named arguments, such as ((1,), {{}})"
    )

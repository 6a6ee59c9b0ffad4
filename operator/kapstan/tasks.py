"""``@task``: turns a function into a task that can be called, submitted, mapped and delayed.

The surface only: options become a frozen ``TaskSpec``. Two straight lines lead from here: ``delay`` ->
``engine.submission`` -> queue, and a call -> ``engine.task_run`` -> the journal of the flow run that it is made in.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator, Iterable
from typing import TYPE_CHECKING, Any, Concatenate, Generic, Literal, ParamSpec, TypeVar, Unpack, cast, overload

from kapstan import cache_policies, identity, settings, specs
from kapstan.cache_policies import task_input_hash
from kapstan.context import current_flow
from kapstan.deferred import Deferred
from kapstan.engine import effect_options, forks, registry, storages, submission, task_run
from kapstan.engine import options as opts
from kapstan.engine.decorated import Decorated
from kapstan.engine.execution import TaskExecution
from kapstan.engine.functions import iterated, runs_async
from kapstan.engine.hooked import Hooked
from kapstan.engine.mapping import expanded, unmapped
from kapstan.engine.options import TaskOptions, exponential_backoff
from kapstan.engine.pending import promises
from kapstan.futures import Future, FutureList, future_of
from kapstan.specs import TaskPolicy, TaskSpec
from kapstan.states import State

__all__ = [
    "Task",
    "TaskOptions",
    "exponential_backoff",
    "registered",
    "start_background",
    "task",
    "task_input_hash",
    "unmapped",
]

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R", covariant=True)
T = TypeVar("T")
_Yields = Generator[T, Any, Any] | AsyncGenerator[T, Any]

if TYPE_CHECKING:

    class _Attributes(Hooked, Decorated, TaskPolicy): ...  # pyright: ignore[reportIncompatibleVariableOverride]
else:

    class _Attributes(Hooked, Decorated): ...


class Task(_Attributes, Deferred, Generic[P, R]):
    """A function with options. Made by ``@task``; ``with_options`` makes a changed copy.

    Each option (``TaskOptions``) is an attribute of the same name, with its default where it was not given.

    Args:
        fn: a function, coroutine function, method, classmethod or staticmethod.
        options: see ``TaskOptions``.

    Raises:
        TypeError: an unknown option, naming the nearest one.
        ConfigurationError: an option that cannot be, naming it, its value and what fits.
        DuplicateTask: another function of this process has the same identity.
    """

    _policy = TaskPolicy

    def __init__(self, fn: Callable[P, R], **options: Unpack[TaskOptions]) -> None:
        super().__init__(fn, options)
        plain: Callable[..., Any] = self.__wrapped__
        values = opts.policy(
            "@task",
            TaskOptions,
            options,
            description=inspect.getdoc(plain) or "",
            retries=settings.peek("default_retries"),
            retry_delay_seconds=settings.peek("default_retry_delay_seconds"),
            refresh_cache=settings.peek("refresh_cache"),
        )
        name = options.get("name")
        values = effect_options.settled(cache_policies.settled(name or self.__name__, values), options)
        signature, own_signature = specs.signatures_of(plain)
        storages.check_parameters(values.get("result_storage_key"), signature, own_signature)
        self.spec = TaskSpec(
            identity=identity.identity_of(plain, name),
            name=name or self.__name__,
            fn=plain,
            is_async=runs_async(plain),
            signature=signature,
            own_signature=own_signature,
            key_storage=storages.key_storage(values.get("cache_policy")),
            task=self,
            **values,
        )

    @overload
    def __call__(self: Task[Q, Generator[T, Any, Any]], *args: Q.args, **kwargs: Q.kwargs) -> list[T]: ...
    @overload
    def __call__(self: Task[Q, AsyncGenerator[T, Any]], *args: Q.args, **kwargs: Q.kwargs) -> AsyncIterator[T]: ...
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def __call__(
        self: Task[..., Coroutine[Any, Any, Any]], *args: Any, return_state: Literal[True], **kwargs: Any
    ) -> Coroutine[Any, Any, State]: ...
    @overload
    def __call__(self, *args: Any, return_state: Literal[True], **kwargs: Any) -> State: ...
    @overload
    def __call__(self, *args: Any, wait_for: Iterable[Any], **kwargs: Any) -> R: ...
    def __call__(
        self, *args: Any, return_state: bool = False, wait_for: Iterable[Any] | None = None, **kwargs: Any
    ) -> Any:
        """Run the task here: its result, or its State with ``return_state=True``.

        The result of a generator function is the list of its items. Call an async one with ``async for``.

        In a flow the outcome is in the run's journal before this returns, and a resumed run replays it. Outside a flow
        retries and timeouts apply, but nothing is recorded.

        Raises:
            ParameterError: the arguments do not fit.
            Exception: what the task raised, after its retries.
        """
        call = self._prepare(args, kwargs, wait_for)
        if self.spec.is_async:
            coroutine = self._call_async(call, return_state)
            return iterated(coroutine) if self.isgenerator and not return_state else coroutine
        state = task_run.run(call)
        return state.of_run(call.run.run_id) if return_state else task_run.result(state)

    async def _call_async(self, call: TaskExecution, return_state: bool) -> Any:
        state = await task_run.arun(call)
        return state.of_run(call.run.run_id) if return_state else task_run.result(state)

    @overload
    def submit(self: Task[Q, Coroutine[Any, Any, T]], *args: Q.args, **kwargs: Q.kwargs) -> Future[T]: ...
    @overload
    def submit(self: Task[Q, _Yields[T]], *args: Q.args, **kwargs: Q.kwargs) -> Future[list[T]]: ...
    @overload
    def submit(self, *args: P.args, **kwargs: P.kwargs) -> Future[R]: ...
    @overload
    def submit(self: Task[..., Coroutine[Any, Any, T]], *args: Any, **kwargs: Any) -> Future[T]: ...
    @overload
    def submit(self, *args: Any, **kwargs: Any) -> Future[R]: ...
    def submit(
        self, *args: Any, return_state: bool = False, wait_for: Iterable[Any] | None = None, **kwargs: Any
    ) -> Any:
        """Run the task concurrently with the caller. Futures among the arguments become their results first.

        In a flow it runs on the flow's threads. Outside a flow it runs in the background of this process, on a queue
        of this application; if the application is restarted, it takes up what was not finished.

        Args:
            return_state: wait for the end and return the State instead of a Future.
            wait_for: futures and states to wait for first. In a flow they must be Completed, or the run does not start
                (``NotReady``).

        Raises:
            ParameterError: the arguments do not fit.
        """
        if current_flow.get() is None:
            from kapstan.worker import in_process

            forks.check_call(f"{self.name}.submit()")

            for upstream in promises(list(wait_for or ())):
                upstream.final_state()
            future: Future[Any] = Future(in_process.submit(self.spec, (*self._bound, *args), kwargs, registered))
        else:
            call = self._prepare(args, kwargs, wait_for)
            future = Future(call.run.run_id, pending=task_run.submit(call))
        return future.final_state().of_run(future.memo_reference) if return_state else future

    @overload
    def map(self: Task[..., Coroutine[Any, Any, T]], *args: Any, **kwargs: Any) -> FutureList[T]: ...
    @overload
    def map(self: Task[..., _Yields[T]], *args: Any, **kwargs: Any) -> FutureList[list[T]]: ...
    @overload
    def map(self, *args: Any, **kwargs: Any) -> FutureList[R]: ...
    def map(self, *args: Any, deferred: bool = False, wait_for: Iterable[Any] | None = None, **kwargs: Any) -> Any:
        """Submit one run for each element of the iterable arguments; ``unmapped`` values, strings and defaults stay the
        same.

        What goes to ``*args`` and ``**kwargs`` is taken apart like any other argument.

        Args:
            deferred: ``delay`` instead of ``submit``; ``wait_for`` as of ``apply_async``.

        Raises:
            MappingMissingIterable: no argument is iterable.
            MappingLengthMismatch: the iterables differ in length.
        """
        calls = expanded(self.spec, (*map(unmapped, self._bound), *args), kwargs)
        if deferred:
            return self._submitted(calls, wait_for=wait_for)
        own = len(self._bound)  # expanded() gives it first in each call; `submit` adds it itself
        options: dict[str, Any] = {} if wait_for is None else {"wait_for": list(wait_for)}
        return FutureList(self.submit(*args[own:], **kwargs, **options) for args, kwargs in calls)

    @overload
    def delay(self: Task[Q, Coroutine[Any, Any, T]], *args: Q.args, **kwargs: Q.kwargs) -> Future[T]: ...
    @overload
    def delay(self: Task[Q, _Yields[T]], *args: Q.args, **kwargs: Q.kwargs) -> Future[list[T]]: ...
    @overload
    def delay(self, *args: P.args, **kwargs: P.kwargs) -> Future[R]: ...
    def delay(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task in the background, on any worker that serves it; returns as soon as the run is accepted.

        Raises:
            ParameterError: the arguments do not fit.
            SerializationError: an argument cannot be serialised, or is too large.
            QueueUnavailable: the run may or may not have been accepted.
        """
        return future_of(submission.submit(self.spec, (*self._bound, *args), kwargs))

    def serve(self, limit: int | None = None) -> None:
        """Execute what ``delay`` submits, in this process, until it is stopped; ``kapstan.serve`` serves several
        tasks."""
        from kapstan.task_worker import serve

        serve(self, limit=limit)

    @property
    def task_key(self) -> str:
        """The identity: ``module:qualname`` or the explicit name."""
        return self.spec.identity

    def with_options(self, **options: Unpack[TaskOptions]) -> Task[P, R]:
        """A copy with other options; what is not named stays, and None takes an option back to its default.

        The identity stays as well, unless ``name`` is given.

        Raises:
            TypeError: an unknown option, naming the nearest one.
            ConfigurationError: an option that cannot be.
        """
        opts.checked("with_options", TaskOptions, options)
        changed: Any = {**self._options, **options}
        copy = Task(cast("Callable[P, R]", self.fn), **changed)
        copy._bound = self._bound
        return copy

    @overload
    def __get__(self, instance: None, owner: type[Any]) -> Task[P, R]: ...
    @overload
    def __get__(self: Task[Concatenate[Any, Q], R], instance: object, owner: type[Any]) -> Task[Q, R]: ...
    def __get__(self, instance: Any, owner: Any) -> Any:
        return super().__get__(instance, owner)

    def _prepare(self, args: tuple[Any, ...], kwargs: dict[str, Any], wait_for: Iterable[Any] | None) -> Any:
        return task_run.prepare(self.spec, (*self._bound, *args), kwargs, tuple(wait_for or ()))


@overload
def task(fn: Callable[P, R], /, **options: Unpack[TaskOptions]) -> Task[P, R]: ...
@overload
def task(**options: Unpack[TaskOptions]) -> Callable[[Callable[P, R]], Task[P, R]]: ...
def task(fn: Any = None, /, **options: Any) -> Any:
    """Make a task of a function: ``@task`` or ``@task(retries=3, ...)``; the options are those of ``TaskOptions``.

    Raises:
        TypeError: an unknown option, naming the nearest one.
        ConfigurationError: an option that cannot be.
        DuplicateTask: another function of this process has the same identity.
    """
    opts.checked("@task", TaskOptions, options)

    def decorate(function: Callable[..., Any]) -> Task[..., Any]:
        made = Task(function, **options)
        registry.add(made)
        return made

    return decorate if fn is None else decorate(fn)


def registered() -> dict[str, Task[..., Any]]:
    """The decorated tasks of this process by identity."""
    return registry.tasks()


def start_background() -> None:
    """Take up what ``.submit()`` left when this application last ended; its first ``.submit()`` does so by itself."""
    from kapstan.worker import in_process

    in_process.start(registered)

"""``@flow``: turns a function into a flow that can be called, and resumed.

The surface only: options become a frozen ``FlowSpec``; ``engine.flow_engine`` runs it.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Generic, Literal, ParamSpec, TypeVar, Unpack, cast, overload

from kapstan import identity, specs
from kapstan.engine import flow_engine
from kapstan.engine import options as opts
from kapstan.engine.decorated import Decorated
from kapstan.engine.functions import iterated, runs_async
from kapstan.engine.options import FlowOptions
from kapstan.engine.parameters import coercion
from kapstan.engine.pending import not_ready, until_done
from kapstan.specs import FlowPolicy, FlowSpec
from kapstan.states import State

__all__ = ["Flow", "FlowOptions", "flow", "spec_of"]

P = ParamSpec("P")
Q = ParamSpec("Q")
T = TypeVar("T")
R = TypeVar("R", covariant=True)

if TYPE_CHECKING:

    class _Attributes(Decorated, FlowPolicy): ...  # pyright: ignore[reportIncompatibleVariableOverride]
else:
    _Attributes = Decorated


class Flow(_Attributes, Generic[P, R]):
    """A function whose task calls are recorded in a journal, so a lost run can go on. Made by ``@flow``.

    Each option (``FlowOptions``) is an attribute of the same name, with its default where it was not given.

    Args:
        fn: a function or coroutine function.
        options: see ``FlowOptions``.

    Raises:
        TypeError: an unknown option, naming the nearest one.
        ConfigurationError: an option that cannot be, naming it, its value and what fits.
    """

    _policy = FlowPolicy

    def __init__(self, fn: Callable[P, R], **options: Unpack[FlowOptions]) -> None:
        super().__init__(fn, options)
        plain: Callable[..., Any] = self.__wrapped__
        values = opts.policy("@flow", FlowOptions, options, description=inspect.getdoc(plain) or "")
        name = options.get("name") or self.__name__.replace("_", "-")
        signature, own_signature = specs.signatures_of(plain)
        self.spec = FlowSpec(
            identity=identity.identity_of(plain, options.get("name")),
            name=name,
            fn=plain,
            is_async=runs_async(plain),
            signature=signature,
            own_signature=own_signature,
            coerce=coercion(name, plain, signature) if values.get("validate_parameters", True) else None,
            entrypoint=_entrypoint(plain),
            module=identity.importable_name(getattr(plain, "__module__", None) or "__main__"),
            **values,
        )

    @overload
    def __call__(self: Flow[Q, Generator[T, Any, Any]], *args: Q.args, **kwargs: Q.kwargs) -> list[T]: ...
    @overload
    def __call__(self: Flow[Q, AsyncGenerator[T, Any]], *args: Q.args, **kwargs: Q.kwargs) -> AsyncIterator[T]: ...
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def __call__(
        self: Flow[..., Coroutine[Any, Any, Any]], *args: Any, return_state: Literal[True], **kwargs: Any
    ) -> Coroutine[Any, Any, State]: ...
    @overload
    def __call__(self, *args: Any, return_state: Literal[True], **kwargs: Any) -> State: ...
    @overload
    def __call__(self, *args: Any, wait_for: Iterable[Any], **kwargs: Any) -> R: ...
    def __call__(
        self, *args: Any, return_state: bool = False, wait_for: Iterable[Any] | None = None, **kwargs: Any
    ) -> Any:
        """Run the flow here: what it returns, or its State with ``return_state=True``.

        Inside another flow it is a subflow: a run of its own, whose outcome the outer one remembers. Futures that it
        returns are waited for, and their results returned. What a generator function yields becomes a list.

        Args:
            wait_for: futures and states that must be Completed first. If one is not, the run does not start
                (``NotReady``).

        Raises:
            ParameterError: the arguments do not fit.
            UnfinishedRun: something in ``wait_for`` did not complete.
            Exception: what the flow raised, after its retries; what a future or state that it returned failed with.
        """
        run = flow_engine.new_run(self.spec, (*self._bound, *args), kwargs)
        upstream = tuple(wait_for or ())
        if self.spec.is_async:
            coroutine = self._call_async(run, upstream, return_state)
            return iterated(coroutine) if self.isgenerator and not return_state else coroutine
        state = not_ready(upstream) or flow_engine.run(run)
        return state if return_state else state.result()

    async def _call_async(self, run: Any, upstream: tuple[Any, ...], return_state: bool) -> Any:
        if upstream:
            await until_done(upstream)
        state = not_ready(upstream) or await flow_engine.arun(run)
        return state if return_state else state.result()

    @overload
    def __get__(self, instance: None, owner: type[Any]) -> Flow[P, R]: ...
    @overload
    def __get__(self: Flow[Concatenate[Any, Q], R], instance: object, owner: type[Any]) -> Flow[Q, R]: ...
    def __get__(self, instance: Any, owner: Any) -> Any:
        return super().__get__(instance, owner)

    @property
    def should_validate_parameters(self) -> bool:
        """The option ``validate_parameters``, under Prefect's name for it."""
        return self.validate_parameters

    def with_options(self, **options: Unpack[FlowOptions]) -> Flow[P, R]:
        """A copy with other options; what is not named stays, and None takes an option back to its default.

        Raises:
            TypeError: an unknown option, naming the nearest one.
            ConfigurationError: an option that cannot be.
        """
        opts.checked("with_options", FlowOptions, options)
        changed: Any = {**self._options, **options}
        copy = Flow(cast("Callable[P, R]", self.fn), **changed)
        copy._bound = self._bound
        return copy


@overload
def flow(fn: Callable[P, R], /, **options: Unpack[FlowOptions]) -> Flow[P, R]: ...
@overload
def flow(**options: Unpack[FlowOptions]) -> Callable[[Callable[P, R]], Flow[P, R]]: ...
def flow(fn: Any = None, /, **options: Any) -> Any:
    """Make a flow of a function: ``@flow`` or ``@flow(retries=3, ...)``; the options are those of ``FlowOptions``.

    Raises:
        TypeError: an unknown option, naming the nearest one.
        ConfigurationError: an option that cannot be.
    """
    opts.checked("@flow", FlowOptions, options)

    def decorate(function: Callable[..., Any]) -> Flow[..., Any]:
        return Flow(function, **options)

    return decorate if fn is None else decorate(fn)


def _entrypoint(fn: Callable[..., Any]) -> str:
    """Where another process finds ``fn``: module and name, or file and name for a script; "" for a local function."""
    qualname = getattr(fn, "__qualname__", "<unknown>")
    module = sys.modules.get(getattr(fn, "__module__", ""))
    if "<" in qualname or module is None:
        return ""
    in_package = "." in module.__name__ or (module.__name__ == "__main__" and module.__spec__ is not None)
    file = getattr(module, "__file__", None)
    if in_package or not file:
        return f"{identity.importable_name(module.__name__)}:{qualname}"
    return f"{Path(file).resolve()}:{qualname}"


def spec_of(value: Any) -> FlowSpec | None:
    """The spec of a decorated flow, None for anything else."""
    return cast("Flow[..., Any]", value).spec if isinstance(value, Flow) else None

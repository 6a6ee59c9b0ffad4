"""``@flow``: turns a function into a flow that can be called, and resumed.

The surface only: options become a frozen ``FlowSpec``; ``engine.flow_engine`` runs it.
"""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, Literal, ParamSpec, TypeVar, cast, overload

from kapstan import specs
from kapstan.engine import flow_engine
from kapstan.engine.annotations import fits
from kapstan.engine.options import RetryDelays, RunName, check_options, number, retry_delays, whole
from kapstan.errors import ConfigurationError, ParameterTypeError
from kapstan.specs import FlowSpec
from kapstan.states import State
from kapstan.task_runners import ThreadPoolTaskRunner

P = ParamSpec("P")
R = TypeVar("R", covariant=True)


class Flow(Generic[P, R]):
    """A function whose task calls are journalled, so that a run goes on where it was lost. Made by ``@flow``.

    Args:
        fn: a function or coroutine function.
        name: what people read; by default the function's name.
        description: for people; by default the docstring.
        version: for people.
        flow_run_name: template (``"etl-{date}"``) or function for the names of runs; by default two random words.
        retries: how often the function runs again, in the same process, after it raised.
        retry_delay_seconds: seconds before a retry: a number, a list (its last repeats), or retries -> list.
        task_runner: ``ThreadPoolTaskRunner(max_workers=...)``: how many submitted tasks run at a time.
        timeout_seconds: after so long the run fails with ``TaskTimeout``.
        validate_parameters: whether arguments are made the types of the annotations (``"5"`` becomes 5).
        persist_result: False: what the flow returns is not stored.
        log_prints: whether ``print`` becomes a log line; None: as the settings say.

    Raises:
        ConfigurationError: an option that cannot be, naming it, its value and what fits.
    """

    def __init__(
        self,
        fn: Callable[P, R],
        *,
        name: str | None = None,
        description: str | None = None,
        version: str | None = None,
        flow_run_name: RunName | None = None,
        retries: int | None = None,
        retry_delay_seconds: RetryDelays | None = None,
        task_runner: ThreadPoolTaskRunner | None = None,
        timeout_seconds: float | None = None,
        validate_parameters: bool = True,
        persist_result: bool | None = None,
        log_prints: bool | None = None,
    ) -> None:
        if not callable(fn):
            raise ConfigurationError(f"@flow on {fn!r}: give a function")
        self.fn = fn
        self.name = name or getattr(fn, "__name__", type(fn).__name__)
        retries = whole("retries", 0 if retries is None else retries)
        self.spec = FlowSpec(
            identity=specs.identity_of(fn, name),
            name=self.name,
            fn=fn,
            is_async=inspect.iscoroutinefunction(fn),
            signature=specs.signature_of(fn),
            description=description if description is not None else inspect.getdoc(fn) or "",
            version=version or "",
            retries=retries,
            retry_delay=retry_delays(retry_delay_seconds, retries),
            timeout=number("timeout_seconds", timeout_seconds),
            log_prints=log_prints,
            coerce=_coercion(self.name, fn) if validate_parameters else None,
            persist_result=persist_result,
            submit_limit=None if task_runner is None else task_runner.max_workers,
            entrypoint=_entrypoint(fn),
            run_name=flow_run_name,
        )
        self.__name__ = getattr(fn, "__name__", self.name)
        self.__qualname__ = getattr(fn, "__qualname__", self.name)
        self.__doc__ = fn.__doc__
        self.__module__ = getattr(fn, "__module__", "")
        self.__wrapped__ = fn

    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def __call__(
        self: Flow[..., Coroutine[Any, Any, Any]], *args: Any, return_state: Literal[True], **kwargs: Any
    ) -> Coroutine[Any, Any, State]: ...
    @overload
    def __call__(self, *args: Any, return_state: Literal[True], **kwargs: Any) -> State: ...
    def __call__(self, *args: Any, return_state: bool = False, **kwargs: Any) -> Any:
        """Run the flow here: what it returns, or its State with ``return_state=True``.

        Inside another flow it is a subflow: a run of its own, whose outcome the outer one remembers. Futures that it
        returns are waited for, and their results returned.

        Raises:
            ParameterError: the arguments do not fit.
            Exception: what the flow raised, after its retries; what a future or state that it returned failed with.
        """
        run = flow_engine.new_run(self.spec, args, kwargs)
        if self.spec.is_async:
            return self._call_async(run, return_state)
        state = flow_engine.run(run)
        return state if return_state else state.result()

    async def _call_async(self, run: Any, return_state: bool) -> Any:
        state = await flow_engine.arun(run)
        return state if return_state else state.result()

    def with_options(self, **options: Any) -> Flow[P, R]:
        """A copy with other options; what is not named stays.

        Raises:
            TypeError: an unknown option, naming the nearest one.
        """
        check_options("with_options", options, _FIELDS)
        given = {key: value for key, value in options.items() if value is not None}
        every: dict[str, Any] = {"name": self.spec.identity, **given}
        probe: Flow[P, R] = Flow(self.fn, **every)
        changed = {field: getattr(probe.spec, field) for key in given for field in _FIELDS[key]}
        copy = cast("Flow[P, R]", object.__new__(Flow))
        copy.__dict__.update(self.__dict__)
        copy.spec = replace(self.spec, **changed)
        copy.name = copy.spec.name
        return copy

    def __repr__(self) -> str:
        return f"<Flow {self.spec.identity}>"


@overload
def flow(fn: Callable[P, R], /) -> Flow[P, R]: ...
@overload
def flow(
    *,
    name: str | None = None,
    description: str | None = None,
    version: str | None = None,
    flow_run_name: RunName | None = None,
    retries: int | None = None,
    retry_delay_seconds: RetryDelays | None = None,
    task_runner: ThreadPoolTaskRunner | None = None,
    timeout_seconds: float | None = None,
    validate_parameters: bool = True,
    persist_result: bool | None = None,
    log_prints: bool | None = None,
) -> Callable[[Callable[P, R]], Flow[P, R]]: ...
def flow(fn: Any = None, /, **options: Any) -> Any:
    """Make a flow of a function: ``@flow`` or ``@flow(retries=3, ...)``; the options are those of ``Flow``.

    Raises:
        TypeError: an unknown option, naming the nearest one.
    """
    check_options("@flow", options, _FIELDS)
    if fn is None:

        def decorate(function: Callable[..., Any]) -> Flow[..., Any]:
            return Flow(function, **options)

        return decorate
    return Flow(cast("Callable[..., Any]", fn), **options)


_FIELDS: dict[str, tuple[str, ...]] = {
    "name": ("identity", "name"),
    "description": ("description",),
    "version": ("version",),
    "flow_run_name": ("run_name",),
    "retries": ("retries",),
    "retry_delay_seconds": ("retry_delay",),
    "task_runner": ("submit_limit",),
    "timeout_seconds": ("timeout",),
    "validate_parameters": ("coerce",),
    "persist_result": ("persist_result",),
    "log_prints": ("log_prints",),
}


def _entrypoint(fn: Callable[..., Any]) -> str:
    """Where another process finds ``fn``: module and name, or file and name for a script; "" for a local function."""
    qualname = getattr(fn, "__qualname__", "<unknown>")
    module = sys.modules.get(getattr(fn, "__module__", ""))
    if "<" in qualname or module is None:
        return ""
    in_package = "." in module.__name__ or (module.__name__ == "__main__" and module.__spec__ is not None)
    file = getattr(module, "__file__", None)
    if in_package or not file:
        return f"{specs.importable_name(module.__name__)}:{qualname}"
    return f"{Path(file).resolve()}:{qualname}"


# ---------------------------------------------------------------------------------------------- parameters

_Coerce = Callable[[Mapping[str, Any]], dict[str, Any]]


def _coercion(name: str, fn: Callable[..., Any]) -> _Coerce | None:
    """Turns arguments into the types that ``fn`` names; pydantic is loaded only where that is not plain to see."""
    if not getattr(fn, "__annotations__", {}).keys() - {"return"}:
        return None
    hints: dict[str, Any] = {}

    def coerce(parameters: Mapping[str, Any]) -> dict[str, Any]:
        if not hints:
            hints.update(_hints(fn))
        coerced = dict(parameters)
        for parameter, value in parameters.items():
            hint = hints.get(parameter, Any)
            if fits(value, hint):
                continue
            coerced[parameter] = _convert(name, parameter, value, hint)
        return coerced

    return coerce


def _hints(fn: Callable[..., Any]) -> dict[str, Any]:
    """The type of each parameter; none where its name cannot be resolved (imported for type checkers, or local)."""
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    hints: dict[str, Any] = {"return": Any}
    for name, parameter in inspect.signature(fn).parameters.items():
        if parameter.kind in variadic or parameter.annotation is parameter.empty:
            continue
        holder = type("_One", (), {"__annotations__": {name: parameter.annotation}})
        try:
            hints.update(typing.get_type_hints(holder, getattr(fn, "__globals__", {}), include_extras=True))
        except NameError:
            continue
    return hints


def _convert(flow_name: str, parameter: str, value: Any, hint: Any) -> Any:
    from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

    try:
        try:
            adapter: TypeAdapter[Any] = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
        except PydanticUserError:  # the type brings a configuration of its own
            adapter = TypeAdapter(hint)
        return adapter.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = "".join(f"[{part!r}]" for part in first["loc"])
        wanted = getattr(hint, "__name__", None) or str(hint)
        raise ParameterTypeError(
            f"flow {flow_name}: parameter {parameter}{place}={first['input']!r} is not {wanted}: {first['msg']}"
        ) from None


def spec_of(value: Any) -> FlowSpec | None:
    """The spec of a decorated flow, None for anything else."""
    return cast("Flow[..., Any]", value).spec if isinstance(value, Flow) else None

"""What a task and a flow are to the engine: frozen records, without the surface that users hold.

``kapstan.tasks`` and ``kapstan.flows`` make them; ``engine`` and ``worker`` act on them and never import those modules.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from kapstan.durability import Durability
from kapstan.errors import ConfigurationError, ParameterError
from kapstan.run_limits import RateLimit
from kapstan.states import EffectClass, State

RetryDelay = float | tuple[float, ...]
"""Seconds before each retry; of a tuple the last repeats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPolicy:
    """The options of a task in the form that the engine reads; ``engine.options.TaskOptions`` says what they mean.

    Attributes:
        retry_delay_seconds: of a tuple the last repeats.
        timeout_seconds: None for no limit.
        log_prints: None inherits from the flow, then from the settings.
        persist_result: None means yes wherever a backend is open.
        cache_policy: a ``kapstan.cache_policies.CachePolicy``; that of ``cache_key_fn`` where there is one.
        result_storage: address of where results go; None inherits from the flow, then from the settings.
        result_storage_key: template of the key under which they also stand there.
        result_serializer: the ``kapstan.serializers.Serializer`` of results; None inherits in the same way.
        effect: that of ``exactly_once`` where only that was given.
        durability: None for that of the settings.
    """

    description: str = ""
    tags: frozenset[str] = frozenset()
    version: str = ""
    retries: int = 0
    retry_delay_seconds: RetryDelay = 0.0
    retry_jitter_factor: float = 0.0
    retry_condition_fn: Callable[[Any, Any, State], Any] | None = None
    timeout_seconds: float | None = None
    log_prints: bool | None = None
    persist_result: bool | None = None
    queue: str = "default"
    priority: int = 0
    group: str | Callable[..., Any] | None = None
    concurrency_limit: int | None = None
    rate_limit: RateLimit | None = None
    group_concurrency_limit: int | None = None
    group_rate_limit: RateLimit | None = None
    result_storage: str | None = None
    result_storage_key: str | None = None
    result_serializer: Any = None
    task_run_name: str | Callable[..., str] | None = None
    cache_policy: Any = None
    cache_key_fn: Callable[[Any, dict[str, Any]], str | None] | None = None
    cache_expiration: timedelta | None = None
    refresh_cache: bool = False
    cache_result_in_memory: bool = True
    on_commit: tuple[Callable[..., Any], ...] = ()
    on_rollback: tuple[Callable[..., Any], ...] = ()
    effect: EffectClass = EffectClass.PURE
    exactly_once: bool = False
    probe: Callable[[str], Any] | None = None
    effect_horizon: float = 60.0
    key_retention: float = 82_800.0
    expires: float | None = None
    durability: Durability | None = None


@dataclass(frozen=True, slots=True)
class TaskSpec(TaskPolicy):
    """A task: its function, its identity and its options.

    Attributes:
        identity: ``module:qualname`` or the explicit name; what the queue, the journal and keys carry.
        signature: of the function below its decorators, whose parameters have names.
        key_storage: where its registers are, as ``RegisterKey.storage``: that of its cache policy.
        own_signature: of what is called, where a decorator (``functools.wraps``) may take other arguments than the
            function below it; None: the same.
        task: the ``Task`` that users hold, for their own code that is given it (conditions).
    """

    identity: str
    name: str
    fn: Callable[..., Any]
    is_async: bool
    signature: inspect.Signature
    own_signature: inspect.Signature | None = None
    key_storage: str = ""
    task: Any = field(default=None, repr=False, compare=False)
    chain: Any = field(default=None, init=False, repr=False, compare=False)
    """The steps of its runs; ``engine.chain`` makes them at the first."""
    code: Any = field(default=None, init=False, repr=False, compare=False)
    """The fingerprint of its code; ``engine.fingerprint`` makes it where a cache policy asks."""
    arity: tuple[int, int] = field(init=False, repr=False, compare=False)
    """How many positional arguments, and nothing else, fit the signature: the least and the most; most 0 < least 1 for
    none."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "arity", _arity(self.signature))

    @property
    def has_effect(self) -> bool:
        """Whether running it twice may do harm."""
        return self.effect is not EffectClass.PURE

    @property
    def has_cache_policy(self) -> bool:
        """Whether a cache policy makes the keys of its runs."""
        return self.cache_policy is not None and not getattr(self.cache_policy, "never_caches", False)

    @property
    def strict_inputs(self) -> bool:
        """Whether the memo key alone says that it was done, so that it must tell every input from every other."""
        return self.has_effect and not self.has_cache_policy

    @property
    def is_keyed(self) -> bool:
        """Whether its runs are registered under a key."""
        return self.has_effect or (self.has_cache_policy and self.persist_result is not False)

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments by parameter name, defaults applied.

        Raises:
            ParameterError: they do not fit the signature.
        """
        return bind(self, args, kwargs)

    def fits(self, args: Any, kwargs: Mapping[str, Any]) -> bool:
        """Whether the arguments fit the signature of this version of the task (the caller's may be another)."""
        try:
            self.bind(tuple(args), kwargs)
        except ParameterError:
            return False
        return True

    def bound(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> inspect.BoundArguments:
        """As ``bind``, in the form that gives ``args`` and ``kwargs`` back, without the defaults."""
        return bound(self, args, kwargs)

    def delay_before(self, retry: int) -> float:
        """Seconds before retry number ``retry`` (1-based), without jitter."""
        return nth_delay(self.retry_delay_seconds, retry)


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowPolicy:
    """As ``TaskPolicy``, of a flow; ``engine.options.FlowOptions`` says what they mean."""

    description: str = ""
    tags: frozenset[str] = frozenset()
    version: str = ""
    flow_run_name: str | Callable[..., str] | None = None
    retries: int = 0
    retry_delay_seconds: RetryDelay = 0.0
    task_runner: Any = None
    timeout_seconds: float | None = None
    validate_parameters: bool = True
    persist_result: bool | None = None
    result_storage: str | None = None
    result_serializer: Any = None
    log_prints: bool | None = None


@dataclass(frozen=True, slots=True)
class FlowSpec(FlowPolicy):
    """A flow: its function, its identity and its options.

    Attributes:
        signature, own_signature: as in ``TaskSpec``.
        coerce: turns parameters into what the annotations name, or raises ParameterTypeError; None: taken as given.
        module: what the module of ``fn`` is called by those that import it.
        entrypoint: how another process finds the flow: ``module:name`` or ``/path/file.py:name``; "" if it cannot.
    """

    identity: str
    name: str
    fn: Callable[..., Any]
    is_async: bool
    signature: inspect.Signature
    own_signature: inspect.Signature | None = None
    coerce: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None
    entrypoint: str = ""
    module: str = ""

    @property
    def submit_limit(self) -> int | None:
        """Threads of ``.submit()``; None: the setting."""
        return None if self.task_runner is None else self.task_runner.max_workers

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """As ``TaskSpec.bind``."""
        return bind(self, args, kwargs)

    def arranged(self, parameters: Mapping[str, Any]) -> inspect.BoundArguments:
        """``parameters``, given by name from outside, as arguments, without the defaults.

        What is no parameter goes to ``**kwargs``.

        Raises:
            ParameterError: one is unknown, or a needed one is missing.
        """
        try:
            return _arranged(self.signature, self.name, parameters)
        except ParameterError:
            if self.own_signature is None:
                raise
        return _arranged(self.own_signature, self.name, parameters)

    def delay_before(self, retry: int) -> float:
        return nth_delay(self.retry_delay_seconds, retry)


def bare_flow(fn: Callable[[], Any], *, name: str) -> FlowSpec:
    """A flow without policies, for what has to be recorded as a flow run."""
    return FlowSpec(name, name, fn, is_async=False, signature=inspect.signature(fn))


def signatures_of(fn: Callable[..., Any]) -> tuple[inspect.Signature, inspect.Signature | None]:
    """``signature`` and ``own_signature`` of a spec; of a builtin that tells none, one that takes anything.

    A decorator that takes ``*args`` or ``**kwargs`` may hand them on as they are or add some of its own: calls are read
    by the function's signature where they fit it, else by the decorator's. Any other decorator's own signature counts.

    Raises:
        ConfigurationError: a parameter has a name that calls of tasks and flows use for themselves.
    """
    try:
        signature = inspect.signature(fn)
        own = inspect.signature(fn, follow_wrapped=False)
    except ValueError:
        kinds = {"args": inspect.Parameter.VAR_POSITIONAL, "kwargs": inspect.Parameter.VAR_KEYWORD}
        return inspect.Signature([inspect.Parameter(name, kind) for name, kind in kinds.items()]), None
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    if not any(parameter.kind in variadic for parameter in own.parameters.values()):
        signature = own
    for reserved in ("return_state", "wait_for"):
        if reserved in signature.parameters:
            name = getattr(fn, "__qualname__", repr(fn))
            raise ConfigurationError(f"{name}({reserved}): the name is an option of the call; choose another")
    return signature, None if own.parameters.keys() == signature.parameters.keys() else own


def bind(spec: TaskSpec | FlowSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by parameter name, defaults applied; ``**kwargs`` stay one dict under their own name.

    Raises:
        ParameterError: they do not fit.
    """
    plain = _bound_plainly(spec.signature, args, kwargs)
    if plain is not None:
        return plain
    arguments = bound(spec, args, kwargs)
    arguments.apply_defaults()
    return dict(arguments.arguments)


def _bound_plainly(
    signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any] | None:
    """As ``bind``, in a third of its time, of a call that fits and has ordinary parameters only; else None."""
    bound: dict[str, Any] = {}
    given, named = len(args), 0
    for index, (name, parameter) in enumerate(signature.parameters.items()):
        if parameter.kind is not parameter.POSITIONAL_OR_KEYWORD:
            return None
        if index < given:
            bound[name] = args[index]
        elif name in kwargs:
            bound[name] = kwargs[name]
            named += 1
        elif parameter.default is not parameter.empty:
            bound[name] = parameter.default
        else:
            return None
    return bound if named == len(kwargs) and given <= len(bound) else None


def bound(spec: TaskSpec | FlowSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> inspect.BoundArguments:
    """As ``bind``, in the form that gives ``args`` and ``kwargs`` back, without the defaults."""
    try:
        return spec.signature.bind(*args, **kwargs)
    except TypeError as error:
        if spec.own_signature is not None:
            try:
                return spec.own_signature.bind(*args, **kwargs)
            except TypeError:
                pass
        raise ParameterError(f"{spec.name}{spec.signature}: {error}") from None


def _arranged(signature: inspect.Signature, name: str, parameters: Mapping[str, Any]) -> inspect.BoundArguments:
    known = signature.parameters
    arguments = {parameter: value for parameter, value in parameters.items() if parameter in known}
    others = {parameter: value for parameter, value in parameters.items() if parameter not in known}
    keywords = [parameter for parameter in known.values() if parameter.kind is parameter.VAR_KEYWORD]
    if others and not keywords:
        raise ParameterError(f"flow {name} has no parameter {min(others)!r}; it has {', '.join(known) or 'none'}")
    if keywords:
        arguments[keywords[0].name] = {**arguments.get(keywords[0].name, {}), **others}
    for parameter in known.values():
        needed = parameter.default is parameter.empty and parameter.kind is not parameter.VAR_POSITIONAL
        if needed and parameter.name not in arguments:
            raise ParameterError(f"flow {name} needs the parameter {parameter.name!r}")
    # In the order of the signature, as BoundArguments has them.
    return inspect.BoundArguments(signature, {p: arguments[p] for p in known if p in arguments})  # type: ignore[arg-type]


def _arity(signature: inspect.Signature) -> tuple[int, int]:
    least = most = 0
    for parameter in signature.parameters.values():
        needed = parameter.default is parameter.empty
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            least, most = least + needed, most + 1
        elif parameter.kind is parameter.VAR_POSITIONAL:
            most = sys.maxsize
        elif parameter.kind is parameter.KEYWORD_ONLY and needed:
            return 1, 0
    return least, most


def prints_are_lines(option: bool | None, default: bool) -> bool:
    """Whether ``print`` becomes a log line: as the option ``log_prints`` says, else as where the run stands."""
    return default if option is None else option


def nth_delay(delay: RetryDelay, retry: int) -> float:
    if isinstance(delay, tuple):
        return delay[min(retry, len(delay)) - 1] if delay else 0.0
    return delay

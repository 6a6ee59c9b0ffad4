"""What a cache policy is: its settings, sums of policies, and what is left out of one. The policies that users name
stand in ``kapstan.cache_policies``."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any, ClassVar, NamedTuple, TypeVar, cast

from kapstan.engine import canonical
from kapstan.errors import CachePolicyConflict, ConfigurationError

Policy = TypeVar("Policy", bound="CachePolicy")
SETTINGS = ("key_storage", "isolation_level", "lock_manager")
_LEVELS = ("READ_COMMITTED", "SERIALIZABLE")


class Call(NamedTuple):
    """What a policy is told of a call; see ``CachePolicy.compute_key``."""

    task_ctx: Any
    inputs: dict[str, Any]
    flow_parameters: dict[str, Any] | None
    more: dict[str, Any]


@dataclass(eq=False, kw_only=True)
class CachePolicy:
    """The base of all policies; your own ones define ``compute_key``.

    Attributes:
        key_storage: a folder or ``s3://bucket/prefix`` in which the registers of its keys are kept; None: the store of
            the namespace.
        isolation_level: ``"READ_COMMITTED"`` or ``"SERIALIZABLE"`` (or an ``IsolationLevel``). None: as it is where the
            call is made.
        lock_manager: orders the callers of one key (``kapstan.locking``). A task with one has the effect class
            ``at_most_once`` unless it names another.
    """

    key_storage: Any = None
    isolation_level: str | None = None
    lock_manager: Any = None
    never_caches: ClassVar[bool] = False
    tells_inputs: ClassVar[bool] = True
    """Whether calls whose arguments differ in what matters have different keys, as far as this policy knows."""

    def __post_init__(self) -> None:
        for name in SETTINGS:
            setattr(self, name, _checked(name, getattr(self, name)))

    def compute_key(
        self, task_ctx: Any, inputs: dict[str, Any], flow_parameters: dict[str, Any] | None, **kwargs: Any
    ) -> str | None:
        """The text that stands for this call; None if this policy has nothing to say of it.

        Args:
            task_ctx: a ``kapstan.context.TaskRunContext``: ``task``, ``task_run``, ``parameters``.
            inputs: the arguments by name, defaults applied, futures replaced by their results.
            flow_parameters: those of the flow that makes the call; None outside of one.
            kwargs: room for what later releases tell.

        Raises:
            UnkeyableInput: no key can stand for the content of an argument; the message names it and the way out.
        """
        return self._key(Call(task_ctx, inputs, flow_parameters, kwargs))

    def _key(self, _: Call, /) -> str | None:
        raise NotImplementedError(f"{type(self).__name__} has no compute_key of its own")

    def configure(
        self: Policy, key_storage: Any = None, lock_manager: Any = None, isolation_level: str | None = None
    ) -> Policy:
        """A copy with other settings; what is not given stays.

        Raises:
            ConfigurationError: a setting that cannot be.
        """
        given = {"key_storage": key_storage, "isolation_level": isolation_level, "lock_manager": lock_manager}
        changed = copy.copy(self)
        for name, value in given.items():
            if value is not None:
                setattr(changed, name, _checked(name, value))
        return changed

    @classmethod
    def from_cache_key_fn(cls, cache_key_fn: Callable[[Any, dict[str, Any]], str | None]) -> CacheKeyFnPolicy:
        """The policy of a function of (context, parameters)."""
        return CacheKeyFnPolicy(cache_key_fn)

    def __add__(self, other: CachePolicy) -> CachePolicy:
        """The policy whose key holds both keys.

        Raises:
            CachePolicyConflict: they name different storages, isolation levels or lock managers.
        """
        if not isinstance(cast("Any", other), CachePolicy):
            return NotImplemented
        whole = CompoundCachePolicy((self, other))
        if len(whole.policies) > 1:
            return whole
        single = whole.policies[0] if whole.policies else NoCache()
        return single.configure(**{name: getattr(whole, name) for name in SETTINGS})

    def __sub__(self, name: str) -> CachePolicy:
        """The policy that does not look at the argument ``name``; one that looks at no arguments stays as it is.

        Raises:
            TypeError: no text.
        """
        argument_name(name)
        return self

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and _content(self) == _content(cast("CachePolicy", other))

    def __hash__(self) -> int:
        return hash(type(self))

    def __repr__(self) -> str:
        given = [f"{name}={value!r}" for name in SETTINGS if (value := getattr(self, name)) is not None]
        return f"{self._shown()}.configure({', '.join(given)})" if given else self._shown()

    def _shown(self) -> str:
        return type(self).__name__


class NoCache(CachePolicy):
    """No two calls share a result."""

    never_caches = True

    def _key(self, _: Call, /) -> str | None:
        return None

    def _shown(self) -> str:
        return "NO_CACHE"


class CacheKeyFnPolicy(CachePolicy):
    """The key is what a function of (context, parameters) returns; None: this call is not cached.

    A task with an effect refuses a call that has the key of another one and other arguments (``KeyConflict``); those
    that are left out (``policy - "name"``) may differ.
    """

    tells_inputs = False

    def __init__(self, cache_key_fn: Callable[[Any, dict[str, Any]], str | None]) -> None:
        super().__init__()
        if not callable(cast("Any", cache_key_fn)):
            raise ConfigurationError(
                f"cache_key_fn={cache_key_fn!r}: give a function of (context, parameters) that returns a text"
            )
        self.cache_key_fn = cache_key_fn
        self.may_differ: tuple[str, ...] = ()

    def __sub__(self, name: str) -> CachePolicy:
        changed = copy.copy(self)
        changed.may_differ = tuple(sorted({*self.may_differ, argument_name(name)}))
        return changed

    def _key(self, call: Call, /) -> str | None:
        return self.cache_key_fn(call.task_ctx, call.inputs)

    def _shown(self) -> str:
        named = f"CacheKeyFnPolicy({getattr(self.cache_key_fn, '__qualname__', self.cache_key_fn)})"
        return " - ".join([named, *map(repr, self.may_differ)])


class CompoundCachePolicy(CachePolicy):
    """The sum of several policies, whatever their order; those that have nothing to say of a call are left out."""

    def __init__(self, policies: Iterable[CachePolicy] = ()) -> None:
        """
        Raises:
            CachePolicyConflict: they name different storages, isolation levels or lock managers.
        """
        super().__init__()
        self.policies: tuple[CachePolicy, ...] = ()
        for policy in policies:
            if not isinstance(cast("Any", policy), CachePolicy):
                raise ConfigurationError(
                    f"{policy!r} is no cache policy: give those of kapstan.cache_policies, such as INPUTS"
                )
            for name in SETTINGS:
                setattr(self, name, _agreed(name, self, policy))
            self.policies += tuple(map(_bare, _parts(policy)))

    def compute_key(
        self, task_ctx: Any, inputs: dict[str, Any], flow_parameters: dict[str, Any] | None, **kwargs: Any
    ) -> str | None:
        """See ``CachePolicy.compute_key``."""
        keys: list[str] = []
        for part in self.policies:
            key: Any = part.compute_key(task_ctx=task_ctx, inputs=inputs, flow_parameters=flow_parameters, **kwargs)
            if key is not None and not isinstance(key, str):
                raise ConfigurationError(f"{part!r} gave {key!r} as a key; give a text, or None")
            keys += [] if key is None else [key]
        return "sum-" + hashlib.sha256(canonical.encode(sorted(keys))).hexdigest() if keys else None

    def __sub__(self, name: str) -> CachePolicy:
        changed = copy.copy(self)
        changed.policies = tuple(part - argument_name(name) for part in self.policies)
        return changed

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CompoundCachePolicy):
            return False
        mine, theirs = list(self.policies), list(other.policies)
        return (
            all(getattr(self, name) == getattr(other, name) for name in SETTINGS)
            and len(mine) == len(theirs)
            and all(mine.count(part) == theirs.count(part) for part in mine)
        )

    __hash__ = CachePolicy.__hash__

    def _shown(self) -> str:
        return f"({' + '.join(map(repr, self.policies))})"


def argument_name(name: Any) -> str:
    """``name``, which is left out of a policy.

    Raises:
        TypeError: no text.
    """
    if not isinstance(name, str):
        raise TypeError(f"{name!r}: only the name of an argument, a text, can be left out of a cache policy")
    return name


def check_lock_manager(value: Any) -> None:
    """Raises:
    ConfigurationError: neither None nor a lock manager.
    """
    is_one = not isinstance(value, type) and hasattr(value, "acquire_lock") and hasattr(value, "release_lock")
    if value is not None and not is_one:
        raise ConfigurationError(f"lock_manager={value!r}: give one of kapstan.locking, such as RedisLockManager()")


def _checked(name: str, value: Any) -> Any:
    if value is None:
        return None
    if name == "isolation_level":
        level = getattr(value, "value", value)
        if level not in _LEVELS:
            raise ConfigurationError(f"isolation_level={value!r}: give {' or '.join(map(repr, _LEVELS))}")
        return str(level)
    if name == "lock_manager":
        check_lock_manager(value)
        return value
    if isinstance(value, (bool, int, float, bytes, Mapping, list, tuple, set)) or value == "":
        raise ConfigurationError(f"key_storage={value!r}: give a folder, or an address such as s3://bucket/keys")
    return str(cast("PathLike[str]", value)) if isinstance(value, PathLike) else value


def may_differ(policy: Any) -> frozenset[str] | None:
    """The arguments that may differ between two calls of one key; None: any, since the policy itself looks at them."""
    parts = _parts(policy) if isinstance(policy, CachePolicy) else ()
    if not parts or any(part.tells_inputs for part in parts):
        return None
    return frozenset(name for part in parts if isinstance(part, CacheKeyFnPolicy) for name in part.may_differ)


def _agreed(name: str, one: CachePolicy, other: CachePolicy) -> Any:
    mine, theirs = getattr(one, name), getattr(other, name)
    if mine is not None and theirs is not None and mine != theirs:
        raise CachePolicyConflict(
            f"cache policies with different {name}s ({mine!r}, {theirs!r}) cannot be added; give it to the sum: "
            f"(a + b).configure({name}=...)"
        )
    return theirs if mine is None else mine


def _parts(policy: CachePolicy) -> tuple[CachePolicy, ...]:
    if isinstance(policy, CompoundCachePolicy):
        return policy.policies
    return () if isinstance(policy, NoCache) else (policy,)


def _bare(policy: CachePolicy) -> CachePolicy:
    """``policy`` without settings."""
    bare = copy.copy(policy)
    for name in SETTINGS:
        setattr(bare, name, None)
    return bare


def _content(policy: CachePolicy) -> dict[str, Any]:
    return {**{name: getattr(policy, name) for name in SETTINGS}, **vars(policy)}

"""What ``Task`` and ``Flow`` share: their options as attributes, binding to objects and classes, pickling by name."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from kapstan.engine.functions import yields
from kapstan.errors import ConfigurationError

D = TypeVar("D", bound="Decorated")


class Decorated:
    """A function with options. Subclasses make ``spec`` of both.

    Attributes:
        fn: the function as it was decorated.
        spec: function, identity and options as the engine reads them; each option is an attribute of this object, too.
    """

    fn: Any
    spec: Any
    _policy: Any
    """TaskPolicy or FlowPolicy."""
    _options: dict[str, Any]
    """The options as they were given, without those that are None."""

    def __init__(self, fn: Any, options: Mapping[str, Any]) -> None:
        """Take over names and documentation of the function below ``fn``.

        Raises:
            ConfigurationError: ``fn`` is no function.
        """
        plain, self._binds = _unwrapped(fn)
        self.fn = fn
        self._bound: tuple[Any, ...] = ()
        self._options = {option: value for option, value in options.items() if value is not None}
        functools.update_wrapper(cast("Any", self), plain, updated=())
        self.__name__ = getattr(plain, "__name__", type(plain).__name__)
        self.__qualname__ = getattr(plain, "__qualname__", self.__name__)
        self.__wrapped__ = plain

    def __get__(self, instance: Any, owner: Any) -> Any:
        """Bind as functions do: what is called gets the object first, or the class for a classmethod."""
        subject = {"instance": instance, "class": owner, "": None}[self._binds]
        if subject is None:
            return self
        bound: Any = object.__new__(type(self))
        bound.__dict__.update(self.__dict__)
        bound._bound = (subject,)
        return bound

    @property
    def name(self) -> str:
        """The name that people read."""
        return self.spec.name

    @property
    def isasync(self) -> bool:
        """Whether a call gives a coroutine."""
        return self.spec.is_async

    @property
    def isgenerator(self) -> bool:
        """Whether the function is a generator, plain or async; what it yields becomes a list."""
        return yields(self.spec.fn)

    if not TYPE_CHECKING:  # type checkers see the attributes of the policy, and complain about others

        def __getattr__(self, name: str) -> Any:
            if name in self._policy.__dataclass_fields__:
                return getattr(self.spec, name)
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __dir__(self) -> list[str]:
        return sorted([*super().__dir__(), *self._policy.__dataclass_fields__])

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.spec.identity}>"

    def __reduce__(self) -> str | tuple[Any, ...]:
        """Pickled by name, as functions are; a bound one as an attribute, a changed copy with its options."""
        named = self._named()
        if named is self:
            return self.__qualname__
        if named is not None and named.fn is self.fn:
            if self._bound and named.spec is self.spec:
                return getattr, (self._bound[0], self.__name__)
            return _changed, (named, self._options, self._bound)
        return _rebuilt, (type(self), self.fn, self._options, self._bound)

    def _named(self) -> Decorated | None:
        """The object that a pickle finds under this one's name."""
        found: Any = None
        if self._bound:
            found = getattr(self._bound[0], self.__name__, None)
            return found if isinstance(found, Decorated) and found._bound else None
        found = sys.modules.get(self.__module__)
        for part in self.__qualname__.split("."):
            found = getattr(found, "__dict__", {}).get(part)
        if isinstance(found, (classmethod, staticmethod)):
            found = cast("Any", found).__func__
        return found if isinstance(found, Decorated) else None


def _unwrapped(fn: Any) -> tuple[Callable[..., Any], str]:
    """The plain function, and what a bound access puts before its arguments."""
    if isinstance(fn, Decorated):
        return _unwrapped(fn.fn)
    if isinstance(fn, classmethod):
        return cast("Any", fn).__func__, "class"
    if isinstance(fn, staticmethod):
        return cast("Any", fn).__func__, ""
    if not callable(fn):
        raise ConfigurationError(f"{fn!r} is no function: @task and @flow stand above one")
    return fn, "instance"


def _changed(named: D, options: dict[str, Any], bound: tuple[Any, ...]) -> D:
    return _rebuilt(type(named), named.fn, options, bound)


def _rebuilt(kind: type[D], fn: Any, options: dict[str, Any], bound: tuple[Any, ...]) -> D:
    rebuilt = kind(fn, **options)  # pyright: ignore  # the options of its own kind
    rebuilt._bound = bound  # pyright: ignore[reportPrivateUsage]  # half of __reduce__
    return rebuilt

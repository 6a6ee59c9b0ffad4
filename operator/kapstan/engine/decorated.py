"""What ``Task`` and ``Flow`` share: their options as attributes, changed copies, pickling by name."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

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

    def __init__(self, fn: Any, plain: Callable[..., Any], options: Mapping[str, Any]) -> None:
        """``plain`` is the function below ``fn``, whose names and documentation this object takes over."""
        self.fn = fn
        self._options = {option: value for option, value in options.items() if value is not None}
        functools.update_wrapper(cast("Any", self), plain, updated=())
        self.__name__ = getattr(plain, "__name__", type(plain).__name__)
        self.__qualname__ = getattr(plain, "__qualname__", self.__name__)

    @property
    def name(self) -> str:
        """What people read."""
        return self.spec.name

    @property
    def isasync(self) -> bool:
        """Whether a call gives a coroutine."""
        return self.spec.is_async

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
        """Pickled by name, as functions are; a changed copy as the named one and its options; else by its parts."""
        named = self._named()
        if named is self:
            return self.__qualname__
        if named is not None and named.fn is self.fn:
            return _changed, (named, self._options, self._parts())
        return _rebuilt, (type(self), self.fn, self._options, self._parts())

    def _named(self) -> Decorated | None:
        """The object that a pickle finds under this one's name."""
        found: Any = sys.modules.get(self.__module__)
        for part in self.__qualname__.split("."):
            found = getattr(found, "__dict__", {}).get(part)
        return found if isinstance(found, Decorated) else None

    def _parts(self) -> dict[str, Any]:
        """What a copy has besides function and options."""
        return {}


def _changed(named: D, options: dict[str, Any], parts: dict[str, Any]) -> D:
    return _rebuilt(type(named), named.fn, options, parts)


def _rebuilt(kind: type[D], fn: Any, options: dict[str, Any], parts: dict[str, Any]) -> D:
    rebuilt = kind(fn, **options)  # pyright: ignore  # the options of its own kind
    rebuilt.__dict__.update(parts)
    return rebuilt

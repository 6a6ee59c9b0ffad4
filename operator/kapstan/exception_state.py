"""An exception taken apart and put together again without a call of its ``__init__``.

pickle makes an exception by calling its class with ``args``, which fails for every class whose ``__init__`` takes other
arguments, and alters those that compute something from them. Here the object is made as Python's own ``__new__`` makes
it, and everything that it held is set.
"""

from __future__ import annotations

import types
from typing import Any, NamedTuple, cast

_ELSEWHERE = frozenset(
    {
        *("args", "__traceback__", "__cause__", "__context__", "__suppress_context__", "__dict__", "__weakref__"),
        "obj",  # of AttributeError and NameError: the object that was asked, which pickle leaves out as well
    }
)
_PROTOCOL = ("__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__getnewargs__", "__getnewargs_ex__")


class ExceptionState(NamedTuple):
    """What an exception holds.

    Attributes:
        args: of a group its message and exceptions.
        attributes: what stands in its ``__dict__`` and slots, ``__notes__`` included.
        members: what Python's own exception classes hold besides, such as ``errno``.
    """

    args: tuple[Any, ...]
    attributes: dict[str, Any]
    members: dict[str, Any]
    cause: BaseException | None
    context: BaseException | None
    suppress_context: bool


def pickles_itself(kind: type[BaseException]) -> bool:
    """Whether the class says on its own how it is pickled."""
    return any(name in vars(base) for base in _of_users(kind) for name in _PROTOCOL)


def state_of_exception(error: BaseException) -> ExceptionState:
    """What ``error`` holds; its traceback is left out."""
    state: Any = object.__getstate__(error)
    attributes: dict[str, Any] = {}
    for part in cast("tuple[Any, ...]", state if isinstance(state, tuple) else (state,)):
        attributes.update(part or {})
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[Any]", error)
        args: tuple[Any, ...] = (group.message, list(group.exceptions))
        members: dict[str, Any] = {}
    else:
        args, members = error.args, _members(error)
    return ExceptionState(args, attributes, members, error.__cause__, error.__context__, error.__suppress_context__)


def is_group(error: BaseException) -> bool:
    return isinstance(error, BaseExceptionGroup)


def made(kind: type[BaseException], group: tuple[Any, ...]) -> BaseException:
    """An exception of class ``kind`` without its state; ``group``: message and exceptions of one that is a group."""
    native = next(base for base in kind.__mro__ if base.__module__ == "builtins")
    return cast("Any", native).__new__(kind, *group)


def restore(error: BaseException, state: ExceptionState) -> None:
    """Set what ``state_of_exception`` took, on what ``made`` gave."""
    args, attributes, members, cause, context, suppress_context = state
    links = {"__cause__": cause, "__context__": context, "__suppress_context__": suppress_context}
    held = {} if is_group(error) else {"args": args}
    for name, value in {**held, **members, **attributes, **links}.items():
        object.__setattr__(error, name, value)  # the class may have a __setattr__ of its own


def _members(error: BaseException) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for base in type(error).__mro__:
        if base.__module__ != "builtins" or base is object:
            continue
        for name, slot in vars(base).items():
            if isinstance(slot, (types.MemberDescriptorType, types.GetSetDescriptorType)) and name not in _ELSEWHERE:
                try:
                    value = slot.__get__(error, type(error))
                except (AttributeError, TypeError):  # never set
                    continue
                if value is not None:
                    members[name] = value
    return members


def _of_users(kind: type[Any]) -> list[type[Any]]:
    return [base for base in kind.__mro__ if base.__module__ != "builtins"]

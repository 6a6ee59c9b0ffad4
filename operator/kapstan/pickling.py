"""Pickles that come back as what they were, in whichever process they are read.

cloudpickle with three rules of our own. Classes and functions of a script go by their importable name, and by value
only where the reader has no such module loaded: a value of ``__main__`` is the reader's own class, also where the
reader is that script's importer. Exceptions go by their parts, so that no ``__init__`` is called (``exception_state``).
What cloudpickle would turn into something else (a memoryview, an open file) is kept or refused.
"""

from __future__ import annotations

import io
import os
import pickle
import sys
import threading
import types
from collections.abc import Callable
from typing import Any, cast

from kapstan.exception_state import ExceptionState, made, pickles_itself, restore, state_of_exception
from kapstan.identity import MAINS, find, importable_name, loaded

Lost = Callable[[str], object]
"""Called with what could not be kept, such as ``attribute 'lock' (_thread.lock)``."""


def dumps(value: Any) -> bytes:
    """The pickle of ``value``.

    Raises:
        Exception: what pickling it raises.
    """
    return _dumps(value, None)


def dump(value: Any, target: Any) -> None:
    """As ``dumps``, written to a file: a large ``bytes`` or array in it is not copied for that.

    Raises:
        Exception: what pickling or writing raises.
    """
    _dump(value, target, None)


def dumps_exception(error: BaseException, lost: Lost) -> tuple[bytes, BaseException]:
    """The pickle of ``error``, and what reading it gives: an exception of the same class.

    What it (or an exception in it) holds that cannot be pickled is left out; ``lost`` is called with it.

    Raises:
        Exception: it cannot be pickled all the same.
    """
    try:
        body = _dumps(error, None)
        return body, _read_back(body, error)
    except Exception:  # noqa: BLE001  (whatever a user's class raises)
        body = _dumps(error, _Keeping(lost))
        return body, _read_back(body, error)


def _read_back(body: bytes, error: BaseException) -> BaseException:
    read = loads(body)
    if type(read) is not type(error):
        raise pickle.PicklingError(f"{type(error).__qualname__} comes back as {type(read).__qualname__}")
    return read


def loads(body: bytes) -> Any:
    """The value of what ``dumps`` gave. Runs code that the pickle names: only after its signature was verified.

    Raises:
        Exception: what unpickling raises.
    """
    return load(io.BytesIO(body))


def load(source: Any) -> Any:
    """As ``loads``, from a file with ``read``, ``readinto`` and ``readline``."""
    return _Unpickler(source).load()


class _Unpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if module_name not in sys.modules or module_name == importable_name("__main__"):
            module = loaded(module_name)
            if module is not None and module.__name__ in MAINS:
                found = find(module_name, global_name)
                if found is not None:
                    return found
        return super().find_class(module_name, global_name)


# ---------------------------------------------------------------------------------------------- writing


class _Keeping:
    """What of the exceptions in one pickle can be kept; each part is tried once."""

    def __init__(self, lost: Lost) -> None:
        self._lost = lost
        self._tried: dict[int, tuple[Any, bool]] = {}

    def keeps(self, part: Any, what: str) -> bool:
        if id(part) not in self._tried:
            self._tried[id(part)] = part, False  # as long as it is being tried it counts as lost: it holds itself
            try:
                _dumps(part, self)
                self._tried[id(part)] = part, True
            except Exception:  # noqa: BLE001  (whatever a user's class raises)
                self._lost(f"{what} ({type(part).__module__}.{type(part).__qualname__})")
        return self._tried[id(part)][1]

    def kept(self, state: ExceptionState) -> ExceptionState:
        """``state`` without what cannot be pickled."""
        args = tuple(
            part if self.keeps(part, f"argument {at}") else f"<{type(part).__qualname__}, not kept>"
            for at, part in enumerate(state.args)
        )
        cause = state.cause if self.keeps(state.cause, "__cause__") else None
        context = state.context if self.keeps(state.context, "__context__") else None
        attributes = {name: part for name, part in state.attributes.items() if self.keeps(part, f"attribute {name!r}")}
        members = {name: part for name, part in state.members.items() if self.keeps(part, f"attribute {name!r}")}
        return ExceptionState(args, attributes, members, cause, context, state.suppress_context)


_pickler: type[Any] | None = None
_by_value: dict[int, tuple[Any, bytes | None]] = {}
_lock = threading.Lock()


def _renew_lock() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


def _dumps(value: Any, keeping: _Keeping | None) -> bytes:
    file = io.BytesIO()
    _dump(value, file, keeping)
    return file.getvalue()


def _dump(value: Any, target: Any, keeping: _Keeping | None) -> None:
    global _pickler
    if _pickler is None:
        _pickler = _pickler_class()
    pickler = _pickler(target, protocol=5)
    pickler.keeping = keeping
    pickler.dump(value)


def _pickler_class() -> type[Any]:
    """Made at first use: whoever pickles nothing does not load cloudpickle."""
    from cloudpickle import CloudPickler  # pyright: ignore  # no stubs

    class Pickler(cast("type[Any]", CloudPickler)):
        keeping: _Keeping | None = None

        def reducer_override(self, obj: Any) -> Any:
            kind = cast("type[Any]", type(obj))
            if issubclass(kind, (type, types.FunctionType)):
                by_name = _named(obj)
                if by_name is not None:
                    return by_name
            elif issubclass(kind, BaseException):
                if self.keeping is not None or not pickles_itself(kind):
                    return _taken_apart(obj, kind, self.keeping)
            elif getattr(obj, "__dict__", {}).get("__module__") in MAINS:  # a task of the script: pickled by its name
                name = obj.__reduce_ex__(5)
                if isinstance(name, str):
                    return named, (importable_name(obj.__module__), name, None)
                return name
            elif kind is memoryview:
                return _memory, (obj.tobytes(), obj.format, obj.shape)
            elif issubclass(kind, io.IOBase) and not issubclass(kind, (io.BytesIO, io.StringIO)):
                raise pickle.PicklingError(f"an open file ({kind.__name__}) cannot be pickled: pass its path")
            above: Any = super()
            return above.reducer_override(obj)

    return Pickler


def _named(subject: Any) -> tuple[Any, ...] | None:
    """How a class or function of the script is written: its importable name, and itself for who has no such module."""
    module = getattr(subject, "__module__", None)
    if module not in MAINS:
        return None
    name, qualname = importable_name(module), subject.__qualname__
    if name in MAINS or find(name, qualname) is not subject:
        return None
    return named, (name, qualname, _copy_of(subject, module))


def _copy_of(subject: Any, module: str) -> bytes | None:
    """The pickle by value of a class or function; None if it holds something that cannot be pickled."""
    known = _by_value.get(id(subject))
    if known is not None:
        return known[1]
    import cloudpickle  # pyright: ignore  # no stubs

    pickled: bytes | None = None
    with _lock:
        spawned = module == "__mp_main__" and sys.modules[module]
        if spawned:
            cast("Any", cloudpickle).register_pickle_by_value(spawned)
        try:
            pickled = cast("Any", cloudpickle).dumps(subject, protocol=5)
        except Exception:  # noqa: BLE001  (a global that it uses cannot be pickled)
            pickled = None
        finally:
            if spawned:
                cast("Any", cloudpickle).unregister_pickle_by_value(spawned)
    _by_value[id(subject)] = subject, pickled
    return pickled


def _taken_apart(error: BaseException, kind: type[BaseException], keeping: _Keeping | None) -> tuple[Any, ...]:
    state = state_of_exception(error)
    if keeping is not None:
        if pickles_itself(kind) and _comes_back(error):
            return cast("tuple[Any, ...]", error.__reduce_ex__(5))
        state = keeping.kept(state)
    group = state.args if isinstance(error, BaseExceptionGroup) else ()
    return made, (kind, group), tuple(state if not group else state._replace(args=())), None, None, _restore


def _restore(error: BaseException, state: tuple[Any, ...]) -> None:
    restore(error, ExceptionState(*state))


def _comes_back(error: BaseException) -> bool:
    """Whether the way in which its class pickles ``error`` works."""
    try:
        _read_back(_dumps(error, None), error)
    except Exception:  # noqa: BLE001  (whatever a user's class raises)
        return False
    return True


# ---------------------------------------------------------------------------------------------- reading


def named(module: str, qualname: str, pickled: bytes | None) -> Any:
    """The class or function of that name, where its module is loaded here; else the copy that came along.

    Raises:
        LookupError: neither.
    """
    found = find(module, qualname)
    if found is not None:
        return found
    if pickled is None:
        raise LookupError(f"module {module!r} with {qualname!r} is not loaded here")
    return pickle.loads(pickled)


def _memory(body: bytes, form: str, shape: tuple[int, ...]) -> Any:
    view: Any = memoryview(body)
    return view.cast(form, shape)

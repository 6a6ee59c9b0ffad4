"""What a decorated function is when it is called: plain or async, and what its result still needs.

A generator's items are collected and a returned coroutine is awaited while the run goes on, so that the body runs under
its time limit and retries, and the result is a value that can be stored.
"""

from __future__ import annotations

import contextvars
import inspect
import threading
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from typing import Any, cast

from kapstan.engine.loops import loops

_RUNNERS = frozenset({"asyncio", "anyio", "trio", "uvloop", "run_until_complete", "run_coroutine_threadsafe"})
_UNSETTLED = frozenset({types.CoroutineType, types.GeneratorType, types.AsyncGeneratorType})


def runs_async(fn: Callable[..., Any]) -> bool:
    """Whether a call of ``fn`` gives something to await: a coroutine or an async generator function.

    Below plain decorators, too (``functools.wraps``), unless one of them names an event loop: that one awaits itself.
    """
    while not _is_async(fn):
        inner = getattr(fn, "__wrapped__", None)
        if inner is None or _RUNNERS.intersection(getattr(getattr(fn, "__code__", None), "co_names", ())):
            return False
        fn = inner
    return True


def _is_async(fn: Callable[..., Any]) -> bool:
    called: Any = fn if inspect.isroutine(fn) or isinstance(fn, type) else getattr(fn, "__call__", fn)  # noqa: B004
    return any(map(inspect.iscoroutinefunction, (fn, called))) or any(map(inspect.isasyncgenfunction, (fn, called)))


def yields(fn: Callable[..., Any]) -> bool:
    """Whether ``fn`` is a generator function, below plain decorators, too."""
    fn = inspect.unwrap(fn)
    return inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn)


async def iterated(items: Awaitable[Iterable[Any]]) -> AsyncIterator[Any]:
    """One of ``items`` after the other, once they are there."""
    for item in await items:
        yield item


def settled(result: Any) -> Any:
    """The value that a plain function's ``result`` stands for; the result itself if it is one."""
    kind = cast("type[Any]", type(result))
    if kind not in _UNSETTLED:
        return result
    return list(result) if kind is types.GeneratorType else driven(asettled(result))


async def asettled(result: Any) -> Any:
    """As ``settled``, on the running event loop; anything else that can be awaited is awaited."""
    if inspect.isasyncgen(result):
        return [item async for item in result]
    if inspect.isawaitable(result):
        result = await result
    return list(cast("Iterable[Any]", result)) if type(result) is types.GeneratorType else result


def driven(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of ``coroutine``, driven on the event loop of this thread; on another thread if a loop runs here."""
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return loops.run(coroutine)
    results: list[Any] = []
    errors: list[BaseException] = []

    def drive() -> None:
        try:
            results.append(loops.run_once(coroutine))
        except BaseException as error:  # noqa: BLE001  (raised again on the caller's thread)
            errors.append(error)

    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(drive,), name="kapstan-coroutine", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]

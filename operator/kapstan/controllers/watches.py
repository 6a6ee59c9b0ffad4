"""Knows when each watch last spoke, from the requests themselves: an aiohttp middleware on the session that kopf uses.

kopf tells nobody whether its watches are open, are refused, or ended without a new one. `health` asks here. `informers`
is told when a watch was opened, because only then may it compare its cache with a fresh list.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import aiohttp

log = logging.getLogger("kapstan.operator")

SERVER_SECONDS = 300
"""How long the API server keeps a watch open; then it is opened anew."""
SILENT_SECONDS = SERVER_SECONDS + 120.0
"""A watch that was not opened anew for so long is dead, whatever kopf thinks."""
START_SECONDS = 120.0
RETRY_SECONDS = 120.0
"""A watch that was refused or broke off is tried again all the time; one that was not for so long is dead, too."""
DENIED = (401, 403, 404)
"""Answers that a right, and no repetition, changes."""
TELL_SECONDS = 30.0


class Stream(NamedTuple):
    """What is watched: a collection's plural with its group, in one namespace or (empty) in all."""

    group: str
    plural: str
    namespace: str

    def __str__(self) -> str:
        kind = f"{self.plural}.{self.group}" if self.group else self.plural
        return f"{kind} in {self.namespace}" if self.namespace else kind

    @classmethod
    def of_path(cls, path: str) -> Stream | None:
        """The stream that a collection's URL path names."""
        match path.strip("/").split("/"):
            case ["api", _, plural]:
                return cls("", plural, "")
            case ["api", _, "namespaces", namespace, plural]:
                return cls("", plural, namespace)
            case ["apis", group, _, plural]:
                return cls(group, plural, "")
            case ["apis", group, _, "namespaces", namespace, plural]:
                return cls(group, plural, namespace)
            case _:
                return None


@dataclass(slots=True)
class _Seen:
    since: float
    opened_at: float | None = None
    refusal: str = ""
    of_list: bool = False
    """Whether only a list was refused, which comes before a watch and, by `informers`, after it."""
    tried_at: float = 0.0
    denied: bool = False
    told_at: float = 0.0


@dataclass(slots=True)
class Watches:
    """The streams that must be open."""

    opened: Callable[[Stream], None] = lambda _: None
    denied: Callable[[Stream], None] = lambda _: None
    """Called with each stream that the API server refuses to have watched."""
    clock: Callable[[], float] = time.monotonic
    _seen: dict[Stream, _Seen] = field(default_factory=dict[Stream, _Seen])

    def expect(self, streams: list[Stream]) -> None:
        self._seen = {stream: _Seen(self.clock()) for stream in streams}

    async def observe(self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> Any:
        """The middleware."""
        stream = Stream.of_path(request.url.path) if request.method == "GET" else None
        seen = self._seen.get(stream) if stream is not None else None
        if stream is None or seen is None:
            return await handler(request)
        is_watch = request.url.query.get("watch") == "true"
        try:
            response = await handler(request)
        except (aiohttp.ClientError, TimeoutError) as error:
            self._fail(stream, seen, is_watch, f"{type(error).__name__} {error}".rstrip())
            raise
        if response.status >= 400:
            self._fail(stream, seen, is_watch, f"HTTP {response.status}", denied=response.status in DENIED)
        elif is_watch:
            seen.refusal, seen.denied, seen.opened_at = "", False, self.clock()
            self.opened(stream)
        elif seen.refusal and seen.of_list:
            seen.refusal, seen.denied, seen.since = "", False, self.clock()
        return response

    def dead(self) -> list[str]:
        """Watches that nobody opens, or tries to open, any more: only a restart helps."""
        now = self.clock()
        problems: list[str] = []
        for stream, seen in self._seen.items():
            opened = now - max(seen.opened_at or seen.since, seen.since)
            if seen.refusal and now - seen.tried_at > RETRY_SECONDS:
                problems.append(
                    f"the watch of {stream} ({seen.refusal}) was last tried {now - seen.tried_at:.0f} s ago"
                )
            elif not seen.refusal and opened > self._patience(seen):
                problems.append(f"the watch of {stream} was last opened {opened:.0f} s ago")
        return problems

    def is_denied(self, stream: Stream) -> bool:
        """Whether the API server's last answer was that we may not."""
        seen = self._seen.get(stream)
        return seen is not None and seen.denied

    def refused(self) -> list[str]:
        """Watches that the API server does not open, with its answer."""
        return [f"the watch of {stream}: {seen.refusal}" for stream, seen in self._seen.items() if seen.refusal]

    @staticmethod
    def _patience(seen: _Seen) -> float:
        return START_SECONDS if seen.opened_at is None else SILENT_SECONDS

    def _fail(self, stream: Stream, seen: _Seen, is_watch: bool, refusal: str, *, denied: bool = False) -> None:
        seen.of_list = not is_watch and (seen.of_list or not seen.refusal)
        seen.refusal, seen.denied, seen.tried_at = refusal, denied, self.clock()
        if denied:
            self.denied(stream)
        if self.clock() - seen.told_at >= TELL_SECONDS or not seen.told_at:
            seen.told_at = self.clock()
            log.warning("%s cannot be watched (%s); it is tried again", stream, refusal)

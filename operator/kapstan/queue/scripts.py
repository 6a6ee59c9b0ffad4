"""Typed stubs of the Lua scripts: what each takes, in the order of the header comment of its file.

A stub's parameters are compared with the header when this module is imported, so that neither changes without the
other. A script's text is its first line, the head of ``prelude.lua``, and its own lines with the sections (of
the files in ``_SHARED``) that they include; it is called by hash.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Generic, ParamSpec, cast

from kapstan.queue.packing import packed

P = ParamSpec("P")
Argument = bytes | str | int
_FOLDER = Path(__file__).with_name("lua")
_SHARED = [
    re.split(r"^-- section: (\w+)\n", (_FOLDER / name).read_text(), flags=re.MULTILINE)
    for name in ("prelude.lua", "waits.lua", "turns.lua", "handover.lua", "sessions.lua", "locks.lua")
]
_HEAD = _SHARED[0][0]
_SECTIONS = {section: text for _, *rest in _SHARED for section, text in zip(rest[::2], rest[1::2], strict=True)}
_INCLUDE = re.compile(r"^ *-- include: (\w+)$", re.MULTILINE)
SCRIPTS: dict[str, Script[...]] = {}


class Script(Generic[P]):
    """One state change: its text, its hash, and the packing of its call."""

    def __init__(self, stub: Callable[P, None]) -> None:
        self.name: str = stub.__name__
        first, body = (_FOLDER / f"{self.name}.lua").read_text().split("\n", 1)
        self.text = f"{first}\n{_HEAD}{_with_sections(body)}"
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()
        _check_header(self.name, body, stub)
        SCRIPTS[self.name] = self

    def pack(self, prefix: str, *args: P.args, **_none: P.kwargs) -> bytes:
        """The call as it goes over the wire."""
        return packed(("EVALSHA", self.sha, "1", prefix, *cast("tuple[Argument, ...]", args)))


def _with_sections(text: str) -> str:
    return _INCLUDE.sub(lambda found: _with_sections(_SECTIONS[found[1]]), text)


def _check_header(name: str, body: str, stub: Callable[..., None]) -> None:
    header = re.search(r"^-- KEYS: prefix\n-- ARGV: (.*)$", body, re.MULTILINE)
    code = stub.__code__
    rest = code.co_varnames[code.co_argcount :][:1] if code.co_flags & 0x04 else ()
    wanted = [*code.co_varnames[: code.co_argcount], *(f"{parameter}..." for parameter in rest)]
    if header is None or header[1].split() != wanted:
        raise TypeError(f"{name}.lua takes {header[1] if header else 'nothing'}, its stub {' '.join(wanted)}")


@Script
def submit(run_id: str, place: str, tail: bytes, ttl: int, *wishes: Argument) -> None: ...


@Script
def submit_many(delay_ms: int, place: str, ttl: int, expires_ms: int | str, after: str, *items: Argument) -> None: ...


@Script
def replace(
    digest: str,
    nonce: str,
    run_id: str,
    place: str,
    tail: bytes,
    ttl: int,
    delay_ms: int,
    expires_ms: int | str,
    after: str,
) -> None: ...


@Script
def step(
    session: str, lane: int, connection: int | str, sure: int, want: int, ttl: int, routes: int, *rest: Argument
) -> None: ...


@Script
def claims(session: str, lane: int | str) -> None: ...


@Script
def take_back(session: str, ttl: int, begun: str, *claims: str) -> None: ...


@Script
def announce(session: str, lane: int, connection: int, ttl: int, *held: str) -> None: ...


@Script
def renew(session: str, info: str, opening: int, ttl: int, seen: int, dead: int, *rest: Argument) -> None: ...


@Script
def retry(session: str, run_id: str, token: str, delay_ms: int, ttl: int, counted: int, repeated: int) -> None: ...


@Script
def cancel(run_id: str, ttl: int) -> None: ...


@Script
def rerun(run_id: str, ttl: int) -> None: ...


@Script
def delete(run_id: str) -> None: ...


@Script
def set_era(era: str, run_id: str) -> None: ...


@Script
def expire(name: str, exact: int, ttl: int) -> None: ...


@Script
def drain(name: str, exact: int) -> None: ...


@Script
def lane_died(
    session: str, lane: int, died: int, executing: str, max_crashes: int, envelope: bytes, ttl: int
) -> None: ...


@Script
def watch(client: bytes, ttl: int, *run_ids: str) -> None: ...


@Script
def look(most: int, *run_ids: str) -> None: ...


@Script
def pause(name: str, pausing: int) -> None: ...


@Script
def depth(*routes: str) -> None: ...


@Script
def submitted(minute: int, minutes: int, *routes: bytes) -> None: ...


@Script
def flow_lease(run_id: str, action: str, attempt: int, holder: str, lease_ms: int, ttl: int) -> None: ...


@Script
def flow_save(run_id: str, summary: bytes, ttl: int, keep: int) -> None: ...


@Script
def lock_ask(
    digest: str,
    shown: str,
    client: str,
    generation: int,
    number: str,
    hold: int | str,
    holder: str,
    look: int,
    stay: int,
    *silent: Argument,
) -> None: ...


@Script
def lock_leave(digest: str, client: str, generation: int, number: str) -> None: ...


@Script
def lock_release(digest: str, holder: str, token: str, client: str, repeated: int) -> None: ...


@Script
def lock_renew(client: str, about: str, all: int) -> None: ...  # noqa: A002


@Script
def lock_end(client: str) -> None: ...


@Script
def lock_holder(digest: str) -> None: ...

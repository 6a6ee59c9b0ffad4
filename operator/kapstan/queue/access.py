"""The Redis users of one namespace by role, with the least rights that each needs: rules for ``ACL SETUSER``.

The commands of a role are those of its scripts, read from their text, and the plain ones that its Python sends. What it
may write is a table of key names here; ``tests/contract/queue/test_access.py`` does each role's work as that user, on a
real server. What a role can still do is told in docs/security.md.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from kapstan.errors import ConfigurationError
from kapstan.queue.keys import prefix_of
from kapstan.queue.scripts import SCRIPTS

_CALL = re.compile(r"\bp?call\(([^,()]*(?:\([^()]*\))?[^,()]*)")
_COMMAND = re.compile(r"'([A-Z]+)'")
_CONNECTING = "hello auth ping select info time role evalsha script|exists"
_READING = "get mget getrange zrange zscore hget hgetall hkeys hmget smembers llen lindex lrange exists"
_LOCKS = ("lt", "lk:", "lw:", "ll:", "lc:", "lh:")
_FLOWS = ("f:", "fl:", "fc:", "fi")
_TURNS = ("turn:", "lim", "cs:", "cw:", "rl:")  # priorities, groups and limits are decided inside a claim
_WAITS = ("ex", "af:", "aw", "ae")
_LISTED = ("args:", "i:", "ir:", "e:", "er:", "x:", "bad:")
_RUNS = ("t:", "q:", "d", "n", "w:", "idle:", "v", *_TURNS, *_WAITS, *_LISTED)
_LOOKING = ("look", "depth", "submitted", "lock_holder", "claims")
_USING_LOCKS = ("lock_ask", "lock_leave", "lock_release", "lock_renew", "lock_end")
_SUBMITTING = (
    "submit",
    "submit_many",
    "replace",
    "watch",
    "cancel",
    "flow_lease",
    "flow_save",
    *_USING_LOCKS,
    *_LOOKING,
)


@dataclass(frozen=True, slots=True)
class Role:
    """What one kind of process does.

    Attributes:
        scripts: names of those that it calls; it may have more loaded.
        plain: commands that its Python sends beside reads.
        writes: names of keys, or what they begin with, that it changes.
        hears: channels that it subscribes to.
        loads: whether it loads the scripts that the server lacks. Who may, can run any script within its keys.
    """

    about: str
    scripts: tuple[str, ...]
    plain: str
    writes: tuple[str, ...]
    hears: tuple[str, ...]
    loads: bool = True


ROLES = {
    "client": Role(
        "submits runs, waits for them, cancels them, uses locks, runs flows; loads no scripts, serves no tasks",
        _SUBMITTING,
        "set del zrem",
        (*_RUNS, *_FLOWS, *_LOCKS, "rk:", "aof"),
        ("c:*", "lc:*", "runs"),
        loads=False,
    ),
    "worker": Role(
        "serves tasks (task workers, .submit() outside a flow), and what a client does",
        tuple(sorted({*SCRIPTS} - {"pause", "delete"})),
        "set del zrem",
        (*_RUNS, *_FLOWS, *_LOCKS, "rk:", "aof", "m", "s", "dr:", "gone:"),
        ("c:*", "lc:*", "runs", "l:*", "S:*", "b", "due", "at:*"),
    ),
    "operator": Role(
        "the operator, and people with `kapstan task-run`, `flow-run`, `task` and `gc`",
        ("expire", "drain", "cancel", "rerun", "delete", "pause", "watch", "flow_lease", "flow_save", *_LOOKING),
        "set del zrem",
        (*_RUNS, *_FLOWS, "m", "s", "dr:", "gone:", "pa"),
        ("c:*", "runs"),
    ),
    "reader": Role("lists and shows; changes nothing, waits for nothing", _LOOKING, "", (), ("runs",), loads=False),
}


def commands_of(script: str) -> set[str]:
    """The commands that a script calls, in small letters."""
    text = re.sub(r"--.*", "", SCRIPTS[script].text)
    return {command.lower() for call in _CALL.findall(text) for command in _COMMAND.findall(call)}


def rules(role: str, *namespaces: str, synced: bool = False) -> str:
    """What follows the name of a user in ``ACL SETUSER``: all rights of a role in these namespaces, without its
    password.

    Args:
        synced: whether its submits may be of durability ``aof``. Redis before 7.2 takes no such rule.

    Raises:
        ConfigurationError: there is no such role, or a namespace is none.
    """
    if role not in ROLES:
        raise ConfigurationError(f"role={role!r}: give one of {', '.join(ROLES)}")
    its, prefixes = ROLES[role], [prefix_of(namespace) for namespace in namespaces]
    commands = {*_CONNECTING.split(), *_READING.split(), *its.plain.split()}
    for script in its.scripts:
        commands |= commands_of(script)
    if its.loads:
        commands.add("script|load")
    if synced and "submit" in its.scripts:
        commands.add("waitaof")
    # The key that every script names is the bare prefix, which is no key of its own.
    keys: list[str] = []
    for prefix in prefixes:
        keys += f"%R~{prefix}*", f"~{prefix}"
        keys += (f"~{prefix}{name}{'*' if name.endswith(':') else ''}" for name in its.writes)
    heard = " ".join(f"&{prefix}{name}" for prefix in prefixes for name in its.hears)
    told = [f"&{prefix}*" for prefix in prefixes] if "publish" in commands else []
    allowed = [f"+{command}" for command in sorted(commands)]
    return " ".join(["resetkeys", "resetchannels", "-@all", *keys, *told, *allowed, f"(+subscribe {heard})"])

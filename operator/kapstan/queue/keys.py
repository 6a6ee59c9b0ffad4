"""Every key that the queue writes, in one table: name, type, how long it stays, who takes it away.

The scripts build these names from the prefix alone; ``tests/contract/queue`` compares the table with what a run leaves
behind. Channels stand here too, since they share the prefix.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from kapstan.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class KeySpec:
    """One row: ``name`` with ``<placeholders>``, Redis ``type``, and why it does not stay for ever.

    ``life``: ``ttl`` (always has one), ``ending`` (has one once the run ended), ``empties`` (goes with its last
    element), ``session`` (ends with its session) or ``permanent`` (one per namespace).
    """

    name: str
    type: Literal["string", "list", "hash", "set", "zset"]
    life: Literal["ttl", "ending", "empties", "session", "permanent"]
    owner: str
    holds: str


KEYS = (
    KeySpec("m", "hash", "permanent", "set_era", "era, run_id of its start; renewals; clock; any pause, turns, limits"),
    KeySpec(
        "n",
        "hash",
        "empties",
        "every script",
        "per route: runs delayed (d:), running (r:), in lists of places (l:), turns (u:), stale entries of q: (k:)",
    ),
    KeySpec("t:<run_id>", "string", "ending", "submit", "the record of a run; a TTL from its end on"),
    KeySpec("q:<place>", "list", "empties", "step", "ids of ready runs, next first"),
    KeySpec("turn:<route>", "zset", "empties", "step", "places of a route that have runs, next first"),
    KeySpec("lim", "hash", "permanent", "renew", "limits of tasks: slots (c:), pace (r:); of each group (g:, h:)"),
    KeySpec("cs:<limit>", "set", "empties", "step", "runs that hold a slot of a limit: a task, or task||group"),
    KeySpec("cw:<limit>", "set", "empties", "step", "places that wait for a limit; of task|| and |task: groups"),
    KeySpec("rl:<limit>", "string", "ttl", "step", "when the next run under a rate limit is due (ms)"),
    KeySpec("d", "zset", "empties", "step, renew", "ids of delayed runs, and ('~') limits, by due time (ms)"),
    KeySpec("ex", "zset", "empties", "renew, watch", "ids of runs that must begin by a deadline (ms)"),
    KeySpec("af:<run_id>", "list", "empties", "submit", "ids of runs that wait for this run to complete"),
    KeySpec(
        "aw", "hash", "empties", "submit", "per run that waits for others: those that are open; '@': its due time (ms)"
    ),
    KeySpec("ae", "list", "empties", "finish", "ids of runs that have ended and for which others wait"),
    KeySpec(
        "rk:<digest>",
        "string",
        "ttl",
        "replace",
        "the run that was submitted last under a key of its task; nonces of the last calls",
    ),
    KeySpec("aof", "string", "ttl", "submit", "written by who must know that the server has synced (durability aof)"),
    KeySpec("s", "zset", "empties", "renew", "sessions by the number of their last renewal"),
    KeySpec("w:<session>", "hash", "session", "renew, expire", "a session: info, marks, and its claims"),
    KeySpec("pa", "set", "empties", "pause", "routes and ('|' before the name) queues that a person has paused"),
    KeySpec("dr:<process>", "string", "ttl", "drain", "a pod or process was drained, whatever sessions it opens"),
    KeySpec("gone:<name>", "string", "ttl", "expire, note_end", "somebody saw this session or executor end; evidence"),
    KeySpec("idle:<route>", "set", "session", "step", "idle lanes, checked when they are drawn"),
    KeySpec("v", "hash", "empties", "watch", "per run: the clients other than its submitter that wait for it"),
    KeySpec("args:<run_id>", "string", "ttl", "finish", "arguments of a run that ended otherwise than completed"),
    KeySpec("i:<hour>:<route>", "list", "ttl", "index", "what was submitted in an hour: 3 bytes of ms, 1-16 run ids"),
    KeySpec("ir:<hour>", "set", "ttl", "index", "routes of that hour, at most 500, then ''"),
    KeySpec("e:<hour>:<route>", "list", "ttl", "index", "what ended otherwise than completed in an hour, as i:"),
    KeySpec("er:<hour>", "set", "ttl", "index", "routes of that hour, as ir:"),
    KeySpec("x:<minute>", "hash", "ttl", "settle", "per state and route: how many runs began it"),
    KeySpec("f:<run_id>", "string", "ttl", "flow_save", "summary of a flow run (JSON, signed for it)"),
    KeySpec("fl:<run_id>", "string", "ttl", "flow_lease", "highest attempt of a flow run, its lease and holder"),
    KeySpec("fc:<run_id>", "string", "ttl", "ask_cancel", "highest attempt of a flow run that is to be cancelled"),
    KeySpec("lt", "string", "permanent", "locks", "the last token of a lock, in microseconds since 1970 or more"),
    KeySpec("lk:<digest>", "hash", "ttl", "locks", "who holds a lock; goes when nobody does"),
    KeySpec("lw:<digest>", "zset", "ttl", "locks", "who waits for it, by arrival"),
    KeySpec("ll:<digest>", "set", "ttl", "locks", "who wants to hear that it was given back"),
    KeySpec("lc:<client>", "hash", "ttl", "lock_renew", "a process that uses locks: its beat, what it said of itself"),
    KeySpec("lh:<client>", "set", "ttl", "locks", "what it holds or waits for"),
    KeySpec("bad:<run_id>", "string", "ttl", "claim", "what another program wrote to t:, of any type, set aside"),
    KeySpec("fi", "zset", "permanent", "flow_save", "ids of recent flow runs, bounded"),
)

CHANNELS = (
    ("c:<client>", "ends of runs, for their submitter or watcher: rid, 6 digits of length, record"),
    ("l:<session>:<lane>", "a claim handed to an idle lane: 'c', rid, token, record"),
    ("S:<session>", "what concerns a supervisor: a cancel, a drain, the end of its session"),
    ("b", "to every lane: the era was raised, a session opened anew, more is ready than was handed over; step again"),
    ("at:<run_id>", "nothing: a lane that listens here has read this run_id of its server, which has not ended since"),
    ("due", "to every supervisor: a run is due earlier than all others"),
    ("lc:<client>", "to a process that waits for locks: number of the wait that shall ask again, digest of its key"),
    ("runs", "id of a flow run whose summary was saved"),
)

_NAMESPACE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


def prefix_of(namespace: str) -> str:
    """What every key of ``namespace`` begins with: its hash tag, so that one Redis Cluster slot holds them all.

    Raises:
        ConfigurationError: a namespace that could not be a Kubernetes name.
    """
    if not _NAMESPACE.fullmatch(namespace):
        raise ConfigurationError(
            f"namespace={namespace!r} (KAPSTAN_NAMESPACE): give 1 to 63 letters, digits, '.', '_' or '-', "
            "beginning and ending with a letter or digit"
        )
    return f"{{{namespace}}}:"


def spec_of(key: str) -> KeySpec | None:
    """The row of a key (without its prefix), None if the table does not know it."""
    head, colon, _ = key.partition(":")
    for spec in KEYS:
        if spec.name.partition(":")[:2] == (head, colon):
            return spec
    return None

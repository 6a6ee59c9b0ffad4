"""Does a store honour conditional writes? The check that every adapter's ``probe`` runs, through its own writes.

Feature lists are not to be trusted: stores have let three of three racing creates win, and a proxy can take the
condition out of the request on its way.
"""

from __future__ import annotations

import contextlib
import hashlib
from concurrent.futures import ThreadPoolExecutor

from kapstan.errors import StoreRefused, StoreUnsafe
from kapstan.ids import new_nonce
from kapstan.ports import Store

RACERS = 8
VERDICT_SECONDS = 600.0
_FORMAT = "1"


def probe_when_due(store: Store, route: str, now: float) -> bool:
    """As ``probe``, unless the store holds that it passed by the same ``route`` within ``VERDICT_SECONDS``: a probe
    takes twenty requests, which each pod of a flow would wait for. Gives whether it was due.

    A verdict that is missing, old, from the future or of another form counts for nothing. It stands in the store that
    it is about, one for each address that a store is reached by, since a proxy on the way may be what fails.

    Args:
        route: the address of the store.
        now: seconds since 1970.

    Raises:
        StoreUnsafe, StoreRefused, StoreUnavailable: as ``probe``.
    """
    key = f"probe/passed-{hashlib.sha256(route.encode()).hexdigest()[:16]}"
    held = store.get(key)
    if held is not None and _is_fresh(held.body, now):
        return False
    probe(store)
    store.put(key, f"{_FORMAT} {now:.0f}".encode())
    return True


def _is_fresh(verdict: bytes, now: float) -> bool:
    version, _, at = verdict.decode("ascii", "replace").partition(" ")
    return version == _FORMAT and at.isdecimal() and abs(now - int(at)) <= VERDICT_SECONDS


def probe(store: Store) -> None:
    """Race, repeat and mismatch conditional writes on keys of our own below ``probe/``.

    Raises:
        StoreUnsafe: one of them went through, or took back a write; says which.
        StoreRefused, StoreUnavailable: as the store's methods.
    """
    raced, held, missing = (f"probe/{new_nonce()}" for _ in range(3))
    try:
        _race(store, raced)
        _hold(store, held)
        if store.replace(missing, b"nothing", _version(store, held)) is not None:
            raise _unsafe("a replace of an object that does not exist made one")
    finally:
        with contextlib.suppress(StoreRefused):  # a credential without the right to delete is a good one
            store.delete([raced, held, missing])


def _race(store: Store, key: str) -> None:
    bodies = [f"racer {number} {new_nonce()}".encode() for number in range(RACERS)]
    with ThreadPoolExecutor(RACERS, thread_name_prefix="kapstan-probe") as pool:
        answers = list(pool.map(store.create, [key] * RACERS, bodies))
    won = [body for body, is_ours in zip(bodies, answers, strict=True) if is_ours]
    if len(won) != 1:
        raise _unsafe(f"{len(won)} of {RACERS} racing creates of one object won; exactly one must")
    if _body(store, key) != won[0]:
        raise _unsafe("the object holds another body than the create that won wrote")


def _hold(store: Store, key: str) -> None:
    first, second, third = (f"{name} {new_nonce()}".encode() for name in ("first", "second", "third"))
    if not store.create(key, first):
        raise _unsafe("a create of a fresh object was refused as if it existed")
    old = _version(store, key)
    if store.create(key, second) or _body(store, key) != first:
        raise _unsafe("a create (If-None-Match: *) overwrote an object that existed")
    if store.replace(key, second, old) is None or _body(store, key) != second:
        raise _unsafe("a replace (If-Match) of the current version was refused")
    if store.replace(key, third, old) is not None or _body(store, key) != second:
        raise _unsafe("a replace (If-Match) of an old version went through")


def _body(store: Store, key: str) -> bytes | None:
    stored = store.get(key)
    return stored.body if stored else None


def _version(store: Store, key: str) -> str:
    stored = store.get(key)
    if stored is None:
        raise _unsafe("an object that was just created cannot be read")
    return stored.version


def _unsafe(what: str) -> StoreUnsafe:
    return StoreUnsafe(
        f"conditional writes do not hold: {what}. Use MinIO or another S3 with If-None-Match and If-Match, and no "
        "proxy in between that changes headers; exactly-once cannot be promised on this one"
    )

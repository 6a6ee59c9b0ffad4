"""Storages by address: ``file:///folder``, ``s3://bucket/prefix``, ``block:<class>#<digest>``. Made by ``backend``."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from kapstan.errors import ConfigurationError, StoreRefused, StoreUnavailable, UnreadableValue
from kapstan.settings import Settings

if TYPE_CHECKING:
    from kapstan.ports import Objects, Store
    from kapstan.store.local import LocalStore
    from kapstan.store.s3 import S3Store

_blocks: dict[str, Any] = {}
_NAMESPACE = ".kapstan/namespace"
"""An object that the store of each namespace has. No key of a user's begins like that."""
_LOOK_SECONDS = 2.0


def add_block(address: str, block: Any) -> None:
    """Have ``address`` mean an object of the user's, in this process: ``block:<class>#<digest>``."""
    _blocks[address] = block


def objects(address: str, settings: Settings) -> Objects:
    """The storage of that address.

    Raises:
        ConfigurationError: an address that cannot be used with these settings.
        UnreadableValue: a block that this process does not have.
    """
    kind, _, place = address.partition(":")
    if kind != "block":
        check_apart("result_storage", address, settings)
        _check_apart_from_others("result_storage", address, settings)
        return _opened(address, settings)
    from kapstan.store.blocks import BlockObjects

    if address not in _blocks:
        raise UnreadableValue(
            f"a value is in the result storage {address!r}, an object that this process does not have: import the "
            "module with the task or flow that names it"
        )
    return BlockObjects(_blocks[address], place.partition("#")[0])


def conditional(address: str, settings: Settings) -> Store:
    """As ``objects``, with conditional writes.

    Raises:
        ConfigurationError: as ``objects``; or a block, which has none.
        StoreUnsafe, StoreUnavailable: they do not hold (probed by the first process in ten minutes), or nobody answers.
    """
    if address.startswith("block:"):
        raise ConfigurationError(f"{address!r} has no conditional writes; give a folder or s3://bucket/prefix")
    check_apart("key_storage", address, settings)
    _check_apart_from_others("key_storage", address, settings)
    store = _opened(address, settings)
    if address.startswith("s3:"):
        cast("S3Store", store).probe_when_due()
    return store


def check_apart(option: str, address: str, settings: Settings, key: str = "") -> None:
    """See that ``key`` in a storage (without one: the storage itself) is not in the store of the namespace: there it
    could stand in the place of a journal or a register, and retention would not know whose it is.

    Raises:
        ConfigurationError: it is.
    """
    kind, _, place = address.partition("://")
    if kind == "s3":
        if not settings.s3_endpoint:
            return
        own = f"{settings.s3_bucket}/{settings.namespace}"
        inside = f"{place.rstrip('/')}/{key}/".startswith(f"{own}/")
        where, instead = f"s3://{own}", f"s3://{settings.s3_bucket}/{settings.namespace}-results"
    elif kind == "file":
        folder = (settings.home_path / "store").resolve()
        inside = Path(place, key).resolve().is_relative_to(folder)
        where, instead = str(folder), str(settings.home_path / "results")
    else:
        return
    if inside:
        what = f"the key {key!r} in {option}={address!r}" if key else f"{option}={address!r}"
        raise ConfigurationError(
            f"{what} lies in the store of namespace {settings.namespace!r} ({where}), among its journals: give a place "
            f"of its own, such as {instead}; the store of the namespace takes what names no {option}"
        )


def mark_as_a_namespace(store: Store) -> None:
    """Have other namespaces see that this is the store of one."""
    store.put(_NAMESPACE, b"the store of a Kapstan namespace")


def _check_apart_from_others(option: str, address: str, settings: Settings) -> None:
    """See that a storage is not in the store of another namespace in the same bucket, whose retention would take what
    stands there and whose journals a key could replace. A store that says nothing now, or shows nothing there, is
    looked at by the next process.

    Raises:
        ConfigurationError: it is.
    """
    kind, _, place = address.partition("://")
    bucket, _, prefix = place.partition("/")
    if kind != "s3" or not prefix or not settings.s3_endpoint or bucket != settings.s3_bucket:
        return
    from kapstan.store.s3 import S3Store

    first = prefix.partition("/")[0]
    deadline = min(_LOOK_SECONDS, settings.store_deadline_seconds)
    with contextlib.closing(S3Store.at(bucket, first, replace(settings, store_deadline_seconds=deadline))) as store:
        try:
            found = store.get(_NAMESPACE)
        except (StoreUnavailable, StoreRefused):
            return
    if found is not None:
        raise ConfigurationError(
            f"{option}={address!r} lies in the store of another namespace, {first!r}: its retention would take what "
            f"you put there. Give a place of its own, such as s3://{bucket}/{settings.namespace}-results"
        )


def _opened(address: str, settings: Settings) -> LocalStore | S3Store:
    kind, _, place = address.partition("://")
    if kind == "file":
        from kapstan.store.local import LocalStore

        return LocalStore.at(Path(place), settings)
    if not settings.s3_endpoint:
        raise ConfigurationError(f"the result storage {address!r} needs KAPSTAN_S3_ENDPOINT")
    from kapstan.store.s3 import S3Store

    bucket, _, prefix = place.partition("/")
    return S3Store.at(bucket, prefix, settings)

"""Storages by address: ``file:///folder``, ``s3://bucket/prefix``, ``block:<class>#<digest>``. Made by ``backend``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from kapstan.errors import ConfigurationError, UnreadableValue
from kapstan.settings import Settings

if TYPE_CHECKING:
    from kapstan.ports import Objects, Store
    from kapstan.store.local import LocalStore
    from kapstan.store.s3 import S3Store

_blocks: dict[str, Any] = {}


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
    store = _opened(address, settings)
    if address.startswith("s3:"):
        cast("S3Store", store).probe_when_due()
    return store


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

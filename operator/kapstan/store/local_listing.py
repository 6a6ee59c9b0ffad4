"""Lists the folders of the local store in the order of keys, one folder at a time. Called by ``local``.

Symbolic links are neither shown nor followed: nothing of ours is one.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote

from kapstan.ports import ListedLog
from kapstan.store.files import refusing
from kapstan.store.local_log import GRAVE, LOG


def walked(top: Path, prefix: str) -> Iterator[tuple[str, Path]]:
    """The keys that begin with ``prefix``, and their files, in ascending order."""
    folder, _, _ = prefix.rpartition("/")
    start = top.joinpath(*(quote(part, safe="") for part in folder.split("/") if part))
    yield from _below(start, f"{folder}/" if folder else "", prefix)


def _below(folder: Path, above: str, prefix: str) -> Iterator[tuple[str, Path]]:
    # A folder counts as its name with a slash, so that the order is that of the whole keys.
    for name, file_name in sorted(_entries(folder)):
        key = above + name
        if not (key.startswith(prefix) or prefix.startswith(key)):
            continue
        if name.endswith("/"):
            yield from _below(folder / file_name, key, prefix)
        else:
            yield key, folder / file_name


def _entries(folder: Path) -> Iterator[tuple[str, str]]:
    """Part of a key, with a slash if it is a folder, and the name of its file."""
    with refusing(folder):
        try:
            entries = os.scandir(folder)
        except (FileNotFoundError, NotADirectoryError):
            return
        with entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    yield f"{unquote(entry.name)}/", entry.name
                elif entry.is_file(follow_symlinks=False):
                    yield unquote(entry.name), entry.name


def listed_logs(top: Path, prefix: str) -> Iterator[ListedLog]:
    """The logs below ``top`` whose names begin with ``prefix``: each a file, a grave, or both."""

    def name_of(found: tuple[str, Path]) -> str:
        return found[0].removesuffix(LOG).removesuffix(GRAVE)

    ours = (found for found in walked(top, prefix) if found[0].endswith((LOG, GRAVE)))
    for name, group in itertools.groupby(ours, name_of):
        size, times = 0, dict[str, float]()
        for _, path in group:
            with refusing(path):
                try:
                    status = path.lstat()
                except FileNotFoundError:
                    continue  # deleted meanwhile
            size += status.st_size
            times[path.suffix] = status.st_mtime
        if times:
            yield ListedLog(name, len(times), size, max(times.values()), times.get(LOG, 0.0), LOG not in times)

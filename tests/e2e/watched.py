"""A watch of one kind of objects in a namespace: everything that was ever told, in order, with the moment of arrival.

For what a look now and then would miss: objects that lived shortly, the order of two ends, two at the same time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import urllib3
from kubernetes import client, config, watch

_SECONDS = 600
_LISTS = {
    "jobs": lambda api: client.BatchV1Api(api).list_namespaced_job,
    "pods": lambda api: client.CoreV1Api(api).list_namespaced_pod,
}


class Told(NamedTuple):
    """One event: ADDED, MODIFIED or DELETED, the object as JSON has it, when it came (``time.monotonic``)."""

    type: str
    object: dict[str, Any]
    at: float

    @property
    def name(self) -> str:
        return self.object["metadata"]["name"]


class Watched:
    """The events so far. Objects that were there before come as ADDED."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._told: list[Told] = []
        self._ended = ""

    def end(self, why: str) -> None:
        """Nothing more will be told: whoever asks from now on is told that instead."""
        with self._changed:
            self._ended = why
            self._changed.notify_all()

    def take(self, type_: str, manifest: dict[str, Any]) -> None:
        with self._changed:
            self._told.append(Told(type_, manifest, time.monotonic()))
            self._changed.notify_all()

    def look(self) -> None:
        """Have those who wait ask again: something else has changed."""
        with self._changed:
            self._changed.notify_all()

    @property
    def told(self) -> list[Told]:
        with self._changed:
            assert not self._ended, f"the watch has ended: {self._ended}"
            return list(self._told)

    def until(self, holds: Callable[[list[Told]], bool], what: str, timeout: float = 60.0) -> None:
        """Block until ``holds(told)``; fails after ``timeout`` seconds."""
        with self._changed:
            came = self._changed.wait_for(lambda: holds(self._told) or self._ended, timeout)
            assert not self._ended, f"the watch has ended: {self._ended}"
            assert came, f"no {what} within {timeout:g} s: {[(told.type, told.name) for told in self._told[-20:]]}"

    def first(self, name: str, fits: Callable[[Told], bool], what: str, timeout: float = 60.0) -> Told:
        """The first event of object ``name`` that ``fits``, waited for; fails after ``timeout`` seconds without it."""

        def found(told: list[Told]) -> Iterator[Told]:
            return (one for one in told if one.name == name and fits(one))

        self.until(lambda told: any(found(told)), f"{what} of {name}", timeout)
        return next(found(self.told))


@contextmanager
def watching(kubeconfig: Path, namespace: str, plural: str) -> Iterator[Watched]:
    """Watch ``jobs``, ``pods``, or a plural of kapstan.dev, for as long as the block lasts."""
    with config.new_client_from_config(str(kubeconfig)) as api:
        stream, watched = watch.Watch(), Watched()
        if plural in _LISTS:
            listed, arguments = _LISTS[plural](api), (namespace,)
        else:
            listed = client.CustomObjectsApi(api).list_namespaced_custom_object
            arguments = ("kapstan.dev", "v1alpha1", namespace, plural)

        def read() -> None:
            try:
                for event in stream.stream(listed, *arguments, timeout_seconds=_SECONDS):
                    watched.take(event["type"], event["raw_object"])
            except (urllib3.exceptions.HTTPError, client.ApiException) as error:
                watched.end(repr(error))
            else:
                watched.end("stopped")

        threading.Thread(target=read, name=f"watch-{plural}", daemon=True).start()
        try:
            yield watched
        finally:
            stream.stop()

"""The backends of the namespaces that the operator serves: a key for each, and the operator's own way to Redis and the
store unless the namespace has one of its own.

A namespace is a trust domain: its queue keys carry its name and its envelopes its signature. The operator verifies
with a copy of each namespace's key, which the chart mounts as files named after the namespaces, and needs no right to
read anybody's Secrets.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from kapstan.backend import Backend
from kapstan.errors import BackendError, ConfigurationError
from kapstan.ids import RunId
from kapstan.ports import BackgroundRuns, Queue, RunRecords
from kapstan.runs.records import Records
from kapstan.settings import Settings

log = logging.getLogger("kapstan.operator")
_PATIENCE = 3.0
OWN = {
    f"KAPSTAN_{field.upper()}": field
    for field in ("redis_url", "s3_endpoint", "s3_bucket", "s3_region", "s3_access_key", "s3_secret_key")
}
"""File of a namespace's credentials -> the setting that it gives."""


class Namespaces:
    """Backends by namespace, each made when it is first asked for; safe to call from several threads.

    Args:
        settings: the operator's; its signing key is not used.
        keys: directory with a file for each namespace: base64 of its signing key.
        credentials: directory with a folder for each namespace that has credentials of its own: files called as the
            settings, ``KAPSTAN_REDIS_URL`` and ``KAPSTAN_S3_...``, as a mounted Secret shows them.
        record_changed: called with each run whose record was written, from a thread of this class.
    """

    def __init__(
        self,
        settings: Settings,
        keys: Path,
        record_changed: Callable[[RunId], None],
        credentials: Path | None = None,
    ) -> None:
        self._settings = settings
        self._keys = keys
        self._credentials = credentials
        self._record_changed = record_changed
        self._lock = threading.Lock()
        self._backends: dict[str, Backend] = {}
        self._stopping = threading.Event()
        self._listeners: list[threading.Thread] = []

    def queue(self, namespace: str) -> Queue:
        return self.backend(namespace).queue

    def runs(self, namespace: str) -> BackgroundRuns:
        return self.backend(namespace).background_runs

    def records(self, namespace: str) -> RunRecords:
        return Records(self.backend(namespace))

    def names(self) -> list[str]:
        """The namespaces that there is a key for."""
        try:
            found = [path.name for path in self._keys.iterdir() if path.is_file()]
        except OSError:
            return []
        return sorted(name for name in found if not name.startswith(".") and not name.endswith(".previous"))

    def close(self) -> None:
        self._stopping.set()
        for listener in self._listeners:
            listener.join(2)
        for backend in self._backends.values():
            backend.close()

    def backend(self, namespace: str) -> Backend:
        """Raises:
        BackendError: the chart was given no key for this namespace.
        """
        with self._lock:
            backend = self._backends.get(namespace)
            if backend is None:
                backend = self._backends[namespace] = Backend(self.settings_of(namespace))
                listener = threading.Thread(
                    target=self._listen, args=(namespace, backend), name=f"records-{namespace}", daemon=True
                )
                self._listeners.append(listener)
                listener.start()
            return backend

    def settings_of(self, namespace: str) -> Settings:
        """What this namespace is reached with.

        Raises:
            BackendError: the chart was given no key for it, or no way to Redis and the store.
        """
        try:
            key = (self._keys / namespace).read_text().strip()
        except OSError as error:
            raise BackendError(
                f"no signing key for namespace {namespace!r} in {self._keys} ({error.strerror}): "
                "add the namespace to `namespaces` of the chart or, with clusterWide, its key to `signing.keys`"
            ) from error
        previous = self._keys / f"{namespace}.previous"
        services = self._services_of(namespace)
        if not services.redis_url or not services.s3_endpoint:
            raise BackendError(
                f"no Redis or no object store is named for namespace {namespace!r}: give `redis` and `s3`, or its own "
                f"Secret in `credentials.{namespace}` of the chart"
            )
        return replace(
            services,
            # A condition says what is away, and it is looked at again; nobody waits here for half a minute.
            redis_retry_seconds=min(self._settings.redis_retry_seconds, _PATIENCE),
            store_deadline_seconds=min(self._settings.store_deadline_seconds, _PATIENCE),
            namespace=namespace,
            signing_key=key,
            signing_key_previous=previous.read_text().strip() if previous.exists() else "",
        )

    def _services_of(self, namespace: str) -> Settings:
        """The operator's settings with the namespace's own addresses and credentials.

        Raises:
            BackendError: its credentials are of a form that no setting has.
        """
        folder = self._credentials / namespace if self._credentials else None
        if folder is None or not folder.is_dir():
            return self._settings
        own_values = {name: (folder / name).read_text().strip() for name in OWN if (folder / name).is_file()}
        try:
            own = Settings.from_env(own_values)
        except ConfigurationError as error:
            raise BackendError(f"credentials of namespace {namespace!r}: {error}") from error
        # All of them are its own: an address of its own with the operator's password would tell that to the address.
        return replace(self._settings, **{field: getattr(own, field) for field in OWN.values()})

    def _listen(self, namespace: str, backend: Backend) -> None:
        """Hear of every record that is written in one namespace, until the end; Redis away: until it is back."""
        while not self._stopping.is_set():
            try:
                backend.flow_runs.watch(self._record_changed, self._stopping.is_set)
            except (BackendError, ConfigurationError) as error:
                log.warning("records of namespace %s cannot be watched (%s); it is tried again", namespace, error)
                self._stopping.wait(2)

"""Our custom resources."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

Kind = str
"""Name of a kind of ours: one of `kapstan.resources.KINDS`."""


class Key(NamedTuple):
    """Names one resource; what the work queue of ``reconcile`` holds."""

    kind: Kind
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.namespace}/{self.name}"


Manifest = dict[str, Any]
"""A resource as the API server shows it: apiVersion, kind, metadata, spec, status."""


class Cluster(Protocol):
    """*Our* custom resources: the API server, or versioned files in local mode. Manifests in, manifests out.

    Raises:
        ClusterUnavailable: no answer.
        InvalidResource: the object breaks its schema or rules, with the API server's words.
        ResourceConflict: create of what exists; an ``apply`` or ``delete`` with an old resourceVersion.
        NotFound: status of, or delete of, what is not there.
    """

    async def get(self, key: Key) -> Manifest | None: ...

    async def list(
        self, kind: Kind, namespace: str | None = None, *, labels: Mapping[str, str] | None = None
    ) -> list[Manifest]: ...

    def each(self, kind: Kind, namespace: str | None = None) -> AsyncIterator[Manifest]:
        """As `list`, one after the other and read page by page, for kinds that are too many to be held at once."""
        ...

    async def create(self, manifest: Manifest) -> Manifest: ...

    async def apply(self, manifest: Manifest) -> Manifest:
        """Create or change to what ``manifest`` says (server-side apply, one field manager); an equal apply changes
        nothing."""
        ...

    async def set_status(
        self, key: Key, status: Manifest, *, uid: str, resource_version: str | None = None
    ) -> Manifest:
        """Replace the status; the object as it is stored now.

        Refused as NotFound if the object of that name is another one by now, and as ResourceConflict if
        ``resource_version`` is given and is not the stored one: a decision made on an old view must not be written.
        """
        ...

    async def set_scale(self, key: Key, replicas: int) -> None: ...

    async def delete(self, key: Key, *, uid: str = "") -> None:
        """Delete the object; with ``uid`` only the one that has it.

        Raises:
            NotFound: there is none.
            ResourceConflict: another object has the name by now.
        """
        ...

    async def emit(
        self, key: Key, *, uid: str, severity: Literal["Normal", "Warning"], reason: str, message: str
    ) -> None:
        """Record an Event about the object."""
        ...

    def changes(self, kinds: Sequence[Kind]) -> AsyncIterator[tuple[Literal["changed", "deleted"], Manifest]]:
        """First every object, then each change as it happens. Used by local mode and the CLI; kopf feeds the
        operator."""
        ...

    async def close(self) -> None: ...

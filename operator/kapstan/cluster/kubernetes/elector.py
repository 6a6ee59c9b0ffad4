"""One leader among the operator's pods, by a Lease that is its own object.

Written here because the elector of the `kubernetes` package keeps two leaders when the API server hangs. Three rules
make one leader: every call ends before the renewal deadline, time is this process' monotonic clock (never the Lease's
timestamps), and a leader that could not renew stops before anybody else may begin. `controllers` runs it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from kapstan.cluster.kubernetes.cache import within
from kapstan.cluster.kubernetes.client import LEASES, Client
from kapstan.errors import ClusterRefused, ClusterUnavailable, NotFound, ResourceConflict

log = logging.getLogger("kapstan.operator")

Json = dict[str, Any]


@dataclass(slots=True)
class Elector:
    """Holds, or waits for, the Lease ``namespace/name`` as ``identity``.

    ``lease_seconds`` after the last renewal that others saw they take over; the holder gives up ``renew_seconds`` after
    the last renewal that was answered, which must be sooner; it renews every ``retry_seconds``.
    """

    client: Client
    namespace: str
    name: str
    identity: str
    lease_seconds: float = 15.0
    renew_seconds: float = 10.0
    retry_seconds: float = 2.0
    clock: Callable[[], float] = time.monotonic
    transitions: int = 0
    """How often the Lease has changed hands, ours included: greater for every later leader."""
    refused_since: float | None = None
    """Since when the API server refuses us the Lease (401, 403), by ``clock``; None: it does not."""
    _seen: tuple[str, float] = field(default=("", 0.0))

    async def acquire(self) -> None:
        """Return once this process leads."""
        while True:
            with contextlib.suppress(ClusterUnavailable, ClusterRefused, ResourceConflict, TimeoutError):
                async with asyncio.timeout(self.renew_seconds):
                    lease = await self._read()
                    self.refused_since = None
                    if self._is_free(lease):
                        await self._take(lease)
                        return
                    await self._wait_for_change(lease)
                    continue
            await asyncio.sleep(self.retry_seconds)

    async def hold(self) -> None:
        """Renew; return when the Lease is lost: somebody else has it, or no renewal was answered in time."""
        renewed_at = self.clock()
        while True:
            left = renewed_at + self.renew_seconds - self.clock()
            if left <= 0:
                return
            try:
                async with asyncio.timeout(left):
                    await asyncio.sleep(min(self.retry_seconds, left))
                    begun = self.clock()
                    lease = await self._read()
                    if within(lease, "spec").get("holderIdentity") != self.identity:
                        return
                    await self._write(lease, self.identity)
                    renewed_at = begun
                    self.refused_since = None
            except (ClusterUnavailable, ClusterRefused, ResourceConflict, NotFound, TimeoutError):
                # A token or a role that is just being replaced is refused once; the deadline decides.
                continue

    async def release(self) -> None:
        """Hand over now instead of at the lease's end."""
        with contextlib.suppress(ClusterUnavailable, ClusterRefused, ResourceConflict, NotFound, TimeoutError):
            async with asyncio.timeout(self.renew_seconds):
                lease = await self._read()
                if within(lease, "spec").get("holderIdentity") == self.identity:
                    await self._write(lease, "")

    def _is_free(self, lease: Json | None) -> bool:
        """Nobody holds it, or its holder has not been seen to renew for a whole lease by our own clock."""
        spec = within(lease, "spec")
        if not spec.get("holderIdentity") or spec["holderIdentity"] == self.identity:
            return True
        version = str(within(lease, "metadata").get("resourceVersion"))
        if self._seen[0] != version:
            self._seen = (version, self.clock())
        return self.clock() - self._seen[1] > float(spec.get("leaseDurationSeconds") or self.lease_seconds)

    async def _take(self, lease: Json | None) -> None:
        self.transitions = int(within(lease, "spec").get("leaseTransitions") or 0) + 1
        if lease is not None:
            await self._write(lease, self.identity)
            return
        body: Json = {"apiVersion": LEASES.api_version, "kind": LEASES.kind, "metadata": {"name": self.name}}
        path = LEASES.path(self.namespace)
        await self.client.create(path, body | {"spec": self._spec(self.identity)}, field_manager="kapstan-operator")

    async def _read(self) -> Json | None:
        try:
            return await self.client.get(LEASES.path(self.namespace, self.name))
        except NotFound:
            return None
        except ClusterRefused as error:
            self._refused(error)
            raise

    def _refused(self, error: ClusterRefused) -> None:
        if self.refused_since is None:
            self.refused_since = self.clock()
            log.warning("the Lease %s/%s is refused (%s); it is tried again", self.namespace, self.name, error)

    async def _write(self, lease: Json | None, holder: str) -> None:
        """Replace what was read; the version in it lets only one of two writers win."""
        if lease is None:
            raise NotFound(f"the Lease {self.namespace}/{self.name} is gone")
        path = LEASES.path(self.namespace, self.name)
        body = lease | {"spec": within(lease, "spec") | self._spec(holder)}
        try:
            await self.client.replace(path, body, field_manager="kapstan-operator")
        except ClusterRefused as error:
            self._refused(error)
            raise

    async def _wait_for_change(self, lease: Json | None) -> None:
        """Until the Lease is written or ``retry_seconds`` pass: a release is seen at once."""
        version = str(within(lease, "metadata").get("resourceVersion"))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.retry_seconds):
                fields = f"metadata.name={self.name}"
                async for _ in self.client.watch(LEASES.path(self.namespace), version, fields=fields, seconds=30):
                    return

    def _spec(self, holder: str) -> Json:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {
            "holderIdentity": holder,
            "leaseDurationSeconds": max(1, round(self.lease_seconds)),
            "renewTime": now,
            "leaseTransitions": self.transitions,
        }

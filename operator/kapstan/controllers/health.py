"""/healthz and /readyz of the operator, by its own small server: kopf's answers 200 whatever its watches do.

Not healthy means that only a restart helps. Not ready means that it cannot do its work now: caches not filled, or a
watch refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp import web

Checks = Callable[[], dict[str, Any]]
"""Says what is wrong under ``problems`` (a list, empty where nothing is), with whatever else a human wants to know."""


class HealthServer:
    """Listens on all addresses; ``port`` 0 takes a free one."""

    def __init__(self, healthy: Checks, ready: Checks, port: int) -> None:
        application = web.Application()
        application.router.add_get("/healthz", _answer(healthy))
        application.router.add_get("/readyz", _answer(ready))
        self._runner = web.AppRunner(application, access_log=None)
        self.port = port

    async def start(self) -> None:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "0.0.0.0", self.port)  # noqa: S104  (the kubelet asks from outside the pod)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def close(self) -> None:
        await self._runner.cleanup()


def _answer(checks: Checks) -> Callable[[web.Request], Any]:
    async def answer(_: web.Request) -> web.Response:
        report = checks()
        return web.json_response(report, status=503 if report["problems"] else 200)

    return answer

"""What the API server's refusals become: by the launcher's exception, and by the run's or worker's next step."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from tests.unit.kubernetes.test_render import job_request, workers_request

from kapstan.cluster.kubernetes.cache import Cache
from kapstan.cluster.kubernetes.client import Client
from kapstan.cluster.kubernetes.launcher import KubernetesLauncher
from kapstan.errors import AdmissionRefused, ClusterRefused, ClusterUnavailable, InvalidResource, KapstanError
from kapstan.errors import QuotaUsedUp as Quota
from kapstan.reconcile.kinds.flow_run.actions import LaunchDelayed, LaunchRefused, StartAttempt
from kapstan.reconcile.kinds.task_worker.actions import EnsureWorkers, WorkersRefused
from kapstan.reconcile.plan import Acting

QUOTA = 'jobs.batch "run-1" is forbidden: exceeded quota: few, requested: count/jobs.batch=1, used: 5, limited: 5'
RIGHTS = (
    'jobs.batch is forbidden: User "system:serviceaccount:k:op" cannot create resource "jobs" in API group "batch" '
    'in the namespace "team"'
)
GOING = 'jobs.batch "run-1" is forbidden: unable to create new content in namespace team because it is being terminated'
WEBHOOK = 'admission webhook "policy.example.com" denied the request: images must come from the registry'
POLICY = "jobs.batch \"run-1\" is forbidden: ValidatingAdmissionPolicy 'no-latest' denied request: no :latest"
# Server-side apply says so with 500.
UNTYPED = "failed to create typed patch object: .spec.template.spec.x: expected numeric (int or float), got string"
LIMITS = 'jobs.batch "run-1" is forbidden: maximum memory usage per Container is 1Gi, but limit is 2Gi'


@contextlib.asynccontextmanager
async def refusing(code: int, message: str) -> AsyncGenerator[KubernetesLauncher]:
    """A launcher before a server that answers everything but GET with this refusal."""

    async def answer(request: web.Request) -> web.Response:
        if request.method == "GET":
            return web.json_response({"message": "none"}, status=404)
        return web.Response(status=code, text=json.dumps({"kind": "Status", "message": message}))

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    async with aiohttp.ClientSession() as session:
        try:
            yield KubernetesLauncher(Client(f"http://{host}:{port}", session), Cache())
        finally:
            await runner.cleanup()


@pytest.mark.parametrize(
    ("code", "message", "raised", "decided"),
    [
        (403, QUOTA, Quota, (LaunchDelayed, "QuotaExceeded")),
        (403, RIGHTS, ClusterRefused, (LaunchDelayed, "ConfigError")),
        (403, GOING, ClusterRefused, (LaunchDelayed, "ConfigError")),
        (401, "Unauthorized", ClusterRefused, (LaunchDelayed, "ConfigError")),
        (403, WEBHOOK, AdmissionRefused, (LaunchRefused, None)),
        (403, POLICY, AdmissionRefused, (LaunchRefused, None)),
        (403, LIMITS, AdmissionRefused, (LaunchRefused, None)),
        (422, "spec.template: Invalid value", InvalidResource, (LaunchRefused, None)),
        (500, "failed calling webhook", ClusterUnavailable, (ClusterUnavailable, None)),
    ],
)
def test_a_launch_that_is_refused(
    code: int, message: str, raised: type[KapstanError], decided: tuple[type[KapstanError], str | None]
) -> None:
    async def body() -> None:
        async with refusing(code, message) as launcher:
            with pytest.raises(KapstanError) as refused:
                await launcher.start(job_request())
            assert type(refused.value) is raised
            assert message in str(refused.value)
            with pytest.raises(decided[0]) as told:
                await StartAttempt("kubernetes", job_request()).perform(acting(launcher))
            assert getattr(told.value, "category", None) == decided[1]
            assert message in str(told.value)

    asyncio.run(body())


@pytest.mark.parametrize(
    ("code", "message"), [(403, QUOTA), (403, RIGHTS), (403, WEBHOOK), (422, "Invalid value"), (500, UNTYPED)]
)
def test_workers_that_are_refused(code: int, message: str) -> None:
    async def body() -> None:
        async with refusing(code, message) as launcher:
            with pytest.raises(WorkersRefused, match=r".*" + message[:20]):
                await EnsureWorkers(workers_request()).perform(acting(launcher))

    asyncio.run(body())


def acting(launcher: KubernetesLauncher) -> Acting:
    world: Any = SimpleNamespace(launcher=lambda _: launcher, worker_launcher=launcher)
    return Acting(world, lambda _: None, lambda _: None)

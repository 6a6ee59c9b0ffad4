"""The operator's retention as the chart sets it: real API server, MinIO and Redis; only the hour is skipped."""

from __future__ import annotations

import asyncio
import base64
from datetime import datetime
from typing import Any

from tests.contract.kubernetes.operators import RELEASE, Install, Installation, MakeTeam, signing_key
from tests.contract.retention.makers import Shop

from kapstan.backend import Backend
from kapstan.cluster.kubernetes.client import Client
from kapstan.controllers.app import Operator, Options
from kapstan.controllers.namespaces import Namespaces
from kapstan.controllers.watches import Watches
from kapstan.reconcile.naming import run_id_of
from kapstan.runs.retention import DAY
from kapstan.settings import Settings


def settings_of(installed: Installation) -> Settings:
    """What the operator's container is told."""
    (container,) = installed.one("Deployment", installed.account)["spec"]["template"]["spec"]["containers"]
    told = {entry["name"]: entry["value"] for entry in container["env"]}
    data = installed.one("Secret", installed.account)["data"]
    return Settings.from_env(told | {name: base64.b64decode(value).decode() for name, value in data.items()})


async def sweep(installed: Installation, now: float) -> dict[str, Any]:
    kubeconfig = installed.home / "kubeconfig-sweep"
    kubeconfig.write_text(installed.server.kubeconfig_of(installed.token, ""))
    options = Options(None, installed.home / "keys", installed.namespace, f"{RELEASE}-operator")
    watches = Watches()
    client = await Client.connect(str(kubeconfig), middlewares=(watches.observe,))
    try:
        operator = Operator(settings_of(installed), options, client, watches)
        operator._retention._now = lambda: now
        await operator._retention.sweep()
        operator._namespaces.close()
        operator._loop.close()
        return operator._retention.last
    finally:
        await client.close()


def test_a_flow_run_that_exists_keeps_its_journal_and_others_go(install: Install, make_team: MakeTeam) -> None:
    team = make_team("retained")
    values = ("clusterWide=true", "namespaces={retained}", "retention.days=30", "retention.keyDays=0.5")
    values = (*values, signing_key("retained"))
    installed = install("retaining", *values)
    settings = settings_of(installed)
    assert (settings.retention_days, settings.key_retention_days) == (30.0, 0.5)
    shop = Shop(Backend(Namespaces(settings, installed.home / "keys", lambda _: None).settings_of("retained")))
    team.run("kept")
    metadata = team.get("kept")["metadata"]
    kept = run_id_of(metadata["uid"], datetime.fromisoformat(metadata["creationTimestamp"]))
    shop.run(run_id=kept, deployment="etl")
    other = shop.run(deployment="etl")
    told = asyncio.run(sweep(installed, shop.store.now() + 31 * DAY))
    assert told["retained"]["kept"] == {"held": 1}
    assert told["retained"]["went"]["journal"] == 1
    assert shop.left(kept) == {"journal", "values", "definition", "index"}
    assert shop.left(other) == {"grave"}
    shop.backend.close()


def test_as_installed_nothing_goes(install: Install) -> None:
    settings = settings_of(install("keeping", signing_key("keeping")))
    assert (settings.retention_days, settings.key_retention_days) == (0.0, 0.0)

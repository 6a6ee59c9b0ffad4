"""`kapstan operator start`: what the chart's pod runs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from kapstan.cli.seconds import SECONDS


@click.group()
def command() -> None:
    """The control plane in a cluster."""


@command.command()
@click.option("--namespaces", help="Serve these namespaces, separated by commas.")
@click.option("--all-namespaces", is_flag=True, help="Serve every namespace; needs the rights of a ClusterRoleBinding.")
@click.option(
    "--signing-keys",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    required=True,
    help="Directory with a file for each namespace: base64 of the key that signs its envelopes.",
)
@click.option("--lease", default="default/kapstan-operator", show_default=True, help="NAMESPACE/NAME of the Lease.")
@click.option("--lease-seconds", type=SECONDS, default=15.0, show_default=True, help="After so long others take over.")
@click.option(
    "--renew-seconds", type=SECONDS, default=10.0, show_default=True, help="After so long we give up leading."
)
@click.option("--retry-seconds", type=SECONDS, default=2.0, show_default=True, help="How often the Lease is renewed.")
@click.option(
    "--health-port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="Port of /healthz and /readyz.",
)
@click.option(
    "--credentials",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Directory with a folder for each namespace that has a Redis and an object store of its own.",
)
@click.option(
    "--pod-security",
    type=click.Choice(["restricted", "privileged"]),
    default="restricted",
    show_default=True,
    help="What a pod template may ask for at most. privileged: whatever the namespace's own Pod Security allows.",
)
@click.option(
    "--workload-redis-secret",
    default="",
    help="NAME/KEY: in every served namespace, the Secret and its key with the address of Redis for pods. Without it "
    "they have it from the Secret kapstan-workload.",
)
def start(
    *,
    namespaces: str | None,
    all_namespaces: bool,
    signing_keys: Path,
    lease: str,
    lease_seconds: float,
    renew_seconds: float,
    retry_seconds: float,
    health_port: int,
    credentials: Path | None,
    pod_security: str,
    workload_redis_secret: str,
) -> None:
    """Run the operator until SIGTERM."""
    from kapstan import settings
    from kapstan.cluster.kubernetes.render import SecretKey
    from kapstan.controllers import app, log

    if bool(namespaces) == all_namespaces:
        raise click.UsageError("give either --namespaces or --all-namespaces")
    if not retry_seconds < renew_seconds < lease_seconds:
        raise click.UsageError("--retry-seconds < --renew-seconds < --lease-seconds must hold, or two could lead")
    lease_namespace, slash, lease_name = lease.partition("/")
    if not (lease_namespace and slash and lease_name):
        raise click.UsageError(f"--lease {lease!r}: write NAMESPACE/NAME")
    secret, slash, key = workload_redis_secret.partition("/")
    if workload_redis_secret and not (secret and slash and key):
        raise click.UsageError(f"--workload-redis-secret {workload_redis_secret!r}: write NAME/KEY")
    options = app.Options(
        namespaces=None if all_namespaces else tuple(filter(None, (namespaces or "").split(","))),
        signing_keys=signing_keys,
        lease_namespace=lease_namespace,
        lease_name=lease_name,
        lease_seconds=lease_seconds,
        renew_seconds=renew_seconds,
        retry_seconds=retry_seconds,
        health_port=health_port,
        credentials=credentials,
        restricted=pod_security == "restricted",
        redis=SecretKey(secret, key) if secret else None,
    )
    current = settings.current()
    log.set_up(current)
    asyncio.run(app.run(current, options))

"""Which resources a command means: those of a cluster, or those of this machine's home.

A cluster is used only where one is asked for, by `--kubeconfig`, `KAPSTAN_KUBECONFIG` or `--cluster` (as kubectl finds
it); all else is local. So nobody changes a cluster because a kubeconfig happens to lie around.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from kapstan import settings
from kapstan.cluster.local.cluster import LocalCluster
from kapstan.errors import ConfigurationError
from kapstan.ports import Cluster, Kind
from kapstan.resources import KINDS

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Target:
    """What the options said. ``namespace`` is None where none was named."""

    kubeconfig: str
    cluster: bool
    namespace: str | None

    @property
    def local(self) -> bool:
        return not self.cluster and not self.kubeconfig

    @property
    def remote(self) -> bool:
        """Whether a cluster was asked for: its runs' records are read where its Redis and store are, not here."""
        return not self.local

    @property
    def namespace_or_default(self) -> str:
        return self.namespace or settings.current().namespace

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncGenerator[Cluster]:
        """The resources; closed afterwards."""
        if self.local:
            yield LocalCluster.from_settings(settings.current())
            return
        try:
            from kapstan.cluster.kubernetes.client import Client
            from kapstan.cluster.kubernetes.cluster import KubernetesCluster
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                f"talking to a cluster needs the package {error.name!r}: install kapstan[operator]"
            ) from error

        client = await Client.connect(self.kubeconfig)
        try:
            yield KubernetesCluster(client, field_manager="kapstan-cli")
        finally:
            await client.close()

    def run(self, work: Callable[[Cluster], Coroutine[Any, Any, T]]) -> T:
        """Do something with the resources, from a command that is not async."""

        async def inside() -> T:
            async with self.open() as cluster:
                return await work(cluster)

        return asyncio.run(inside())


def target_options(function: F) -> F:
    """Adds ``--kubeconfig``, ``--cluster`` and ``--namespace``; the command gets them as ``target``."""

    def with_target(*args: Any, kubeconfig: str | None, cluster: bool, namespace: str | None, **options: Any) -> Any:
        asked = settings.current().kubeconfig if kubeconfig is None else kubeconfig
        return function(*args, target=Target(asked, cluster, namespace), **options)

    with_target.__name__, with_target.__doc__ = function.__name__, function.__doc__
    with_target.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]
    for option in (
        click.option("-n", "--namespace", help="Namespace. [default: KAPSTAN_NAMESPACE, else default]"),
        click.option("--cluster", is_flag=True, help="Use the cluster that kubectl would use."),
        click.option("--kubeconfig", metavar="FILE", help="Use the cluster of this file, not this machine's home."),
    ):
        with_target = option(with_target)
    return with_target  # type: ignore[return-value]


def kind_of(word: str) -> Kind:
    """The kind that a word on the command line means: its name, plural or short name, in any case.

    Raises:
        UsageError: none of ours.
    """
    wanted = word.lower().removesuffix(".kapstan.dev")
    for kind, model in KINDS.items():
        if wanted in (kind.lower(), model.plural, *model.short_names):
            return kind  # type: ignore[return-value]
    names = ", ".join(f"{model.plural} ({', '.join(model.short_names)})" for model in KINDS.values())
    raise click.UsageError(f"{word!r} is no kind of Kapstan: write one of {names}")

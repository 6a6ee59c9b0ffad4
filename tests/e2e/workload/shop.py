"""What the end-to-end tests run in pods: small flows and tasks, as a user's image carries them."""

from __future__ import annotations

import os

from kapstan import flow, task


@task
def square(x: int) -> int:
    return x * x


@task
def where(x: int) -> tuple[int, str]:
    """The pod that executed it."""
    return x, os.environ["POD_NAME"]


@flow
def sum_of_squares(count: int = 3) -> int:
    return sum(square(x) for x in range(count))


@flow
def echo(text: str = "") -> str:
    return text


@flow
def broken() -> None:
    raise ValueError("broken on purpose")


@flow
def pod_facts() -> dict[str, bool]:
    """What Pod Security and the missing token look like from inside."""
    return {
        "root": os.getuid() == 0,
        "token": os.path.exists("/var/run/secrets/kubernetes.io/serviceaccount/token"),
        "service_variables": any(name.endswith("_SERVICE_HOST") and name.startswith("KAPSTAN") for name in os.environ),
    }

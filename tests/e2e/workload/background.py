"""Background tasks and a flow whose effects are counted: they tell a sink of the test what they do.

The test submits these by importing this file, the pods serve the copy in their image: the names are given, because the
two are not the same module.
"""

from __future__ import annotations

import json
import os
import urllib.request

from kapstan import flow, task


def tell(sink: str, what: str, tag: str) -> None:
    """Returns when the test has it on disk and, if it holds this tag, when it lets go."""
    line = {"what": what, "tag": tag, "by": os.environ["POD_NAME"]}
    request = urllib.request.Request(sink, json.dumps(line).encode(), method="POST")
    with urllib.request.urlopen(request, timeout=180) as answer:
        answer.read()


@task(name="background.effect")
def effect(sink: str, tag: str) -> str:
    """One effect, at the beginning, and the pod that had it."""
    tell(sink, "begins", tag)
    tell(sink, "ends", tag)
    return os.environ["POD_NAME"]


@task(name="background.large")
def large(sink: str, tag: str) -> str:
    """As ``effect``, with a result that does not fit into Redis."""
    tell(sink, "begins", tag)
    return "." * 20_000


@task
def step(sink: str, tag: str) -> str:
    tell(sink, "begins", tag)
    return tag


@flow
def feeding(sink: str, name: str, count: int) -> None:
    """``count`` steps with one effect each, ``<name>-<number>``, and after each a background run."""
    for number in range(count):
        step(sink, f"{name}-{number}")
        effect.delay(sink, f"{name}-fed-{number}")


@flow
def typed(count: int) -> int:
    """For a parameter of the wrong type."""
    return count

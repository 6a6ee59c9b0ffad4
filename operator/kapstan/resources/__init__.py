"""The custom resources of `kapstan.dev`: models, rules, and the manifests that are generated from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kapstan.errors import InvalidResource
from kapstan.resources.base import API_VERSION, CATEGORY, GROUP, VERSION, Condition, Metadata, Resource, set_condition
from kapstan.resources.deployment import Deployment
from kapstan.resources.flowrun import FlowRun
from kapstan.resources.rules import validate, violations
from kapstan.resources.taskworker import TaskWorker
from kapstan.resources.workpool import WorkPool

KINDS: dict[str, type[Resource]] = {
    "Deployment": Deployment,
    "WorkPool": WorkPool,
    "TaskWorker": TaskWorker,
    "FlowRun": FlowRun,
}
"""Model by kind, in the order in which they build on each other for a reader."""


def parse(manifest: Mapping[str, Any]) -> Resource:
    """The resource that a manifest describes, by its apiVersion and kind.

    Raises:
        InvalidResource: no kind of ours, or a shape that the API server would refuse. Rules are `validate`'s part.
    """
    api_version, kind = manifest.get("apiVersion"), manifest.get("kind")
    if api_version != API_VERSION:
        raise InvalidResource([("apiVersion", f"{api_version!r} is not served: write {API_VERSION}")], kind=str(kind))
    if kind not in KINDS:
        raise InvalidResource([("kind", f"{kind!r} is none of {', '.join(KINDS)}")], kind=str(kind))
    return KINDS[kind].from_dict(manifest)


__all__ = [
    "API_VERSION",
    "CATEGORY",
    "GROUP",
    "KINDS",
    "VERSION",
    "Condition",
    "Deployment",
    "FlowRun",
    "Metadata",
    "Resource",
    "TaskWorker",
    "WorkPool",
    "parse",
    "set_condition",
    "validate",
    "violations",
]

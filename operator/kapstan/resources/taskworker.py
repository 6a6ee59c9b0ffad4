"""TaskWorker (``tw``): pods, or processes, that serve background tasks.

``spec.replicas`` is always present: without it the scale subresource, a HorizontalPodAutoscaler and a
PodDisruptionBudget break and node drains hang.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from kapstan.resources.base import (
    AGE,
    NAME_LIMIT,
    POD_TEMPLATE_LIMIT,
    Column,
    JsonObject,
    Model,
    Resource,
    Status,
    Timestamp,
    name_rules,
)
from kapstan.resources.rule import Rule, at_most

SERVED = r"^[^\x00-\x20\x7f:]+(:[A-Za-z_][A-Za-z0-9_.]*)?$"
QueueName = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9._-]+$")]
TaskEntry = Annotated[str, Field(min_length=1, max_length=256)]


class Autoscaling(Model, frozen=True):
    """Between which bounds, and by what, the operator sets ``spec.replicas``."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "minReplicas",
            "minReplicas (%d) is greater than maxReplicas (%d): lower minReplicas or raise maxReplicas",
            lambda new, _: new.min_replicas <= new.max_replicas,
            "self.minReplicas <= self.maxReplicas",
            arguments=("minReplicas", "maxReplicas"),
        ),
    )

    min_replicas: int = Field(
        default=0, ge=0, le=100_000, description="Replicas that stay when there is nothing to do."
    )
    max_replicas: int = Field(ge=1, le=100_000, description="Replicas that are never exceeded.")
    target_backlog_per_replica: int = Field(
        default=10,
        ge=1,
        le=1_000_000,
        description="Runs (ready, due or claimed) that one replica is expected to work off.",
    )
    idle_seconds: int = Field(
        default=60, ge=0, le=31_622_400, description="Seconds without work after which a replica may go."
    )


class Drain(Model, frozen=True):
    """How a replica leaves."""

    timeout_seconds: int = Field(
        default=300,
        ge=0,
        le=31_622_400,
        description="Seconds that a replica gets to finish what it executes; after them its runs go back to the queue.",
    )


class TaskWorkerSpec(Model, frozen=True):
    """Which tasks are served, by how much."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "tasks",
            "tasks has an entry that names no code: write package.module or file.py, and :task for one task of it",
            lambda new, _: all(re.fullmatch(SERVED, task) for task in new.tasks),
            f"self.tasks.all(task, task.matches(r'{SERVED}'))",
        ),
        at_most("podTemplate", POD_TEMPLATE_LIMIT, instead="put what is large into a ConfigMap and mount it"),
    )

    image: str | None = Field(
        default=None,
        min_length=1,
        max_length=512,
        description="Container image with the tasks' code; needed on a cluster.",
    )
    directory: str | None = Field(
        default=None, min_length=1, max_length=4096, description="Directory with the tasks' code, for local mode."
    )
    tasks: list[TaskEntry] = Field(
        min_length=1,
        max_length=64,
        description="Code to serve: a module or file (all its tasks), or one task of it, such as shop.tasks:send_mail.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    queues: list[QueueName] = Field(
        default_factory=list[QueueName],
        max_length=64,
        description="Queues from which runs are claimed; none: default, and of each task the queue that it names.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    concurrency: int = Field(
        default=1, ge=1, le=1024, description="Runs that one replica executes at once, each in a process of its own."
    )
    replicas: int = Field(
        default=1,
        ge=0,
        le=100_000,
        description="Replicas that are wanted; written by the operator where autoscaling is set.",
    )
    autoscaling: Autoscaling | None = Field(
        default=None, description="Lets the operator set replicas by the queue's depth."
    )
    drain: Drain = Field(default=Drain(), description="How a replica leaves.")
    pod_template: JsonObject = Field(
        default_factory=JsonObject,
        description="PodTemplateSpec, merged strategically over a replica's pod; the container is called worker.",
    )
    suspend: bool = Field(default=False, description="Whether all replicas are taken away for now, drained.")


class LastDecision(Model, frozen=True):
    """What the autoscaler did last."""

    from_replicas: int = Field(description="Replicas before.")
    to_replicas: int = Field(description="Replicas after.")
    reason: str = Field(description="Why.")
    time: Timestamp | None = Field(default=None, description="When.")


class TaskWorkerStatus(Status, frozen=True):
    """What the operator knows of a TaskWorker."""

    replicas: int = Field(default=0, description="Replicas that exist.")
    ready_replicas: int = Field(default=0, description="Replicas that serve.")
    busy_replicas: int = Field(default=0, description="Replicas that execute at least one run.")
    draining_replicas: int = Field(default=0, description="Replicas that finish what they have and claim no more.")
    selector: str = Field(default="", description="Label selector of the replicas' pods, for the scale subresource.")
    backlog: int = Field(
        default=0,
        description="Ready runs that may begin now and are not claimed: none of a pause, none beyond a limit.",
    )
    oldest_age_seconds: float | None = Field(default=None, description="How long the oldest ready run has waited.")
    last_decision: LastDecision | None = Field(default=None, description="What the autoscaler did last.")


class TaskWorker(Resource, frozen=True):
    """Pods, or processes, that serve background tasks."""

    rules: ClassVar[tuple[Rule, ...]] = name_rules(NAME_LIMIT)

    kind: Literal["TaskWorker"] = Field(default="TaskWorker", description="TaskWorker.")
    spec: TaskWorkerSpec = Field(description="What is wanted.")
    status: TaskWorkerStatus = Field(default_factory=TaskWorkerStatus, description="What is, written by the operator.")

    plural: ClassVar[str] = "taskworkers"
    short_names: ClassVar[tuple[str, ...]] = ("tw",)
    columns: ClassVar[tuple[Column, ...]] = (
        Column("Desired", ".spec.replicas", "Replicas that are wanted.", "integer"),
        Column("Ready", ".status.readyReplicas", "Replicas that serve.", "integer"),
        Column("Busy", ".status.busyReplicas", "Replicas that execute.", "integer"),
        Column("Backlog", ".status.backlog", "Runs that wait.", "integer"),
        Column("Status", '.status.conditions[?(@.type=="Ready")].reason', "Why it is ready or not."),
        Column("Draining", ".status.drainingReplicas", "Replicas that are about to go.", "integer", priority=1),
        Column(
            "Oldest", ".status.oldestAgeSeconds", "Seconds that the oldest ready run has waited.", "number", priority=1
        ),
        Column("Image", ".spec.image", "The image.", priority=1),
        AGE,
    )
    scale: ClassVar[Mapping[str, str] | None] = {
        "specReplicasPath": ".spec.replicas",
        "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".status.selector",
    }

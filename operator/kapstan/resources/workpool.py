"""WorkPool (``wp``): infrastructure that runs flows, and how much of it may be used at once.

A pool of type kubernetes starts a Job per attempt, one of type process starts a child process. Who may write a WorkPool
chooses whose rights flows run with; who may only create FlowRuns does not.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from kapstan.resources.base import (
    AGE,
    NAME_LIMIT,
    POD_TEMPLATE_LIMIT,
    SUBDOMAIN,
    Column,
    JsonObject,
    Model,
    Reference,
    Resource,
    Status,
    Timestamp,
    name_rules,
)
from kapstan.resources.rule import Rule, at_most

PoolType = Literal["kubernetes", "process"]


class PoolConcurrency(Model, frozen=True):
    """How much may be in flight, and how fast it is launched."""

    max_in_flight: int | None = Field(
        default=None, ge=1, le=1_000_000, description="Attempts that may exist at once; no limit if not given."
    )
    launches_per_second: float = Field(
        default=10.0,
        gt=0,
        le=1000,
        description="Attempts started per second at most; the Job controller is what suffers first.",
    )


class PoolQueue(Model, frozen=True):
    """A line of runs that wait for the pool."""

    name: str = Field(min_length=1, max_length=63, description="Name of the queue, unique in the pool.")
    priority: int = Field(default=1, ge=1, le=1_000_000, description="Queues with a lower number go first.")
    limit: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="Attempts of this queue that may exist at once; no limit if not given.",
    )


class Deadlines(Model, frozen=True):
    """How long an attempt may take."""

    pending_seconds: int | None = Field(
        default=None,
        ge=1,
        le=315_360_000,
        description="Until user code runs: waiting for quota, finding a node, pulling the image, starting the "
        "container. If not given, 600 seconds from the moment at which a node is found; an attempt that waits for a "
        "node or for quota then waits as long as it takes.",
    )
    running_seconds: int | None = Field(
        default=None, ge=1, le=315_360_000, description="While user code runs; no limit if not given."
    )
    unreachable_seconds: int = Field(
        default=60,
        ge=1,
        le=315_360_000,
        description="After the end of its grace, until an attempt that was told to go and is not seen to end counts as "
        "lost (its node is lost, probably) and the next one starts.",
    )


class WorkPoolSpec(Model, frozen=True):
    """Infrastructure that runs flows."""

    rules: ClassVar[tuple[Rule, ...]] = (
        at_most("podTemplate", POD_TEMPLATE_LIMIT, instead="put what is large into a ConfigMap and mount it"),
    )

    type: PoolType = Field(
        default="kubernetes", description="kubernetes starts Jobs; process starts child processes of a Kapstan worker."
    )
    concurrency: PoolConcurrency = Field(
        default=PoolConcurrency(), description="How much may be in flight, and how fast."
    )
    queues: list[PoolQueue] = Field(
        default_factory=list[PoolQueue],
        max_length=64,
        description="Lines that runs wait in; a queue that is not listed has priority 1 and no limit.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    pod_template: JsonObject = Field(
        default_factory=JsonObject,
        description="PodTemplateSpec, merged strategically over an attempt's pod; the container is called flow.",
    )
    service_account_name: str | None = Field(
        default=None,
        min_length=1,
        max_length=253,
        pattern=SUBDOMAIN,
        description="ServiceAccount of the pods; its token is not mounted.",
    )
    image_pull_secrets: list[Reference] = Field(
        default_factory=list[Reference],
        max_length=32,
        description="Secrets with the credentials of image registries.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    deadlines: Deadlines = Field(default=Deadlines(), description="How long an attempt may take.")
    ttl_seconds_after_finished: int = Field(
        default=3600,
        ge=0,
        le=315_360_000,
        description="Seconds after which Kubernetes removes a finished Job that the operator has not removed.",
    )
    suspend: bool = Field(default=False, description="Whether no attempt is started for now; those in flight go on.")


class LastError(Model, frozen=True):
    """The last thing that went wrong for the pool as a whole."""

    message: str = Field(description="What went wrong, with the fix where there is one.")
    flow_run: str | None = Field(default=None, description="The FlowRun it went wrong for.")
    time: Timestamp | None = Field(default=None, description="When.")


class WorkPoolStatus(Status, frozen=True):
    """What the operator knows of a WorkPool."""

    in_flight: int = Field(default=0, description="Attempts that exist.")
    queued: int = Field(default=0, description="Runs that wait for the pool.")
    last_error: LastError | None = Field(default=None, description="The last thing that went wrong.")


class WorkPool(Resource, frozen=True):
    """Infrastructure that runs flows, and how much of it may be used at once."""

    rules: ClassVar[tuple[Rule, ...]] = name_rules(NAME_LIMIT)

    kind: Literal["WorkPool"] = Field(default="WorkPool", description="WorkPool.")
    spec: WorkPoolSpec = Field(description="What is wanted.")
    status: WorkPoolStatus = Field(default_factory=WorkPoolStatus, description="What is, written by the operator.")

    plural: ClassVar[str] = "workpools"
    short_names: ClassVar[tuple[str, ...]] = ("wp",)
    columns: ClassVar[tuple[Column, ...]] = (
        Column("Type", ".spec.type", "kubernetes or process."),
        Column("Ready", '.status.conditions[?(@.type=="Ready")].status', "Whether attempts can be started."),
        Column("In flight", ".status.inFlight", "Attempts that exist.", "integer"),
        Column("Max", ".spec.concurrency.maxInFlight", "Attempts that may exist at once.", "integer"),
        Column("Queued", ".status.queued", "Runs that wait.", "integer"),
        Column("Suspend", ".spec.suspend", "Whether no attempt is started for now.", "boolean", priority=1),
        Column("Last error", ".status.lastError.message", "The last thing that went wrong.", priority=1),
        AGE,
    )

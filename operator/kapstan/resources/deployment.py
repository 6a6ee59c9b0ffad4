"""Deployment (``kdep``): a flow, where it runs, and when. Not the Deployment of apps/v1.

Reconciled into FlowRuns; written by `flow.deploy()`, `flow.serve()` and by hand.
"""

from __future__ import annotations

import re
from typing import ClassVar, Literal

from pydantic import Field

from kapstan.resources.base import (
    AGE,
    LABEL,
    NAME_LIMIT,
    Column,
    JsonObject,
    Model,
    Parameters,
    Reference,
    Resource,
    Status,
    Timestamp,
    name_rules,
)
from kapstan.resources.flowrun import INLINE_PARAMETERS_LIMIT, Phase
from kapstan.resources.rule import Rule, at_most

ENTRYPOINT = r"^[^\x00-\x20\x7f:]+:[A-Za-z_][A-Za-z0-9_.]*$"
NEXT_RUNS = 3
WEEK = 7 * 24 * 3600

ConcurrencyPolicy = Literal["Allow", "Forbid", "Replace", "Queue"]
MissedRunsPolicy = Literal["Skip", "RunLatest", "RunAll"]

PARAMETERS_LIMIT = 32 * 1024
"""Bytes of a Deployment's parameters. A process is given them, a run's laid over them, as one variable, and Linux takes
none above 128 KiB; a character may grow to three times its bytes there."""
SCHEMA_LIMIT = 64 * 1024

ENTRYPOINT_RULE = Rule(
    "entrypoint",
    "entrypoint %s names no function: write package.module:function or file.py:function",
    lambda new, _: re.fullmatch(ENTRYPOINT, new.entrypoint) is not None,
    f"self.entrypoint.matches(r'{ENTRYPOINT}')",
    arguments=("entrypoint",),
)


class Flow(Model, frozen=True):
    """What is run."""

    rules: ClassVar[tuple[Rule, ...]] = (ENTRYPOINT_RULE,)

    entrypoint: str = Field(
        max_length=512, description="The flow's function, as package.module:function or path/to/file.py:function."
    )
    image: str | None = Field(
        default=None,
        min_length=1,
        max_length=512,
        description="Container image with the flow's code; needed by a pool of type kubernetes.",
    )
    directory: str | None = Field(
        default=None,
        min_length=1,
        max_length=4096,
        description="Directory with the flow's code, for a pool of type process; the process' working directory.",
    )


class Schedule(Model, frozen=True):
    """One source of runs; exactly one of cron, interval and rrule."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "cron",
            "exactly one of cron, interval and rrule must be set in a schedule: keep one, remove the others",
            lambda new, _: sum(value is not None for value in (new.cron, new.interval, new.rrule)) == 1,
            "[has(self.cron), has(self.interval), has(self.rrule)].filter(given, given).size() == 1",
        ),
        Rule(
            "anchor",
            "anchor goes with interval only: remove anchor, or use interval",
            lambda new, _: new.anchor is None or new.interval is not None,
            "!has(self.anchor) || has(self.interval)",
        ),
        at_most(
            "parameters",
            INLINE_PARAMETERS_LIMIT,
            instead="its runs carry no more; put what all runs have into the Deployment's parameters",
        ),
    )

    name: str = Field(
        max_length=63,
        pattern=LABEL,
        description="Name of the schedule, unique in the Deployment; part of its runs' names.",
    )
    cron: str | None = Field(
        default=None, min_length=1, max_length=256, description="Cron expression, such as 0 6 * * 1-5."
    )
    interval: int | None = Field(
        default=None, ge=1, le=31_622_400, description="Seconds between two runs, counted from anchor."
    )
    rrule: str | None = Field(
        default=None,
        min_length=1,
        max_length=1024,
        description="Recurrence rule of RFC 5545, such as FREQ=WEEKLY;BYDAY=MO.",
    )
    timezone: str = Field(
        default="UTC",
        min_length=1,
        max_length=64,
        description="IANA time zone in which the schedule is read, such as Europe/Berlin.",
    )
    anchor: Timestamp | None = Field(
        default=None, description="First moment of an interval; the creation of the Deployment if not given."
    )
    suspend: bool = Field(default=False, description="Whether this schedule makes no runs for now.")
    parameters: Parameters = Field(
        default_factory=JsonObject,
        description="Parameters of this schedule's runs, laid over the Deployment's; at most 2048 bytes as JSON.",
    )


class Concurrency(Model, frozen=True):
    """How many runs may be active at once."""

    limit: int = Field(
        default=1,
        ge=1,
        le=1_000_000,
        description="Active runs at which policy begins to act; Allow does not look at it.",
    )
    policy: ConcurrencyPolicy = Field(
        default="Allow",
        description="What happens to a new run at the limit: Allow starts it, Forbid drops it, Replace cancels the "
        "oldest for it, Queue lets it wait.",
    )


class MissedRuns(Model, frozen=True):
    """What happens to moments that passed while nobody could start a run."""

    policy: MissedRunsPolicy = Field(
        default="RunLatest",
        description="Skip lets all go, RunLatest makes up for the latest, RunAll for the latest max of each schedule.",
    )
    max: int = Field(default=10, ge=1, le=1000, description="Runs per schedule that RunAll makes up for at most.")


class HistoryLimits(Model, frozen=True):
    """How many finished FlowRuns that schedules made stay as objects; their records and results stay longer."""

    successful: int = Field(
        default=10, ge=0, le=1_000_000, description="Completed FlowRuns of schedules that are kept."
    )
    failed: int = Field(
        default=10, ge=0, le=1_000_000, description="Failed, crashed and cancelled FlowRuns of schedules that are kept."
    )


class DeploymentSpec(Model, frozen=True):
    """A flow, where it runs, and when."""

    rules: ClassVar[tuple[Rule, ...]] = (
        at_most(
            "parameters",
            PARAMETERS_LIMIT,
            instead="put what is large into the image or the object store and give its name, or give it to each run by "
            "parametersRef",
        ),
        at_most("parameterSchema", SCHEMA_LIMIT, instead="shorten its descriptions"),
    )

    flow: Flow = Field(description="What is run.")
    work_pool_ref: Reference = Field(description="The WorkPool whose infrastructure runs it.")
    queue: str = Field(
        default="default", max_length=63, pattern=LABEL, description="Queue of the WorkPool that its runs wait in."
    )
    parameters: Parameters = Field(
        default_factory=JsonObject, description="Parameters of every run, by name; at most 32 KiB as JSON."
    )
    parameter_schema: JsonObject = Field(
        default_factory=JsonObject, description="JSON schema of the parameters, from the flow's signature."
    )
    schedules: list[Schedule] = Field(
        default_factory=list[Schedule],
        max_length=32,
        description="When runs are made; none means on request only.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    concurrency: Concurrency = Field(default=Concurrency(), description="How many runs may be active at once.")
    missed_runs: MissedRuns = Field(default=MissedRuns(), description="What happens to moments that were missed.")
    starting_deadline_seconds: int | None = Field(
        default=None,
        ge=1,
        le=315_360_000,
        description="A run that could not be made within so many seconds of its moment counts as missed for good.",
    )
    infrastructure_retries: int = Field(
        default=5,
        ge=0,
        le=100,
        description="How often a run may lose its infrastructure (node, pod, process) and go on in a new attempt. "
        "Retries of the flow's own failures are set in its code.",
    )
    history_limits: HistoryLimits = Field(
        default=HistoryLimits(), description="How many finished FlowRuns of schedules are kept."
    )
    ttl_seconds_after_finished: int = Field(
        default=WEEK,
        ge=0,
        le=315_360_000,
        description="Seconds after its end when a FlowRun goes that no schedule made: one that was applied by a "
        "person or by GitOps, or asked for by a program. historyLimits do not touch it.",
    )
    suspend: bool = Field(
        default=False, description="Whether no schedule makes runs for now; runs on request still start."
    )


class LastRun(Model, frozen=True):
    """The run that was made last."""

    name: str = Field(description="Name of the FlowRun.")
    phase: Phase | None = Field(default=None, description="Its phase, as last seen.")
    scheduled_time: Timestamp | None = Field(default=None, description="The moment it was made for.")


class RunCounts(Model, frozen=True):
    """FlowRuns of this Deployment that exist as objects, by how they ended."""

    completed: int = Field(default=0, description="Runs that completed.")
    failed: int = Field(default=0, description="Runs that failed.")
    crashed: int = Field(default=0, description="Runs that crashed.")
    cancelled: int = Field(default=0, description="Runs that were cancelled.")


class ScheduleStatus(Model, frozen=True):
    """What one schedule did last."""

    name: str = Field(description="Name of the schedule.")
    last_schedule_time: Timestamp | None = Field(
        default=None, description="The latest moment that a run was made for, or that was let go."
    )
    definition: str | None = Field(
        default=None, description="Digest of when the schedule was due then; where it has changed, nothing was missed."
    )


class DeploymentStatus(Status, frozen=True):
    """What the operator knows of a Deployment."""

    next_runs: list[Timestamp] = Field(
        default_factory=list[Timestamp], max_length=NEXT_RUNS, description="The next moments over all schedules."
    )
    last_run: LastRun | None = Field(default=None, description="The run that was made last.")
    active: int = Field(default=0, description="FlowRuns that have not ended.")
    counts: RunCounts = Field(default=RunCounts(), description="FlowRuns that have ended, by how.")
    schedules: list[ScheduleStatus] = Field(
        default_factory=list[ScheduleStatus],
        description="What each schedule did last.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )


class Deployment(Resource, frozen=True):
    """A flow together with where it runs and when: makes FlowRuns. Not the Deployment of apps/v1."""

    rules: ClassVar[tuple[Rule, ...]] = name_rules(NAME_LIMIT)

    kind: Literal["Deployment"] = Field(default="Deployment", description="Deployment.")
    spec: DeploymentSpec = Field(description="What is wanted.")
    status: DeploymentStatus = Field(default_factory=DeploymentStatus, description="What is, written by the operator.")

    plural: ClassVar[str] = "deployments"
    short_names: ClassVar[tuple[str, ...]] = ("kdep",)
    columns: ClassVar[tuple[Column, ...]] = (
        Column("Pool", ".spec.workPoolRef.name", "The WorkPool that runs it."),
        Column("Ready", '.status.conditions[?(@.type=="Ready")].status', "Whether runs can be made."),
        Column("Active", ".status.active", "FlowRuns that have not ended.", "integer"),
        Column("Last", ".status.lastRun.phase", "Phase of the last run."),
        Column("Next", ".status.nextRuns[0]", "The next moment."),
        Column("Suspend", ".spec.suspend", "Whether its schedules are suspended.", "boolean", priority=1),
        Column("Entrypoint", ".spec.flow.entrypoint", "The flow.", priority=1),
        AGE,
    )

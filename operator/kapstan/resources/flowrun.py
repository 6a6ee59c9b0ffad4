"""FlowRun (``fr``): one run of a flow that was asked of the operator.

It carries no pod template, no service account and no image: who may create runs may not choose whose rights they
run with. What makes a run the run it is stays as it was created; cancel and suspend may be asked of it later.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from kapstan.resources.base import (
    AGE,
    SUBDOMAIN,
    Column,
    Model,
    Parameters,
    Reference,
    Resource,
    Status,
    Timestamp,
    name_rules,
)
from kapstan.resources.rule import Rule, immutable, json_size
from kapstan.states import AttemptOutcome

NAME_LIMIT = 63
"""A FlowRun's name is a label of its pods; its Job's name is cut and hashed where it would be longer."""

INLINE_PARAMETERS_LIMIT = 2048
"""Bytes of inline parameters, as compact JSON in UTF-8."""

Phase = Literal[
    "Scheduled", "Pending", "Running", "Suspended", "Cancelling", "Completed", "Failed", "Crashed", "Cancelled"
]
DiagnosisCategory = Literal[
    "ImagePull",
    "CrashLoop",
    "OOMKilled",
    "Evicted",
    "Preempted",
    "NodeLost",
    "Unschedulable",
    "QuotaExceeded",
    "NameTaken",
    "ConfigError",
    "DeadlinePending",
    "DeadlineRunning",
    "Killed",
    "Cancelled",
    "UserCode",
]

_ANOTHER_RUN = "create another FlowRun"


def inline_size(parameters: dict[str, Any]) -> int:
    """Bytes that these parameters count for the inline limit."""
    return json_size(parameters)


def _cannot_be_built_without(new: Any, old: Any) -> bool:  # noqa: ARG001 (the form of every rule)
    """For a field that the model itself requires."""
    return True


class DeploymentReference(Reference, frozen=True):
    """The Deployment that a run is a run of."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "name",
            "deploymentRef.name is empty: name the Deployment (kapstan.dev) to run",
            lambda new, _: new.name != "",
            "has(self.name) && self.name != ''",
            reason="FieldValueRequired",
        ),
    )

    name: str = Field(
        max_length=253,
        pattern=f"{SUBDOMAIN}|^$",  # an empty one is answered by the rule
        description="Name of the resource, in the same namespace.",
    )


class ParametersReference(Model, frozen=True):
    """Parameters too large to stand in the object."""

    key: str = Field(
        min_length=1,
        max_length=1024,
        pattern=r"^[!-~]+$",
        description="What `kapstan flow-run store-parameters` printed.",
    )


class FlowRunSpec(Model, frozen=True):
    """Which flow runs, with what."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "deploymentRef",
            "deploymentRef is missing: name the Deployment (kapstan.dev) to run",
            _cannot_be_built_without,
            "has(self.deploymentRef)",
            reason="FieldValueRequired",
        ),
        Rule(
            "parametersRef",
            "parameters and parametersRef exclude each other: remove one of them",
            lambda new, _: new.parameters is None or new.parameters_ref is None,
            "!has(dyn(self).parameters) || !has(self.parametersRef)",
        ),
        Rule(
            "parameters",
            f"parameters take more than {INLINE_PARAMETERS_LIMIT} bytes: store them with "
            "`kapstan flow-run store-parameters` and give parametersRef",
            lambda new, _: new.parameters is None or inline_size(new.parameters) <= INLINE_PARAMETERS_LIMIT,
        ),
        immutable("deploymentRef", instead=_ANOTHER_RUN),
        immutable("parameters", instead=_ANOTHER_RUN, untyped=True),
        immutable("parametersRef", instead=_ANOTHER_RUN),
        immutable("idempotencyKey", instead=_ANOTHER_RUN),
        immutable("scheduledTime", instead=_ANOTHER_RUN),
        Rule(
            "cancel",
            f"cancel cannot be taken back: {_ANOTHER_RUN}",
            lambda new, old: new.cancel or not old.cancel,
            "self.cancel || !oldSelf.cancel",
            reason="FieldValueForbidden",
        ),
        Rule(
            "resume",
            "resume can only grow: raise it by one to go on with the run",
            lambda new, old: new.resume >= old.resume,
            "self.resume >= oldSelf.resume",
            reason="FieldValueForbidden",
        ),
    )

    deployment_ref: DeploymentReference = Field(description="The Deployment (kapstan.dev) to run. Required, immutable.")
    parameters: Parameters | None = Field(
        default=None,
        description="Parameters by name, laid over the Deployment's; at most 2048 bytes as JSON, coerced by the flow's "
        "signature. Immutable.",
    )
    parameters_ref: ParametersReference | None = Field(
        default=None,
        description="Parameters that stand in the object store because they are large, laid over the Deployment's. "
        "Immutable.",
    )
    idempotency_key: str | None = Field(
        default=None,
        min_length=1,
        max_length=512,
        description="FlowRuns of one Deployment with the same key are the same run, also one after the other: an "
        "object that is made again does not execute it again. Immutable.",
    )
    scheduled_time: Timestamp | None = Field(
        default=None, description="The moment the run is for; it does not start before. Set by schedules. Immutable."
    )
    cancel: bool = Field(default=False, description="Set to stop the run; cannot be taken back.")
    suspend: bool = Field(default=False, description="Set to let the run rest without a process; unset to go on.")
    resume: int = Field(
        default=0,
        ge=0,
        le=1_000_000,
        description="Raise it to go on with a run that Failed, Crashed or is parked, from what it has finished: what "
        "failed is executed again, and the budget of infrastructure losses is new. Can only grow.",
    )


class Attempt(Model, frozen=True):
    """One process that executed the run, or tried to."""

    number: int = Field(ge=1, description="1 for the first.")
    job: str = Field(description="Name of the Job, or of the process.")
    pod: str | None = Field(default=None, description="Name of the pod.")
    node: str | None = Field(default=None, description="Name of the node.")
    reason: str | None = Field(default=None, description="Why the process ended, in one word, such as OOMKilled.")
    exit_code: int | None = Field(default=None, description="Exit code of the process.")
    started_at: Timestamp | None = Field(default=None, description="When the process started.")
    finished_at: Timestamp | None = Field(default=None, description="When it ended.")
    outcome: Annotated[AttemptOutcome, Field(strict=False)] | None = Field(
        default=None, description="How the attempt ended by the run's own record; Lost where it ended without one."
    )


class Diagnosis(Model, frozen=True):
    """What went wrong, and what to do about it."""

    category: DiagnosisCategory = Field(description="What went wrong, as one stable word.")
    message: str = Field(description="What went wrong, for a human.")
    resolution: str = Field(default="", description="What to do about it.")


class FlowRunStatus(Status, frozen=True):
    """What the operator knows of a run."""

    phase: Phase | None = Field(
        default=None, description="Where the run stands, derived from its record and its attempts."
    )
    run_id: str | None = Field(default=None, description="Id of the run, by which its record and its result are found.")
    name: str | None = Field(default=None, description="The run's two-word name, such as nimble-falcon.")
    attempts: list[Attempt] = Field(
        default_factory=list[Attempt],
        description="Attempts, each recorded before its Job is created.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["number"]},
    )
    infrastructure_losses: int = Field(
        default=0, description="Attempts that ended without a record; the Deployment limits them."
    )
    resumed: int = Field(default=0, description="The value of spec.resume that was followed last.")
    resumed_after: int = Field(default=0, description="Number of the last attempt before that; 0 if there was none.")
    result_ref: str | None = Field(default=None, description="Key of the result in the object store.")
    diagnosis: Diagnosis | None = Field(default=None, description="What went wrong, and what to do about it.")
    message: str | None = Field(default=None, description="The state in one sentence.")


class FlowRun(Resource, frozen=True):
    """One run of a flow, resumed from what it has finished until it ends."""

    rules: ClassVar[tuple[Rule, ...]] = name_rules(NAME_LIMIT)

    kind: Literal["FlowRun"] = Field(default="FlowRun", description="FlowRun.")
    spec: FlowRunSpec = Field(description="What is wanted.")
    status: FlowRunStatus = Field(default_factory=FlowRunStatus, description="What is, written by the operator.")

    plural: ClassVar[str] = "flowruns"
    short_names: ClassVar[tuple[str, ...]] = ("fr",)
    columns: ClassVar[tuple[Column, ...]] = (
        Column("Deployment", ".spec.deploymentRef.name", "The Deployment it is a run of."),
        Column("Phase", ".status.phase", "Where it stands."),
        Column("Attempt", ".status.attempts[-1:].number", "Number of the latest attempt.", "integer"),
        Column("Run", ".status.name", "The run's two-word name."),
        Column(
            "Losses", ".status.infrastructureLosses", "Attempts that lost their infrastructure.", "integer", priority=1
        ),
        Column("Diagnosis", ".status.diagnosis.category", "What went wrong.", priority=1),
        Column("Message", ".status.message", "The state in one sentence.", priority=1),
        AGE,
    )
    selectable_fields: ClassVar[tuple[str, ...]] = (".status.phase",)

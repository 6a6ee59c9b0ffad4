"""What runs here, as attributes: ``runtime.flow_run.id``, ``runtime.task_run.run_count``, ``runtime.deployment.name``.

Outside a run every attribute is None, and collections are empty.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from kapstan import ids
from kapstan.context import RunContext, current_flow, current_task, get_run_context


class _FlowRun:
    """The flow run of this thread or asyncio task."""

    @property
    def id(self) -> UUID | None:
        run = current_flow.get()
        return None if run is None else ids.to_uuid(run.run_id)

    @property
    def name(self) -> str | None:
        run = current_flow.get()
        return None if run is None else run.name

    @property
    def flow_name(self) -> str | None:
        run = current_flow.get()
        return None if run is None else run.spec.name

    @property
    def parameters(self) -> dict[str, Any]:
        run = current_flow.get()
        return {} if run is None else run.parameters

    @property
    def tags(self) -> list[str]:
        run = current_flow.get()
        return [] if run is None else sorted(run.tags)

    @property
    def run_count(self) -> int:
        """1 for the first execution of the flow's function, one more for each of its ``retries``."""
        run = current_flow.get()
        return 0 if run is None else run.run_count

    @property
    def attempt(self) -> int:
        """1 for the first process that executes this run, one more for each that goes on after a loss."""
        run = current_flow.get()
        return 0 if run is None else run.attempt

    @property
    def parent_flow_run_id(self) -> UUID | None:
        run = current_flow.get()
        return None if run is None or run.parent is None else ids.to_uuid(run.parent.run_id)

    @property
    def root_flow_run_id(self) -> UUID | None:
        run = current_flow.get()
        while run is not None and run.parent is not None:
            run = run.parent
        return None if run is None else ids.to_uuid(run.run_id)


class _TaskRun:
    """The task run of this thread or asyncio task."""

    @property
    def id(self) -> UUID | None:
        run = current_task.get()
        return None if run is None else ids.to_uuid(run.run_id)

    @property
    def name(self) -> str | None:
        run = current_task.get()
        return None if run is None else run.name

    @property
    def task_name(self) -> str | None:
        run = current_task.get()
        return None if run is None else run.task_name

    @property
    def parameters(self) -> dict[str, Any]:
        run = current_task.get()
        return {} if run is None else run.parameters

    @property
    def tags(self) -> list[str]:
        run = current_task.get()
        return [] if run is None else sorted(run.tags)

    @property
    def run_count(self) -> int:
        """1 for the first execution, one more for each retry."""
        run = current_task.get()
        return 0 if run is None else run.run_count

    @property
    def idempotency_key(self) -> str | None:
        """See ``kapstan.context.RunContext``, as for the attributes that follow."""
        run = current_task.get()
        return None if run is None else RunContext(run).idempotency_key

    @property
    def fencing_token(self) -> int | None:
        run = current_task.get()
        return None if run is None else RunContext(run).fencing_token

    @property
    def attempt(self) -> int:
        run = current_task.get()
        return 0 if run is None else run.run_count

    @property
    def deadline(self) -> float | None:
        run = current_task.get()
        return None if run is None else run.deadline

    @property
    def cancelled(self) -> bool:
        run = current_task.get()
        return False if run is None else run.cancelled

    def guard(self) -> None:
        """See ``kapstan.context.RunContext.guard``.

        Raises:
            MissingContextError: no task runs here.
        """
        get_run_context().guard()

    @property
    def flow_run_id(self) -> UUID | None:
        run = current_task.get()
        return None if run is None or run.flow_run_id is None else ids.to_uuid(run.flow_run_id)


class _Deployment:
    """The deployment that this flow run was made from."""

    @property
    def name(self) -> str | None:
        run = current_flow.get()
        return None if run is None or not run.deployment else run.deployment

    @property
    def parameters(self) -> dict[str, Any]:
        run = current_flow.get()
        return run.parameters if run is not None and run.deployment else {}


flow_run = _FlowRun()
task_run = _TaskRun()
deployment = _Deployment()

__all__ = ["deployment", "flow_run", "task_run"]

"""What a launcher tells the process that it starts, and what that process reads: arguments and environment, made here.

Both launchers (``cluster/kubernetes/render.py``, ``cluster/local/processes.py``) make their processes from these;
``kapstan run`` and ``kapstan task serve`` (``cli/run.py``, ``cli/task.py``) read them back into the same records.
Values stand here unescaped: whoever writes them into a place that expands or quotes must escape them for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from kapstan import ids
from kapstan.ids import RunId
from kapstan.ports.launcher import JobRequest

NAMESPACE: Final = "KAPSTAN_NAMESPACE"
ENTRYPOINT: Final = "KAPSTAN_FLOW_ENTRYPOINT"
PARAMETERS: Final = "KAPSTAN_PARAMETERS"
RUN_NAME: Final = "KAPSTAN_FLOW_RUN_NAME"
DEPLOYMENT: Final = "KAPSTAN_DEPLOYMENT"
WORKER_NAME: Final = "KAPSTAN_WORKER_NAME"
SESSION: Final = "KAPSTAN_SESSION"
"""First part of the session's name: a pod's UID or the launcher's name of the process, so that whoever sees it end can
end the session."""


@dataclass(frozen=True, slots=True)
class FlowRunLaunch:
    """One attempt of a flow run, executed by ``kapstan run``.

    Attributes:
        name: of the run; "" for the generated one.
        parameters: JSON values by name.
        parameters_ref: key of further ones in the store, laid over these; "" for none.
        again: a person asked to go on with a run that failed: what failed is executed again.
    """

    entrypoint: str
    run_id: RunId
    attempt: int
    namespace: str
    name: str = ""
    deployment: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])
    parameters_ref: str = ""
    again: bool = False

    @classmethod
    def of(cls, request: JobRequest, entrypoint: str, deployment: str) -> FlowRunLaunch:
        """What ``request`` starts.

        Args:
            entrypoint, deployment: of the request's Deployment: its flow's entrypoint, its name.
        """
        return cls(
            entrypoint,
            request.run_id,
            request.attempt,
            request.run.namespace,
            deployment=deployment,
            parameters=request.parameters,
            parameters_ref=request.parameters_ref or "",
            again=request.again,
        )

    def command(self) -> list[str]:
        """The arguments of ``kapstan``."""
        options = [f"--run-id={ids.to_uuid(self.run_id)}", f"--attempt={self.attempt}"]
        if self.parameters_ref:
            options.append(f"--parameters-ref={self.parameters_ref}")
        if self.again:
            options.append("--again")
        return ["run", *options, "--", self.entrypoint]

    def environ(self) -> dict[str, str]:
        """The variables beside the settings. Parameters stand here and not among the arguments: those are seen by every
        user of a machine."""
        return {
            NAMESPACE: self.namespace,
            RUN_NAME: self.name or ids.run_name(self.run_id),
            DEPLOYMENT: self.deployment,
            PARAMETERS: json.dumps(dict(self.parameters), separators=(",", ":")),
        }


@dataclass(frozen=True, slots=True)
class WorkerLaunch:
    """One process of a TaskWorker, executed by ``kapstan task serve``.

    Attributes:
        tasks: a task by ``module:name`` or ``file.py:name``, a module or file with all its tasks.
        concurrency: runs at a time.
        ready_file: exists while the worker serves; "" for none.
        queues: from which it claims; none: `default`, and of each task the queue that it names.
        session: see `SESSION`; "" where the launcher cannot know it beforehand (a pod's UID).
    """

    name: str
    namespace: str
    tasks: tuple[str, ...]
    concurrency: int
    drain_seconds: float
    ready_file: str = ""
    session: str = ""
    queues: tuple[str, ...] = ()

    def command(self) -> list[str]:
        """The arguments of ``kapstan``."""
        options = [f"--module={task}" for task in self.tasks if ":" not in task]
        options += [f"--limit={self.concurrency}", f"--drain-seconds={self.drain_seconds}"]
        options += [f"--queue={queue}" for queue in self.queues]
        if self.ready_file:
            options.append(f"--ready-file={self.ready_file}")
        return ["task", "serve", *options, "--", *(task for task in self.tasks if ":" in task)]

    def environ(self) -> dict[str, str]:
        """The variables beside the settings."""
        values = {NAMESPACE: self.namespace, WORKER_NAME: self.name}
        return values | ({SESSION: self.session} if self.session else {})

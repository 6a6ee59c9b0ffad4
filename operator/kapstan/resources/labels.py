"""Labels on what Kapstan makes: how a child is found again from its parent's name.

Read and written by the reconcilers and by the launcher on Kubernetes. A label is part of the interface: selectors of
users' own (dashboards, network policies) name them.
"""

from __future__ import annotations

MANAGED_LABEL, MANAGED = "app.kubernetes.io/managed-by", "kapstan"

DEPLOYMENT_LABEL = "kapstan.dev/deployment"
SCHEDULE_LABEL = "kapstan.dev/schedule"
FLOW_RUN_LABEL = "kapstan.dev/flow-run"
ATTEMPT_LABEL = "kapstan.dev/attempt"
WORK_POOL_LABEL = "kapstan.dev/work-pool"
TASK_WORKER_LABEL = "kapstan.dev/task-worker"

OWNER_UID = "kapstan.dev/owner-uid"
"""Annotation of a pod: uid of the FlowRun or TaskWorker that it is for. A name may have belonged to another one."""

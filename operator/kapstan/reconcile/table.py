"""Every kind that is reconciled: the one table that loop, informers, roles and local mode read.

To add a kind: its model in `kapstan.resources`, a folder in `kapstan.reconcile.kinds`, a line here.
"""

from __future__ import annotations

from kapstan.ports import Kind
from kapstan.reconcile.kinds.deployment import DeploymentReconciler
from kapstan.reconcile.kinds.flow_run import FlowRunReconciler
from kapstan.reconcile.kinds.task_worker import TaskWorkerReconciler
from kapstan.reconcile.kinds.work_pool import WorkPoolReconciler
from kapstan.reconcile.reconciler import Reconciler

TABLE: tuple[Reconciler, ...] = (
    DeploymentReconciler(),
    WorkPoolReconciler(),
    TaskWorkerReconciler(),
    FlowRunReconciler(),
)

KINDS: tuple[Kind, ...] = tuple(reconciler.kind for reconciler in TABLE)

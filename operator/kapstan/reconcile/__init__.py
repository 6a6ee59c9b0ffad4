"""The control plane's decisions: what is wanted and what is seen become a plan, and the loop carries it out.

One pure file per kind (`flow_run`, `work_pool`, `deployment`, `task_worker`): `reconcile(observed, now) -> Plan`.
`Loop` runs them from a keyed work queue over the ports `Cluster` and `Launcher`; the operator feeds it from kopf, local
mode from the change feed of its store. Nothing here knows kopf, Kubernetes, processes or user code.
"""

from __future__ import annotations

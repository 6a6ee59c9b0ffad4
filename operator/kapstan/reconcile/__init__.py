"""The control plane's decisions: what is wanted and what is seen become a plan, and the loop carries it out.

One folder per kind below `kinds`, registered in `table`. `Loop` takes their turns from a keyed work queue, over the
ports `Cluster` and `Launcher`; the operator feeds it from kopf, local mode from the change feed of its store. Nothing
here knows kopf, Kubernetes' API, processes or user code.
"""

from __future__ import annotations

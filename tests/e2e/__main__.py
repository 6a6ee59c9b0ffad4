"""``python -m tests.e2e``: the product and the quickstart's image on the cluster that ``make cluster-up`` brought up.

`make demo CLUSTER=1` runs there afterwards. Elsewhere a user does the same by docker, a registry and helm, as
docs/kubernetes.md says.
"""

from __future__ import annotations

import sys

from tests.cluster import provider, tools
from tests.cluster.errors import ClusterUnavailable, CommandFailed
from tests.cluster.progress import Progress
from tests.e2e import product


def main() -> int:
    try:
        _, cluster = provider.status()
        if cluster is None:
            raise ClusterUnavailable("no cluster is up; `make cluster-up` first")
        progress = Progress()
        product.make_namespaces(cluster)
        product.load_images(cluster, progress)
        image = product.load_user_image(cluster, "quickstart", product.QUICKSTART, progress)
        with progress.step("chart"):
            product.install(cluster)
    except (ClusterUnavailable, CommandFailed) as failure:
        print(f"tests.e2e: {failure}", file=sys.stderr)
        return 1
    print(f"export KUBECONFIG={cluster.kubeconfig} PATH=$PATH:{tools.path('kubectl').parent}")
    print(f"make demo CLUSTER=1 NAMESPACE={product.DEMO} IMAGE={image}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

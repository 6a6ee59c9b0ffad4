"""The demo that the README names, on the cluster: the same script as on a laptop, only the launcher differs."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.cluster import tools
from tests.cluster.progress import Progress
from tests.e2e import product
from tests.e2e.conftest import Installed


def test_the_demo_runs_on_the_cluster(installed: Installed) -> None:
    image = product.load_user_image(installed.cluster, "quickstart", product.QUICKSTART, Progress())
    environ = os.environ | {
        "KUBECONFIG": str(installed.cluster.kubeconfig),
        "PATH": f"{os.environ['PATH']}{os.pathsep}{tools.path('kubectl').parent}",
    }
    script = product.QUICKSTART / "demo.py"
    command = [sys.executable, script, "--cluster", f"--namespace={product.DEMO}", f"--image={image}"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)
    assert "attempt 1 executed reserve, charge, pick" in done.stdout
    assert "attempt 2 executed" in done.stdout
    assert "24 of 24 results are there" in done.stdout
    assert "state Completed" in done.stdout
    left = installed.cluster.kubectl("get", "kapstan", "-n", product.DEMO, "-o", "name")
    assert left == ""

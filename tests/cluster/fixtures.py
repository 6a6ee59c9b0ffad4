"""The fixture ``cluster`` of the end-to-end tier, which imports it; as a plugin of all tests, only the hook.

A cluster that ``make cluster-up`` brought up is used and left; otherwise one is brought up, and taken down as soon as
the tests of the tier have ended: it would take a good part of a core from all that come after. Where none can be had,
tests that ask for it are skipped with the reason, and fail under CI=true.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from tests.cluster import packages, provider
from tests.cluster.cluster import Cluster
from tests.cluster.errors import ClusterUnavailable
from tests.cluster.progress import Progress


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bringing a cluster up may take many minutes, once. A test's time limit is for the test, not for that."""
    for item in items:
        if "cluster" in getattr(item, "fixturenames", ()) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(300, func_only=True))


@pytest.fixture(scope="package")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A running Kubernetes; see ``tests.cluster.cluster.Cluster`` for what it offers."""
    capture: Any = request.config.pluginmanager.getplugin("capturemanager")
    with ExitStack() as stack:
        found: Cluster | str
        with ExitStack() as shown:  # a person who waits for minutes wants to see for what
            if capture is not None:
                shown.enter_context(capture.global_and_fixture_disabled())
            try:
                found = stack.enter_context(provider.session(packages.may_install(False), Progress()))
            except ClusterUnavailable as unavailable:
                found = f"no cluster: {unavailable}"
        if isinstance(found, Cluster):
            yield found
        elif os.environ.get("CI") == "true":
            pytest.fail(found, pytrace=False)
        else:
            pytest.skip(found)

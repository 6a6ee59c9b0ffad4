"""A real API server that serves our four kinds, for every contract that has one for an adapter."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cluster.errors import ClusterUnavailable
from tests.cluster.progress import Progress
from tests.contract import apiserver

CRDS = Path(__file__).parents[2] / "crds"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Building the API server, once, takes minutes: a test's time limit is for the test."""
    for item in items:
        if "api_server" in getattr(item, "fixturenames", ()) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(120, func_only=True))


@pytest.fixture(scope="session")
def api_server(request: pytest.FixtureRequest) -> Iterator[apiserver.ApiServer]:
    """etcd and kube-apiserver on loopback, without a node."""
    with contextlib.ExitStack() as shown:  # a person who waits for a build wants to see for what
        capture: Any = request.config.pluginmanager.getplugin("capturemanager")
        if capture is not None:
            shown.enter_context(capture.global_and_fixture_disabled())
        try:
            apiserver.build(Progress())
        except ClusterUnavailable as reason:
            pytest.skip(f"no API server: {reason}")
    with apiserver.running() as started:
        definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        for path in sorted(CRDS.glob("*.yaml")):
            answer = started.request("POST", definitions, yaml.safe_load(path.read_text()))
            assert answer.code == 201, answer.message
        waited = started.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd", "--all")
        assert waited.returncode == 0, waited.stderr
        yield started

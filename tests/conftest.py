"""What every tier shares: a clean environment, and the rule that CI knows no skips.

A service that is missing skips a test on a laptop, with one reason; under CI=true the same skip is a failure. Rows that
need the machine of the cluster's node are left out, by name, when the cluster is somebody else's
(KAPSTAN_TEST_KUBECONFIG).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cluster import packages, tools
from tests.cluster.errors import ClusterUnavailable, CommandFailed
from tests.cluster.progress import Progress

from kapstan import settings

GROUPS = {
    # Each in one process and begun first: they mostly wait, the one for leases and clocks, the other for its cluster.
    "cluster": ("e2e",),
    "workers": ("integration/worker",),
    # In one process, since it sums up; begun when the cluster is done, since both make the machine busy.
    "chaos": ("chaos",),
    # In one process: one API server is enough.
    "api server": ("contract/cluster", "contract/kubernetes", "contract/test_bad_samples"),
}
"""What `make test`, which runs four tests at a time, gives to one process."""
FIRST = ("cluster", "workers")

IN_CI = os.environ.get("CI", "").lower() in ("1", "true")
pytest_plugins = ["tests.cluster.fixtures"]


def pytest_configure() -> None:
    """A shell has what it puts into the background ignore SIGINT; every process of a test would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run side by side, what takes longest is begun first; else the quick tiers first. A borrowed cluster has no rows
    that need its node."""
    order = {"unit": 0, "contract": 1, "chaos": 2, "property": 3, "model": 4, "integration": 5, "e2e": 6}
    tests = Path(__file__).parent
    places = {item: item.path.relative_to(tests).as_posix() for item in items}
    longest = {name: place for place, name in enumerate(FIRST)} if "PYTEST_XDIST_WORKER" in os.environ else {}
    items.sort(
        key=lambda item: (
            longest.get(_group(places[item]), len(longest)),
            order.get(places[item].partition("/")[0], 9),
        )
    )
    if os.environ.get("KAPSTAN_TEST_KUBECONFIG"):
        left_out = [item for item in items if item.get_closest_marker("node")]
        if left_out:
            config.hook.pytest_deselected(items=left_out)
            items[:] = [item for item in items if not item.get_closest_marker("node")]
            config.stash[_NOT_APPLICABLE] = [item.nodeid for item in left_out]


def _group(place: str) -> str:
    """The group of a test by its path below this folder; empty for those that any process may run."""
    return next((name for name, places in GROUPS.items() if place.startswith(places)), "")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Tests of a group go to one process together. (`--dist loadgroup` does not see groups under pytest 9.2.)"""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _group(nodeid.removeprefix("tests/")) or nodeid

    return ByGroup(config, log)


def pytest_collection_finish(session: pytest.Session) -> None:
    """In CI, what the tiers beyond `unit` need is installed and built before the first test, whose limits are its own.

    What cannot be had is said by the tests that miss it.
    """
    beyond = any("unit" not in item.path.parts for item in session.items)
    if not IN_CI or not beyond or session.config.option.collectonly:
        return
    capture: Any = session.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        for prepare in (lambda: packages.ensure(True, Progress()), lambda: tools.ensure(tools.TEST_TOOLS, Progress())):
            try:
                prepare()
            except (ClusterUnavailable, CommandFailed) as reason:
                Progress().note(f"not prepared: {reason}")


_NOT_APPLICABLE = pytest.StashKey[list[str]]()


def pytest_sessionfinish(session: pytest.Session) -> None:
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:  # of a process of pytest-xdist: the one that started it writes the summary
        output["not_applicable"] = session.config.stash.get(_NOT_APPLICABLE, [])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    left_out = getattr(node, "workeroutput", {}).get("not_applicable")
    if left_out:
        node.config.stash[_NOT_APPLICABLE] = left_out


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for node_id in config.stash.get(_NOT_APPLICABLE, []):
        terminalreporter.write_line(f"not applicable (needs the cluster's node): {node_id}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if IN_CI and report.skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {reason}"
    return report


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No setting of the user's reaches a test; the home is the test's own folder."""
    for name in os.environ:
        if name.startswith(("KAPSTAN_", "PREFECT_")) and not name.startswith("KAPSTAN_TEST_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("KAPSTAN_HOME", str(tmp_path / "home"))
    settings.use(None)
    yield
    settings.use(None)

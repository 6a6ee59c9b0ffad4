"""Chooses how a cluster is had, and who may take it down again.

Order: the cluster named by KAPSTAN_TEST_KUBECONFIG; one that is up already; kind where a docker daemon answers; a node
of our own. Called by the command line and by the fixture.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from types import ModuleType

from tests.cluster import docker, kind, machine, named, node
from tests.cluster.cluster import Cluster
from tests.cluster.errors import ClusterUnavailable
from tests.cluster.progress import Progress
from tests.cluster.state import Record, State

_PROVIDERS: dict[str, ModuleType] = {kind.NAME: kind, node.NAME: node}


def up(install: bool, progress: Progress) -> Cluster:
    """Bring a cluster up that stays until ``down``. One that is up already is used. Raises ClusterUnavailable."""
    cluster = named.attach()
    if cluster is not None:
        return cluster
    state = State.locate()
    with state.locked(progress.note):
        running = _attach(state) or _start(state, True, install, progress)
        state.keep()
        return running


def down(force: bool, progress: Progress) -> bool:
    """Take down what is up, or what a run that died has left. False where there was nothing.

    Raises ClusterUnavailable while a test run uses it, unless *force*.
    """
    state = State.locate()
    with state.locked(progress.note):
        record = state.record()
        if record is None and not state.root.exists():
            return False
        if state.in_use() and not force:
            raise ClusterUnavailable("a test run is using the cluster; wait for its end, or say `down --force`")
        _stop(state, record, progress)
        return True


def status() -> tuple[Record | None, Cluster | None]:
    """What is written down, and the cluster if it answers. Changes nothing. Raises ClusterUnavailable."""
    cluster = named.attach()
    if cluster is not None:
        return None, cluster
    state = State.locate()
    return state.record(), _attach(state)


@contextmanager
def session(install: bool, progress: Progress) -> Generator[Cluster]:
    """A cluster for the tests of this process, and of no other until they end: they install and kill what all would
    share. It is taken down at the end, unless a person had brought it up. Raises ClusterUnavailable."""
    cluster = named.attach()
    if cluster is not None:
        yield cluster
        return
    state = State.locate()
    cluster, membership = enter(state, install, progress)
    try:
        yield cluster
    finally:
        with state.locked(progress.note):
            os.close(membership)
            record = state.record()
            if record is not None and not record.kept:
                _stop(state, record, progress)


def enter(state: State, install: bool, progress: Progress, patience: float = machine.PATIENCE) -> tuple[Cluster, int]:
    """The cluster, and the descriptor by which this process counts as its user."""
    deadline, told = time.monotonic() + patience, False
    while True:
        with state.locked(progress.note):
            if not state.in_use():
                return _attach(state) or _start(state, False, install, progress), state.join()
        if not told:
            progress.note(f"another test run uses the cluster: waiting (its state: {state.root})")
            told = True
        if time.monotonic() > deadline:
            raise ClusterUnavailable(f"another test run has used the cluster of {state.root} for {patience:g} s")
        time.sleep(1)


def _attach(state: State) -> Cluster | None:
    record = state.record()
    if record is None:
        return None
    cluster: Cluster | None = _PROVIDERS[record.provider].attach(state, record)
    return cluster


def _start(state: State, kept: bool, install: bool, progress: Progress) -> Cluster:
    if state.root.exists():
        progress.note("what is left of an earlier run is removed first")
        _stop(state, state.record(), progress)
    chosen: ModuleType = kind if docker.answers() else node
    cluster: Cluster = chosen.bring_up(state, kept, install, progress)
    return cluster


def _stop(state: State, record: Record | None, progress: Progress) -> None:
    with progress.step("take the cluster down"):
        if record is None:
            state.remove()
        else:
            _PROVIDERS[record.provider].take_down(state)

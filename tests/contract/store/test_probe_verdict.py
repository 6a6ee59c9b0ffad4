"""A store that passed the probe is not probed again for a while; nothing but a fresh verdict spares it."""

from __future__ import annotations

import pytest
from tests.contract.store.crashing import CrashingStore

from kapstan.ports import Store
from kapstan.store.probe import VERDICT_SECONDS, probe_when_due

ROUTE = "http://minio:9000"
NOW = 1_800_000_000.0


def is_probed(store: Store, route: str, now: float) -> bool:
    counting = CrashingStore(store)
    probe_when_due(counting, route, now)
    return counting.creates > 0


def test_one_probe_serves_all_processes_for_a_while(store: Store) -> None:
    assert is_probed(store, ROUTE, NOW)
    assert not is_probed(store, ROUTE, NOW)
    assert not is_probed(store, ROUTE, NOW + VERDICT_SECONDS)
    assert is_probed(store, ROUTE, NOW + VERDICT_SECONDS + 1)


def test_another_route_is_probed_for_itself(store: Store) -> None:
    assert is_probed(store, ROUTE, NOW)
    assert is_probed(store, "http://proxy:9000", NOW)


@pytest.mark.parametrize("verdict", [b"", b"1", b"1 soon", b"2 1800000000", b"1 1800009999", b"\xff\xfe"])
def test_a_verdict_that_says_nothing_spares_nothing(store: Store, verdict: bytes) -> None:
    assert is_probed(store, ROUTE, NOW)
    (key,) = [key for key in store.keys("probe/") if "passed" in key]
    store.put(key, verdict)
    assert is_probed(store, ROUTE, NOW)

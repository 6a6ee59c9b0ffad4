"""Every call of the store on the way of a keyed run x before and after x four classes x two stores: a process is killed
there, and another makes the same call. Nothing is lost, nothing is committed twice, no effect happens that may not."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.integration.keyed import charging
from tests.integration.keyed.conftest import Processes

from kapstan import backend as backends
from kapstan.ports.register import RegisterRecord, RegisterState
from kapstan.runs.parked import ParkedKeys
from kapstan.settings import Settings

CLASSES = ("pure", "idempotent", "at_most_once", "transactional")
LARGE = 20_000  # above ``inline_bytes``: the result is an object of its own
MOST = 20


def register_of(order: str) -> RegisterRecord | None:
    """What stands in the register of the only key."""
    register = backends.current().register
    found = [key for key in register.all_keys() if key.task == "keyed-charge"]
    assert len(found) <= 1, order
    entry = register.read(found[0]) if found else None
    return None if entry is None else entry.record


def clear() -> None:
    store = backends.current().store
    store.delete(list(store.keys("registers/")))


@pytest.mark.parametrize("size", [0, LARGE])
@pytest.mark.parametrize("name", CLASSES)
def test_every_crash_point(setting: Settings, processes: Processes, tmp_path: Path, name: str, size: int) -> None:
    points = lost = dup_commit = dup_effect = 0
    for number in range(1, MOST):
        died = 0
        for position in ("before", "after"):
            clear()
            order = f"order-{number}-{position}"
            asked = {"class": name, "folder": str(tmp_path), "order": order, "size": size}
            code, _ = processes.run(setting, die_at=[number, position], **asked)
            assert code in (0, -9)
            died += code == -9
            left = register_of(order)
            code, result = processes.run(setting, **asked)
            assert code == 0, f"{number} {position}: the second process failed"
            points += 1
            done = charging.effects(tmp_path, order)
            after = register_of(order)
            assert after is not None
            if name == "at_most_once":
                dup_effect += len(done) > 1
                in_doubt = left is not None and left.state is RegisterState.INTENT
                assert (result == "parked") is in_doubt, "parked, and only those whose fault makes them ambiguous"
            if name in ("idempotent", "transactional"):
                keys, tokens = {line[1] for line in done}, [line[2] for line in done]
                dup_effect += len(keys) > 1 or tokens != sorted(set(tokens))
            if result == "parked":
                assert after.state is RegisterState.PARKED
                assert "is gone" in after.evidence["seen"]
                result = _resolved(processes, setting, asked, happened=bool(done))
                done, after = charging.effects(tmp_path, order), register_of(order)
                assert after is not None
                dup_effect += len(done) > 1
            lost += result != [order, "x" * size] or not done
            if left is not None and left.state is RegisterState.COMMITTED:
                dup_commit += after.nonce != left.nonce
            assert after.state is RegisterState.COMMITTED
            if not died:
                break
        if not died:
            break
    else:
        pytest.fail("the calls of the store do not end")
    print(f"points={points} lost={lost} dup_commit={dup_commit} dup_effect={dup_effect}")
    assert points >= 5, "the points were not reached"
    assert (lost, dup_commit, dup_effect) == (0, 0, 0)


def _resolved(processes: Processes, setting: Settings, asked: dict[str, object], *, happened: bool) -> object:
    """A person says what is so; then the call gives a result."""
    parked = ParkedKeys(backends.current())
    (key,) = [key for key in backends.current().register.all_keys() if key.task == "keyed-charge"]
    if happened:
        parked.say_applied(key, [asked["order"], "x" * int(str(asked["size"]))])
    else:
        parked.say_not_applied(key)
    code, result = processes.run(setting, **asked)
    assert code == 0
    return result

"""A process that races for keys: begins and commits every key that it wins, and prints what it won.

``python racer.py HOME NAMESPACE ENDPOINT KEYS NAME``; credentials are those of the tests' MinIO. It begins when its
input says so; in the mode ``dies`` it is killed by itself in the middle of a write to the local store.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from tests.servers.minio import ACCESS_KEY, BUCKET, SECRET_KEY

from kapstan.backend import Backend
from kapstan.ports.register import RegisterEvent, RegisterKey
from kapstan.settings import Settings
from kapstan.states import EffectClass
from kapstan.store.local import LocalStore

ONCE = EffectClass.AT_MOST_ONCE


def main(home: str, namespace: str, endpoint: str, keys: int, name: str, dies: str = "") -> None:
    remote: dict[str, Any] = {}
    if endpoint:
        remote = {
            "s3_endpoint": endpoint,
            "s3_bucket": BUCKET,
            "s3_access_key": ACCESS_KEY,
            "s3_secret_key": SECRET_KEY,
        }
    backend = Backend(Settings(home=home, namespace=namespace, **remote))
    register = backend.register
    if dies:
        _die_at(dies)
    print("ready", flush=True)
    sys.stdin.readline()
    won: list[int] = []
    for number in range(keys):
        key = RegisterKey("race:charge", f"key{number}")
        intent = register.change(key, None, RegisterEvent.BEGIN, ONCE, evidence={"by": name})
        if intent is not None:
            assert register.change(key, intent, RegisterEvent.COMMIT, ONCE, result=name.encode()) is not None
            won.append(number)
    print(json.dumps(won), flush=True)
    backend.close()


def _die_at(moment: str) -> None:
    """SIGKILL in the middle of the first write: when half of the bytes are there, before they are put in place, or
    right after."""

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    place = LocalStore._place

    def dying(self: LocalStore, move: Any, aside: Path, path: Path) -> None:
        if moment == "half written":
            body = aside.read_bytes()
            aside.write_bytes(body[: len(body) // 2])
            die()
        if moment == "after":
            place(self, move, aside, path)
        die()

    LocalStore._place = dying


if __name__ == "__main__":
    main(*sys.argv[1:4], int(sys.argv[4]), *sys.argv[5:])

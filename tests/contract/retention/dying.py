"""Sweeps once and kills itself (SIGKILL) before its n-th change of store or index; run by ``test_at_once``.

    python dying.py SETTINGS_AS_JSON NOW N

Exit code 0: there were fewer changes than that.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
from typing import Any

from kapstan.backend import Backend
from kapstan.runs.retention import DAY, Ages, Held
from kapstan.runs.sweep import Sweep
from kapstan.settings import Settings

CHANGES = ("create", "put", "replace", "delete_each")


def main(settings: dict[str, Any], now: float, last: int) -> None:
    backend = Backend(Settings(**settings))
    numbers = itertools.count(1)

    def deadly(change: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            if next(numbers) == last:
                os.kill(os.getpid(), signal.SIGKILL)
            return change(*arguments, **options)

        return call

    store: Any = backend.store
    for name in CHANGES:
        setattr(store, name, deadly(getattr(store, name)))
    index: Any = backend.flow_runs
    index.delete = deadly(index.delete)
    os.unlink = deadly(os.unlink)  # files of the local store
    os.write = deadly(os.write)
    logs = store.log

    def log(name: str) -> Any:
        made = logs(name)
        made.clear = deadly(made.clear)
        return made

    store.log = log
    Sweep(backend, Ages(30 * DAY, registers=30 * DAY), Held(), now=now).run()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))

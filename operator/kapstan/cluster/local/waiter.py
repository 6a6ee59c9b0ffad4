"""Starts one command and waits for it: the parent of every process that local mode launches.

Run by file name, with a folder and the command, by `processes`; it imports nothing of Kapstan. A launcher may be killed
and another may take over, and neither of them is then the parent that learns the exit code. So this small process is:
it writes down who it started and how that ended.

In the folder: ``lock`` (held as long as it or its command lives, so that there is only ever one), ``alive`` (a named
pipe that ends with this process: the launcher's bell), ``pid``, ``exit`` and ``log``.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time


def main(folder: str, command: list[str]) -> int:
    lock = os.open(f"{folder}/lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 0  # another waiter has this attempt
    if os.path.exists(f"{folder}/pid") or os.path.exists(f"{folder}/exit"):
        return 0  # it was started before; never again
    if os.fork():
        return 0  # whoever launches waits for this much only; the lock stays with the one that goes on
    os.open(f"{folder}/alive", os.O_RDWR)  # kept open until this process ends
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # meant for the command; whoever means it sends it there
    log = os.open(f"{folder}/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=(lock,),
            restore_signals=True,
            preexec_fn=_default_signals,  # noqa: PLW1509  (one thread, nothing imported)
        )
    except OSError as error:
        os.write(log, f"{command[0]} cannot be started: {error}\n".encode())
        _write(folder, "exit", {"code": 127, "at": time.time()})
        return 0
    _write(folder, "pid", {"pid": child.pid, "at": time.time()})
    code = child.wait()
    _write(folder, "exit", {"code": code, "at": time.time()})
    return 0


def _default_signals() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _write(folder: str, name: str, value: dict[str, float]) -> None:
    with open(f"{folder}/.{name}", "w") as file:
        json.dump(value, file)
    os.replace(f"{folder}/.{name}", f"{folder}/{name}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))

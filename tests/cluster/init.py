"""The first process of a node of our own, and the only handle on it: when it ends, the kernel ends everything else.

It is PID 1 of a process namespace with network and mounts of its own, so ending it ends every daemon and every pod, and
with the last of them go the mounts, the network links and the routes. Started by ``node`` only, as a script and without
this package: ``init.py KEEP...``, KEEP being the directories that the daemons must see.

It takes one JSON request per line from its standard input and answers each by one line. If the input ends before the
request ``ready``, the run that was bringing the node up is dead, and the node ends too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

# Daemons write there whatever they are told (kubelet, containerd, network plugins): hidden, so nothing is left behind.
PRIVATE = ("/run", "/var/lib", "/var/log")

daemons: dict[int, str] = {}


def hide(keep: list[str]) -> None:
    """Cover the PRIVATE directories with empty ones in which only *keep* is still to be seen."""
    kept = [(os.open(path, os.O_PATH | os.O_CLOEXEC), path) for path in keep]
    for path in PRIVATE:
        subprocess.run(["mount", "-n", "-t", "tmpfs", "-o", "mode=0755", "kapstan-test", path], check=True)
    for descriptor, path in kept:
        if path.startswith(tuple(f"{covered}/" for covered in PRIVATE)):
            os.makedirs(path, exist_ok=True)
            source = f"/proc/{os.getpid()}/fd/{descriptor}"
            subprocess.run(["mount", "-n", "--bind", source, path], check=True)
        os.close(descriptor)


def start(name: str, argv: list[str], log: str, cwd: str) -> None:
    with open(log, "ab") as output:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=cwd, start_new_session=True
        )
    daemons[process.pid] = name
    process.returncode = 0  # reaped by the loop below, which also reaps what the daemons leave behind


def reap(flags: int) -> list[str]:
    """Collect children that have ended; the daemons among them, told in one line each."""
    ended: list[str] = []
    while True:
        try:
            pid, status = os.waitpid(-1, flags)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        if pid in daemons:
            ended.append(f"{daemons.pop(pid)} ended with {os.waitstatus_to_exitcode(status)}")
            if not flags:
                print(ended[-1], file=sys.stderr, flush=True)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    if request["do"] == "run":
        done = subprocess.run(request["argv"], capture_output=True, text=True, check=False)
        return {"code": done.returncode, "output": done.stdout + done.stderr}
    if request["do"] == "start":
        start(request["name"], request["argv"], request["log"], request["cwd"])
        return {}
    return {"ended": reap(os.WNOHANG)}


def main() -> int:
    hide(sys.argv[1:])
    print(json.dumps({}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "ready":
            break
        print(json.dumps(answer(request)), flush=True)
    else:
        return 1
    print(json.dumps({}), flush=True)
    reap(0)
    return 0


if __name__ == "__main__":
    sys.exit(main())

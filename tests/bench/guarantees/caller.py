"""One caller, a process of its own.

``python -m tests.bench.guarantees.caller MODULE TASK USER AMOUNT SECONDS`` hands a call in, prints ``sent``, waits so
long for its answer and prints that; ``MODULE submit TIMES`` prints how long so many submits of a no-op take.
"""

from __future__ import annotations

import importlib
import sys
import time


def main() -> None:
    side = importlib.import_module(sys.argv[1])
    if sys.argv[2] == "submit":
        for _ in range(20):  # connections are made
            side.send("noop")
        begun = time.perf_counter()
        for _ in range(int(sys.argv[3])):
            side.send("noop")
        print(time.perf_counter() - begun)
        return
    task, user, amount, seconds = sys.argv[2:]
    sent = side.send(task, user, int(amount))
    print("sent", flush=True)
    try:
        print(side.answer(sent, float(seconds)))
    except Exception as error:  # noqa: BLE001  (what a caller gets is what is looked at)
        name = type(error).__name__
        print("no answer" if "Timeout" in name else name)


if __name__ == "__main__":
    main()

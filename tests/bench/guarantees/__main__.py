"""``python -m tests.bench.guarantees``: eight experiments against Celery, dramatiq and Kapstan, and one table.

Each is made with real processes, killed by SIGKILL, and a Redis with its append-only file; effects are lines of a file
outside of every system, on the disk before a task goes on. Each shows that its fault was there; where it was not, the
command fails. What came of it is printed, whatever it is: nothing here is a test of Kapstan. It takes some minutes,
most of them waits for answers that do not come.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import signal
import sys
import tempfile
import traceback
from collections.abc import Container, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from tests.bench.guarantees import experiments
from tests.bench.guarantees.experiments import ALL, Experiment, Mode
from tests.bench.guarantees.sides import Side, all_sides
from tests.bench.guarantees.site import site


def main() -> None:
    sides = all_sides()
    parser = argparse.ArgumentParser(prog="python -m tests.bench.guarantees", description=__doc__)
    parser.add_argument("--only", type=int, nargs="*", help="numbers of experiments, from 1")
    parser.add_argument("--sides", nargs="*", default=list(sides), choices=list(sides), help="default: all")
    parser.add_argument("--rounds", type=int, default=5, help="of the submits")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # workers and servers are taken down
    for name in list(os.environ):
        if name.startswith(("KAPSTAN_", "PREFECT_")) and not name.startswith("KAPSTAN_TEST_"):
            del os.environ[name]
    os.environ["KAPSTAN_LOG_LEVEL"] = "WARNING"
    sides = {name: sides[name] for name in arguments.sides}
    numbers = arguments.only or range(1, len(ALL) + 2)
    with tempfile.TemporaryDirectory(prefix="kapstan-guarantees-") as folder:
        with ThreadPoolExecutor(len(sides)) as threads:  # each spends most of its time waiting
            made = threads.map(lambda name: _of(sides[name], numbers, Path(folder) / name), sides)
            cells = dict(zip(sides, made, strict=True))
        if len(ALL) + 1 in numbers:
            for name, text in _submits(sides, Path(folder), arguments.rounds).items():
                cells[name][len(ALL) + 1] = text
    _show(sides, cells, numbers)
    if any(text.startswith("FAILED") for made in cells.values() for text in made.values()):
        sys.exit("an experiment failed: its figures say nothing")


def _of(side: Side, numbers: Container[int], folder: Path) -> dict[int, str]:
    """The cells of one system, by the number of the experiment."""
    return {
        number: "; ".join(_made(side, experiment, folder / f"{number}-{mode}", mode) for mode in experiment.modes)
        for number, experiment in enumerate(ALL, 1)
        if number in numbers
    }


def _made(side: Side, experiment: Experiment, folder: Path, mode: Mode) -> str:
    try:
        with site(side, folder, careful=mode == "careful") as made:
            outcome = experiment.run(made)
    except Exception as error:  # noqa: BLE001  (the others are worth having)
        traceback.print_exc()
        for log in sorted(folder.glob("*.log")):
            print(f"--- {log.name}\n{log.read_text()[-2000:]}", file=sys.stderr)
        return f"FAILED {type(error).__name__}: {error}"
    print(f"{side.title} ({mode}): {experiment.title}: {outcome.text} [{outcome.bit}]", flush=True)
    return outcome.text if len(experiment.modes) == 1 else f"{mode}: {outcome.text}"


def _submits(sides: Mapping[str, Side], folder: Path, rounds: int) -> dict[str, str]:
    with ExitStack() as stack:
        sites = {
            name: stack.enter_context(site(side, folder / name / "submits", careful=False))
            for name, side in sides.items()
        }
        return experiments.submits(sites, rounds)


def _show(sides: Mapping[str, Side], cells: Mapping[str, Mapping[int, str]], numbers: Container[int]) -> None:
    print()
    print(f"| | experiment | Prefect 3.8.8 (quoted) | {' | '.join(side.title for side in sides.values())} |")
    print(f"|---|---|---|{'---|' * len(sides)}")
    rows = [(f"{experiment.title}", experiment.prefect) for experiment in ALL]
    for number, (title, prefect) in enumerate([*rows, (experiments.SUBMIT, experiments.SUBMIT_PREFECT)], 1):
        if number in numbers:
            print(f"| {number} | {title} | {prefect} | {' | '.join(made[number] for made in cells.values())} |")
    print()
    for side in sides.values():
        print(f"{side.title}: as it comes: {side.as_it_comes}; careful: {side.careful}")
    today = datetime.datetime.now(datetime.UTC).date()
    print(f"{today}, Python {platform.python_version()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()

"""Flow runs as their own processes leave them in store and index, and what there is of them."""

from __future__ import annotations

import time
from typing import Any

from kapstan.backend import Backend
from kapstan.engine import definition, values
from kapstan.engine.definition import Definition
from kapstan.ids import RunId, derived_id, new_id
from kapstan.journal import AttemptEnd, Journal, TaskOutcome, read_journal
from kapstan.runs.records import Records
from kapstan.runs.retention import DAY, Ages, Held
from kapstan.runs.sweep import Item, Report, Sweep
from kapstan.states import AttemptOutcome

AGES = Ages(runs=30 * DAY, keys=90 * DAY)
LARGE = b"x" * 20_000


class Shop:
    """A namespace with runs. ``later`` is how many days have passed."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.store = backend.store
        self.later = 0.0

    def begin(self, run_id: RunId = "", *, attempt: int = 1, **opening: Any) -> tuple[RunId, Journal]:
        """An attempt that has begun, of a new run or of one more."""
        run_id = run_id or new_id()
        journal = Journal(self.store, self.backend.codec, run_id)
        journal.open(attempt, host="pod", now=time.time(), **{"flow": "shop:main", "caller": "", **opening})
        summary = {"state": "RUNNING", "attempt": attempt, "deployment": opening.get("deployment", "")}
        self.backend.flow_runs.save(run_id, {**summary, "parent": opening.get("caller") or None, "name": "n"})
        return run_id, journal

    def run(
        self, end: str = "Completed", *, run_id: RunId = "", tasks: int = 2, attempt: int = 1, **opening: Any
    ) -> RunId:
        """A run with ``tasks`` large results, a definition and an end ("": none, as one that was lost leaves)."""
        run_id, journal = self.begin(run_id, attempt=attempt, **opening)
        if not opening.get("caller"):
            definition.write(self.backend, run_id, Definition("main", "n", "shop:main", "/", {"x": "y" * 20_000}))
        for number in range(tasks):
            key = derived_id(run_id, str(number))
            value = values.to_store(self.backend, LARGE, "result", key, run_id)
            journal.append(TaskOutcome(key, "shop:work", "work", "COMPLETED", value=value))
        if end:
            result = values.to_store(self.backend, LARGE, "result", run_id)
            journal.append(AttemptEnd(attempt, AttemptOutcome(end), time.time(), "message", result))
            self.backend.flow_runs.save(
                run_id,
                {
                    "state": end.upper(),
                    "outcome": end,
                    "attempt": attempt,
                    "started": 1.0,
                    "ended": 2.0,
                    "parent": opening.get("caller") or None,
                    "deployment": opening.get("deployment", ""),
                },
            )
        journal.close()
        return run_id

    def crash(self) -> RunId:
        """A run that the operator gave up."""
        run_id = self.run("")
        Records(self.backend).declare(run_id, "Crashed", "lost too often")
        return run_id

    # ------------------------------------------------------------------ sweeps

    def sweep(self, ages: Ages = AGES, held: Held | None = Held(), **options: Any) -> Report:  # noqa: B008
        return Sweep(self.backend, ages, held, now=self.now, **options).run()

    def listed(self, ages: Ages = AGES, held: Held | None = Held(), *, dry_run: bool) -> list[Item]:  # noqa: B008
        """What went, or would go."""
        items: list[Item] = []
        self.sweep(ages, held, on_item=items.append, dry_run=dry_run)
        return items

    @property
    def now(self) -> float:
        return self.store.now() + self.later * DAY

    # ------------------------------------------------------------------ what is there

    def keys(self) -> set[str]:
        return {key for key in self.store.keys("") if not key.startswith("probe/")}

    def left(self, run_id: RunId) -> set[str]:
        """What is there of a run: words for journal, grave, values, definition, index."""
        found = {"values"} if any(self.store.keys(f"values/{run_id}/")) else set[str]()
        for log in self.store.logs(f"flows/{run_id}"):
            found.add("grave" if read_journal(self.store, self.backend.codec, run_id).buried else "journal")
            if not log.bare and "grave" in found:
                found.add("rest")
        if self.store.get(f"definitions/{run_id}") is not None:
            found.add("definition")
        if self.backend.flow_runs.load(run_id) is not None:
            found.add("index")
        return found


ALL = {"journal", "values", "definition", "index"}

"""The last lines that the code of a run has logged, where its supervisor reads them when its process is gone: what a
person who must decide on an effect in doubt wants to see. Only of runs with an effect."""

from __future__ import annotations

import logging
from collections import deque

from kapstan.states import EffectClass
from kapstan.worker.board import TAIL_BYTES, Slot

_LINES, _CHARACTERS = 10, 300


class LastLines(logging.Handler):
    """Writes the last lines of the run that executes to the lane's slot."""

    def __init__(self, slot: Slot) -> None:
        super().__init__()
        self._slot = slot
        self._run_id = ""
        self._lines: deque[str] = deque(maxlen=_LINES)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        executing = self._slot.executing()
        if executing is None or executing.effect is EffectClass.PURE:
            return
        if executing.run_id != self._run_id:
            self._run_id = executing.run_id
            self._lines.clear()
        try:
            text = self.format(record).partition("\n")[0]
        except Exception:  # noqa: BLE001  (a user's arguments of a line)
            return
        self._lines.append(text[:_CHARACTERS])
        while len(body := "\n".join(self._lines).encode(errors="replace")) > TAIL_BYTES:
            self._lines.popleft()
        self._slot.tell(executing.run_id, body)


def keep(slot: Slot) -> None:
    """From now on keep the last lines of this process' runs."""
    root = logging.getLogger()
    # A root logger without handlers stays so: then the console shows what is below `kapstan`.
    (root if root.handlers else logging.getLogger("kapstan")).addHandler(LastLines(slot))

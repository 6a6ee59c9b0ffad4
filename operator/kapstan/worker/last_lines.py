"""The last lines that the code of a run has logged, where its supervisor reads them when its process is gone: what a
person who must decide on an effect in doubt wants to see. Only of runs with an effect."""

from __future__ import annotations

import logging
import mmap
import struct
from collections import deque

from kapstan.engine.key_intent import open_intents
from kapstan.states import EffectClass
from kapstan.worker.board import TAIL_BYTES, Slot

_LINES, _CHARACTERS = 10, 300
_SIZE = struct.Struct("<H")


class _Keeper(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self._lines: deque[str] = deque(maxlen=_LINES)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))

    def _with(self, record: logging.LogRecord) -> bytes | None:
        """The last lines, now with this one; None: it is none."""
        try:
            text = self.format(record).partition("\n")[0]
        except Exception:  # noqa: BLE001  (a user's arguments of a line)
            return None
        self._lines.append(text[:_CHARACTERS])
        while len(body := "\n".join(self._lines).encode(errors="replace")) > TAIL_BYTES:
            self._lines.popleft()
        return body


class LastLines(_Keeper):
    """Writes the last lines of the run that executes to the lane's slot."""

    def __init__(self, slot: Slot) -> None:
        super().__init__()
        self._slot = slot
        self._run_id = ""

    def emit(self, record: logging.LogRecord) -> None:
        executing = self._slot.executing()
        if executing is None or executing.effect is EffectClass.PURE:
            return
        if executing.run_id != self._run_id:
            self._run_id = executing.run_id
            self._lines.clear()
        body = self._with(record)
        if body is not None:
            self._slot.tell(executing.run_id, body)


class Tail:
    """Memory that the supervisor of a flow run shares with the child that it forks."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _SIZE.size + TAIL_BYTES)

    def tell(self, lines: bytes) -> None:
        """At most ``TAIL_BYTES``."""
        self._memory[: _SIZE.size + len(lines)] = _SIZE.pack(len(lines)) + lines

    def lines(self) -> list[str]:
        """What was told last; the process may have died while it wrote that."""
        (size,) = _SIZE.unpack_from(self._memory)
        return self._memory[_SIZE.size : _SIZE.size + min(size, TAIL_BYTES)].decode(errors="replace").splitlines()


class FlowLines(_Keeper):
    """Writes the last lines of a flow's process to ``tail``: those that it logs while it holds a key."""

    def __init__(self, tail: Tail) -> None:
        super().__init__()
        self._tail = tail

    def emit(self, record: logging.LogRecord) -> None:
        body = self._with(record) if open_intents else None
        if body is not None:
            self._tail.tell(body)


def keep(lines: LastLines | FlowLines) -> None:
    """From now on keep the last lines of this process' runs."""
    root = logging.getLogger()
    # A root logger without handlers stays so: then the console shows what is below `kapstan`.
    (root if root.handlers else logging.getLogger("kapstan")).addHandler(lines)

"""What a flow run was started with: enough for another process to go on with it.

Written once, before the first attempt of a run that a program started by calling its flow; runs of a deployment have
theirs in the custom resource. Read by ``kapstan flow-run resume``.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kapstan.backend import Backend
from kapstan.engine import values
from kapstan.errors import SerializationError
from kapstan.ids import RunId, new_nonce

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Definition:
    """How to execute a run again.

    Attributes:
        entrypoint: ``module:name`` or ``/path/file.py:name``; "" for a flow that only its own process can find.
        folder: working directory of the program that started it.
        parameters: arguments by name; None if they could not be serialised.
    """

    flow: str
    name: str
    entrypoint: str
    folder: str
    parameters: dict[str, Any] | None


def write(backend: Backend, run_id: RunId, definition: Definition) -> None:
    """Keep ``definition``; parameters that cannot be serialised are left out."""
    sealed = None
    if definition.parameters is not None:
        try:
            sealed = values.seal_value(backend, definition.parameters, "arguments", run_id, what="the parameters")
        except SerializationError:
            sealed = None
    body = {
        "v": FORMAT,
        "nonce": new_nonce(),
        "flow": definition.flow,
        "name": definition.name,
        "entrypoint": definition.entrypoint,
        "folder": definition.folder,
        "parameters": None if sealed is None else base64.b64encode(sealed).decode(),
    }
    backend.store.create(_key(run_id), backend.codec.encode(body, "summary", run_id))


def read(backend: Backend, run_id: RunId) -> Definition | None:
    """The definition of ``run_id``, or None; unpickles, so only what runs user code anyway calls it."""
    stored = backend.store.get(_key(run_id))
    if stored is None:
        return None
    body = backend.codec.decode_json(stored.body, "summary", run_id)
    parameters = None
    if body["parameters"] is not None:
        parameters = values.open_value(backend, base64.b64decode(body["parameters"]), "arguments", run_id)
    return Definition(body["flow"], body["name"], body["entrypoint"], body["folder"], parameters)


def here() -> str:
    """The working directory, "" if it is gone."""
    try:
        return str(Path.cwd())
    except FileNotFoundError:
        return ""


def _key(run_id: RunId) -> str:
    return f"definitions/{run_id}"

"""What a flow run was started with: enough for another process to go on with it.

Written once, before the first attempt of a run that a program or ``kapstan run`` started; runs of a deployment have
theirs in the custom resource. Read by ``kapstan flow-run resume``.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kapstan.backend import Backend
from kapstan.engine import values
from kapstan.errors import MissingResult, SerializationError
from kapstan.ids import RunId, new_nonce

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Definition:
    """How to execute a run again.

    Attributes:
        entrypoint: ``module:name`` or ``/path/file.py:name``; "" for a flow that only its own process can find.
        folder: working directory of the program that started it.
        parameters: arguments by name; None if they could not be serialised.
        module: what the module of the flow is called, so that a file is imported under the same name again.
    """

    flow: str
    name: str
    entrypoint: str
    folder: str
    parameters: dict[str, Any] | None
    module: str = ""
    tags: frozenset[str] = frozenset()


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
        "module": definition.module,
        "tags": sorted(definition.tags),
        "parameters": None if sealed is None else base64.b64encode(sealed).decode(),
    }
    backend.store.create(_key(run_id), backend.codec.encode(body, "summary", run_id))


def read(backend: Backend, run_id: RunId) -> Definition | None:
    """The definition of ``run_id``, or None; its parameters are for ``parameters`` to read.

    ``Definition.parameters`` is {} where there are some, None where not.
    """
    stored = backend.store.get(_key(run_id))
    if stored is None:
        return None
    body = backend.codec.decode_json(stored.body, "summary", run_id)
    there: dict[str, Any] | None = None if body["parameters"] is None else {}
    module, tags = body.get("module", ""), frozenset[str](body.get("tags", ()))
    return Definition(body["flow"], body["name"], body["entrypoint"], body["folder"], there, module, tags)


def parameters(backend: Backend, run_id: RunId) -> dict[str, Any]:
    """The arguments of ``run_id``. They are unpickled, and may be of classes that the flow's file defines: read them
    after the flow was imported.

    Raises:
        Unreadable: they can never be read here.
        StoreUnavailable: they cannot be read now.
    """
    stored = backend.store.get(_key(run_id))
    sealed = None if stored is None else backend.codec.decode_json(stored.body, "summary", run_id)["parameters"]
    if sealed is None:
        raise MissingResult(f"the parameters of run {run_id} are not stored")
    return values.open_value(backend, base64.b64decode(sealed), "arguments", run_id)


def here() -> str:
    """The working directory, "" if it is gone."""
    try:
        return str(Path.cwd())
    except FileNotFoundError:
        return ""


def _key(run_id: RunId) -> str:
    return f"definitions/{run_id}"

"""Where results are put: the option ``result_storage``, and the keys that ``result_storage_key`` makes."""

from __future__ import annotations

import inspect
import re
import string
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from kapstan import ids, records
from kapstan.context import TaskRun, current_flow
from kapstan.engine import canonical
from kapstan.errors import ConfigurationError
from kapstan.identity import importable_name
from kapstan.store import named
from kapstan.store.keys import check_key

NAMESPACE = "namespace:"
"""As a result storage: the store of the namespace."""
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_ROOTS = ("parameters", "flow_run", "task_run", "deployment", "runtime")


def address(option: str, value: Any) -> str:
    """The address of a result storage: ``file:///folder``, ``s3://bucket/prefix`` or ``block:<class>#<digest>``; "" for
    the store of the namespace. An address stays as it is.

    Args:
        value: a path, an ``s3://`` address, or an object with ``read_path`` and ``write_path``.

    Raises:
        ConfigurationError: none of these.
    """
    if isinstance(value, Path):
        value = str(value)
    if not isinstance(value, str):
        return _block(option, value)
    if value == NAMESPACE:
        return ""
    if value.startswith("block:"):
        return value
    scheme, divider, rest = value.partition("://")
    if divider and scheme == "s3":
        return _s3(option, value, *rest.partition("/")[::2])
    if divider and scheme != "file":
        raise ConfigurationError(f"{option}={value!r}: give a folder, s3://bucket/prefix, or an object{_METHODS}")
    folder = rest if divider else value
    if not folder.strip() or "\0" in folder:
        raise ConfigurationError(f"{option}={value!r}: give a folder")
    try:
        return f"file://{Path(folder).expanduser().absolute()}"
    except RuntimeError:
        raise ConfigurationError(f"{option}={value!r}: this user has no home directory") from None


def key_storage(policy: Any) -> str:
    """Where a cache policy has the registers of its keys, as ``address``; "" for the store of the namespace.

    Raises:
        ConfigurationError: as ``address``; or an object of the user's, since those have no conditional writes.
    """
    value = getattr(policy, "key_storage", None)
    found = "" if value is None else address("key_storage", value)
    if found.startswith("block:"):
        raise ConfigurationError(
            f"key_storage={value!r}: two callers can write to an object with read_path and write_path at once, and "
            "neither would know; give a folder or s3://bucket/prefix"
        )
    return found


_METHODS = " with read_path(path) and write_path(path, content)"


def _s3(option: str, value: str, bucket: str, prefix: str) -> str:
    prefix = prefix.rstrip("/")
    try:
        if prefix:
            check_key(prefix)
    except ValueError as error:
        raise ConfigurationError(f"{option}={value!r}: {error}") from None
    if not _BUCKET.fullmatch(bucket):
        raise ConfigurationError(f"{option}={value!r}: {bucket!r} is no name of a bucket; give s3://bucket/prefix")
    return f"s3://{bucket}/{prefix}"


def _block(option: str, block: Any) -> str:
    if isinstance(block, type) or not all(callable(getattr(block, name, None)) for name in ("read_path", "write_path")):
        raise ConfigurationError(f"{option}={block!r}: give a folder, s3://bucket/prefix, or an object{_METHODS}")
    kind = cast("type[Any]", type(block))
    name = f"block:{importable_name(kind.__module__)}:{kind.__qualname__}#{canonical.digest({'block': block})[:16]}"
    named.add_block(name, block)
    return name


# ---------------------------------------------------------------------------------------------- keys


def template(option: str, value: Any) -> str:
    """``value``, if it is a template for keys.

    Raises:
        ConfigurationError: no text, or one that cannot be read, or with a field that there is not.
    """
    if not isinstance(value, str) or not value.strip():
        raise ConfigurationError(f"{option}={value!r}: give a template, such as 'report-{{parameters[day]}}.json'")
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(value) if field is not None]
    except ValueError as error:
        raise ConfigurationError(f"{option}={value!r} is no template: {error}") from None
    for field in fields:
        if re.split(r"[.\[]", field, maxsplit=1)[0] not in _ROOTS:
            raise ConfigurationError(
                f"{option}={value!r}: {{{field}}} is none of {', '.join(f'{{{root}...}}' for root in _ROOTS)}"
            )
    return value


def check_parameters(value: str | None, *signatures: inspect.Signature | None) -> None:
    """Check the parameters that a template names against those of the task.

    Raises:
        ConfigurationError: there is no such parameter.
    """
    known = {name: it for signature in signatures if signature is not None for name, it in signature.parameters.items()}
    for _, field, _, _ in string.Formatter().parse(value or ""):
        found = re.match(r"parameters\[([^]]*)\]", field or "")
        if found and found[1] not in known:
            raise ConfigurationError(
                f"result_storage_key={value!r}: the task has no parameter {found[1]!r}; it has "
                f"{', '.join(known) or 'none'}"
            )


def storage_key(template: str, run: TaskRun) -> str:
    """The key that a template makes for a run.

    Raises:
        ConfigurationError: a field has no value, or what comes out cannot be a key.
    """
    flow = current_flow.get()
    flow_run = None
    if flow is not None:
        flow_run = SimpleNamespace(
            id=str(ids.to_uuid(flow.run_id)), name=flow.name, flow_name=flow.spec.name, parameters=flow.parameters
        )
    task_run = SimpleNamespace(
        id=str(ids.to_uuid(run.run_id)), name=run.name, task_name=run.task_name, parameters=run.parameters
    )
    deployment = SimpleNamespace(name=flow.deployment) if flow is not None and flow.deployment else None
    runtime = SimpleNamespace(flow_run=flow_run, task_run=task_run, deployment=deployment)
    try:
        key = template.format(parameters=run.parameters, runtime=runtime, **vars(runtime))
    except Exception as error:
        raise ConfigurationError(
            f"result_storage_key={template!r} gives no key for this run: {type(error).__name__}: {error}"
        ) from error
    records.check(key)
    return key

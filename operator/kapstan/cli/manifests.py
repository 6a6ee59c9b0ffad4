"""Reads manifests from YAML and JSON files as kubectl does, so that the same file means the same to both.

Dates and times of day stay text, ``1e3`` is a number, keys become text, a key that stands twice is an error, and a
``List`` is its items. What the API server adds to an object (``kapstan get -o yaml`` prints it) is left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import click
import yaml

from kapstan.errors import ConfigurationError
from kapstan.ports import Manifest
from kapstan.resources import GROUP, parse, validate

SUFFIXES = (".yaml", ".yml", ".json")
SERVER_FIELDS = frozenset(
    {
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "managedFields",
        "ownerReferences",
        "selfLink",
    }
)


def read(path: Path, namespace: str) -> list[Manifest]:
    """Our manifests in a file or directory (``-``: standard input), valid by shape and rules.

    Documents of other groups are left out, with a line on standard error for each.

    Args:
        namespace: of those that name none.

    Raises:
        ConfigurationError: no YAML, or not a mapping.
        InvalidResource: what the API server would refuse.
    """
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
        return [manifest for file in files for manifest in read(file, namespace)]
    found: list[Manifest] = []
    for manifest in _documents(path):
        if str(manifest.get("apiVersion", "")).partition("/")[0] != GROUP:
            name = manifest["metadata"].get("name", "")
            click.echo(f"{path}: {manifest.get('kind')} {name!r} is not of {GROUP} and was left out", err=True)
            continue
        manifest.pop("status", None)
        metadata = {key: value for key, value in manifest["metadata"].items() if key not in SERVER_FIELDS}
        manifest["metadata"] = {**metadata, "namespace": metadata.get("namespace") or namespace}
        validate(parse(manifest))
        found.append(manifest)
    return found


def as_yaml(document: Any) -> str:
    """``document`` as YAML that ``read`` and kubectl take for the same."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _documents(path: Path) -> Iterator[Manifest]:
    """Every object of the file, those of lists included."""
    with click.open_file(str(path), encoding="utf-8") as file:
        try:
            documents: list[Any] = list(yaml.load_all(file, _Loader))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{path} is no YAML: {error}") from None
    for document in documents:
        if document is not None:
            yield from _objects(path, _json(document, path, ""))


def _objects(path: Path, document: Any) -> Iterator[Manifest]:
    fields = cast("Manifest", document) if isinstance(document, dict) else {}
    items = fields.get("items")
    if str(fields.get("kind", "")).endswith("List") and (items is None or isinstance(items, list)):
        for item in cast("list[Any]", items or []):
            yield from _objects(path, item)
        return
    if not isinstance(fields.get("metadata"), dict):
        raise ConfigurationError(f"{path}: a document is no manifest: write apiVersion, kind, metadata and spec")
    yield fields


def _json(value: Any, path: Path, place: str) -> Any:
    """``value`` as JSON carries it: keys are text.

    Raises:
        ConfigurationError: JSON has no such value.
    """
    if isinstance(value, dict):
        fields = cast("dict[Any, Any]", value)
        return {_key(key): _json(item, path, f"{place}.{_key(key)}") for key, item in fields.items()}
    if isinstance(value, list):
        return [_json(item, path, f"{place}[{i}]") for i, item in enumerate(cast("list[Any]", value))]
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigurationError(f"{path}: {place.lstrip('.')}: {value} is no value of JSON: write a number or a text")
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    raise ConfigurationError(f"{path}: {place.lstrip('.')}: {type(value).__name__} is no value of JSON: write a text")


def _key(key: Any) -> str:
    return key if isinstance(key, str) else "null" if key is None else str(key).lower()


class _Loader(yaml.SafeLoader):
    """YAML as Kubernetes reads it: PyYAML's rules without dates, without numbers in base 60, with ``1e3``."""

    def construct_document(self, node: yaml.Node) -> Any:
        """A few lines whose aliases name each other can stand for more than fits into memory: that is seen first."""
        if _size(node, {}) > _MOST_VALUES:
            raise yaml.constructor.ConstructorError(
                None, None, f"its aliases stand for more than {_MOST_VALUES:,} values", node.start_mark
            )
        return super().construct_document(node)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


_MOST_VALUES = 100_000


def _size(node: yaml.Node, known: dict[yaml.Node, float]) -> float:
    """How many values ``node`` is when its aliases are written out; endless if it is part of itself."""
    if node not in known:
        known[node] = math.inf  # until it is known
        inside: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            inside = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            inside = node.value
        known[node] = 1 + sum(_size(part, known) for part in inside)
    return known[node]


_INT = re.compile(r"[-+]?(0b[01_]+|0o?[0-7_]+|0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)$")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$")


def _int(_: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = node.value.replace("_", "")
    return int(re.sub(r"^([-+]?)0(?=[0-7])", r"\g<1>0o", text), 0)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key, _ in node.value:
        if key.tag != "tag:yaml.org,2002:merge" and isinstance(key, yaml.ScalarNode):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} stands twice", key.start_mark
                )
            seen.add(key.value)
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_CHANGED = ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _CHANGED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class _Dumper(yaml.SafeDumper):
    """Quotes every text that this loader, kubectl or plain PyYAML would read as something else."""


for _kind in (cast("Any", _Loader), cast("Any", _Dumper)):
    _kind.add_implicit_resolver("tag:yaml.org,2002:int", _INT, list("-+0123456789"))
    _kind.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
_Loader.add_constructor("tag:yaml.org,2002:int", _int)
_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)

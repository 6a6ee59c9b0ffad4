"""Strategic merge of pod templates: a pool's or worker's ``podTemplate`` laid over the pod that we render.

Kubernetes' own rules for the lists of a pod, as `kubectl patch` applies them: lists of named things merge by their
key, other lists are replaced, null removes, and an item with ``$patch: delete`` goes. `render` calls it; it knows
nothing of Kapstan.
"""

from __future__ import annotations

from typing import Any, cast

Json = dict[str, Any]

MERGE_KEYS: dict[str, tuple[str, ...]] = {
    "containers": ("name",),
    "initContainers": ("name",),
    "ephemeralContainers": ("name",),
    "env": ("name",),
    "volumes": ("name",),
    "volumeMounts": ("mountPath",),
    "volumeDevices": ("devicePath",),
    "ports": ("containerPort", "protocol"),
    "imagePullSecrets": ("name",),
    "hostAliases": ("ip",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
    "resourceClaims": ("name",),
}
"""Field of a list -> the fields by which its items are the same."""

# Objects of which only one member may be set: a patch with another one replaces the whole.
_UNIONS = {"env": ("value", "valueFrom")}


def merged(base: Any, patch: Any, field: str = "") -> Any:
    """``patch`` laid over ``base``; neither is changed. ``field`` is the name of the field that holds them."""
    if isinstance(base, dict) and isinstance(patch, dict):
        return _merged_objects(cast("Json", base), cast("Json", patch))
    if isinstance(base, list) and isinstance(patch, list) and field in MERGE_KEYS:
        return _merged_lists(cast("list[Json]", base), cast("list[Json]", patch), field)
    return _without_directives(patch)


def _merged_objects(base: Json, patch: Json) -> Json:
    if patch.get("$patch") == "replace":
        return _without_directives(patch)
    result = dict(base)
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        elif name in result:
            result[name] = merged(result[name], value, name)
        else:
            result[name] = _without_directives(value)
    return result


def _merged_lists(base: list[Json], patch: list[Json], field: str) -> list[Json]:
    result = [] if any(item.get("$patch") == "replace" and len(item) == 1 for item in patch) else list(base)
    for item in patch:
        if item.get("$patch") == "replace" and len(item) == 1:
            continue
        identity = _identity(item, field)
        index = next((i for i, present in enumerate(result) if _identity(present, field) == identity), None)
        if item.get("$patch") == "delete":
            if index is not None:
                del result[index]
        elif index is None:
            result.append(_without_directives(item))
        else:
            present = result[index]
            if field in _UNIONS and any(member in item for member in _UNIONS[field]):
                present = {name: value for name, value in present.items() if name not in _UNIONS[field]}
            result[index] = _merged_objects(present, item)
    return result


def _identity(item: Json, field: str) -> tuple[Any, ...]:
    defaults = {"protocol": "TCP"}
    return tuple(item.get(key, defaults.get(key)) for key in MERGE_KEYS[field])


def _without_directives(value: Any) -> Any:
    """A copy without ``$patch`` and nulls, which say nothing where there is nothing to change."""
    if isinstance(value, dict):
        return {
            name: _without_directives(item)
            for name, item in cast("Json", value).items()
            if item is not None and name != "$patch"
        }
    if isinstance(value, list):
        items = cast("list[Any]", value)
        return [_without_directives(item) for item in items if not _is_directive(item)]
    return value


def _is_directive(item: Any) -> bool:
    return isinstance(item, dict) and cast("Json", item).get("$patch") == "delete"

"""Parameters of a flow run that stand in the store, because a FlowRun carries 2 KiB of them.

Written by ``kapstan flow-run store-parameters``, named by ``spec.parametersRef``, read by ``kapstan run``. JSON only,
as those in a FlowRun are: whoever may create FlowRuns cannot have anything unpickled.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from kapstan.backend import Backend
from kapstan.codec import digest, exact_json
from kapstan.errors import ParameterError, SerializationError
from kapstan.ids import derived_id

_FIX = "store them with `kapstan flow-run store-parameters` under the settings of this namespace"


def write(backend: Backend, parameters: Mapping[str, Any]) -> str:
    """Store ``parameters``; the key for ``spec.parametersRef.key``, the same for the same parameters.

    Raises:
        SerializationError, ValueTooLarge: they do not fit JSON exactly, or are larger than the limit.
    """
    for name, value in parameters.items():
        if not exact_json(value):
            raise SerializationError(
                f"parameter {name!r} does not fit JSON exactly: no NaN or Infinity, no integer beyond 1024 bits"
            )
    serializer, body = backend.codec.serialise(dict(parameters), "the parameters")
    key = f"parameters/{derived_id('parameters', digest(body))}"
    backend.store.put(key, backend.codec.seal(serializer, body, "value", key))
    return key


def read(backend: Backend, key: str) -> dict[str, Any]:
    """The parameters at ``key``.

    Raises:
        ParameterError: nothing is there, it was not stored for this namespace and key, or it is no JSON object.
        StoreUnavailable: the store is away.
    """
    place = f"the parameters at {key!r} of namespace {backend.codec.namespace!r}"
    if not key.startswith("parameters/"):  # a value of another run is none of this one's parameters
        raise ParameterError(f"{key!r} is no key of parameters; {_FIX}")
    try:
        stored = backend.store.get(key)
    except ValueError as error:
        raise ParameterError(f"{error}; {_FIX}") from None
    if stored is None:
        raise ParameterError(f"{place} are not in the store; {_FIX}")
    try:
        value = backend.codec.decode_json(stored.body, "value", key)
    except SerializationError as error:
        raise ParameterError(f"{place} cannot be used: {error}; {_FIX}") from error
    if not isinstance(value, dict):
        raise ParameterError(f"{place} are no JSON object; {_FIX}")
    return cast("dict[str, Any]", value)

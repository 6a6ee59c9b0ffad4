"""How results become bytes: ``json``, ``pickle``, ``compressed/json``, ``compressed/pickle``, and classes of your own.

``@task(result_serializer=...)`` and ``ResultStore(serializer=...)`` take a name or an object. The name stands beside
the bytes, under their signature, so that a reader decodes with what they were written with and with nothing else.
"""

from kapstan.serializers.base import JSONSerializer, PickleSerializer, Serializer, checked, known, named
from kapstan.serializers.compressed import CompressedJSONSerializer, CompressedPickleSerializer, CompressedSerializer

__all__ = [
    "CompressedJSONSerializer",
    "CompressedPickleSerializer",
    "CompressedSerializer",
    "JSONSerializer",
    "PickleSerializer",
    "Serializer",
    "checked",
    "known",
    "named",
]

"""How results become bytes: ``json``, ``pickle``, ``compressed/...``, ``npy``, ``arrow``, and classes of your own.

``@task(result_serializer=...)`` and ``ResultStore(serializer=...)`` take a name or an object. The name stands beside
the bytes, under their signature, so that a reader decodes with what they were written with and with nothing else.
"""

from kapstan.serializers.base import JSONSerializer, PickleSerializer, Serializer, checked, known, named
from kapstan.serializers.compressed import CompressedJSONSerializer, CompressedPickleSerializer, CompressedSerializer
from kapstan.serializers.tables import ArraySerializer, ArrowSerializer, PandasSerializer, chosen, of_library

__all__ = [
    "ArraySerializer",
    "ArrowSerializer",
    "CompressedJSONSerializer",
    "CompressedPickleSerializer",
    "CompressedSerializer",
    "JSONSerializer",
    "PandasSerializer",
    "PickleSerializer",
    "Serializer",
    "checked",
    "chosen",
    "known",
    "named",
    "of_library",
]

"""Serializers whose bytes are compressed, by a module of the standard library."""

from __future__ import annotations

import importlib
import re
from typing import Any

from kapstan import settings
from kapstan.errors import ConfigurationError, UnreadableValue, ValueTooLarge
from kapstan.piecewise import Pieces
from kapstan.serializers.base import Serializer, Source, Target, add_family, checked

_LIBRARIES = {
    "zlib": ("compressobj", "decompressobj"),
    "bz2": ("BZ2Compressor", "BZ2Decompressor"),
    "lzma": ("LZMACompressor", "LZMADecompressor"),
}
"""What compresses and what decompresses piece by piece, by module."""
_PIECE = 1 << 18
_TOO_MANY = "more bytes than KAPSTAN_MAX_VALUE_BYTES"
_NAME = re.compile(r"compressed(?:\+(\w+))?/(.+)", re.DOTALL)


class CompressedSerializer(Serializer):
    """The bytes of another serializer, compressed: ``compressed/json``, ``compressed+lzma/pickle``.

    Args:
        serializer: a name, or a Serializer.
        compressionlib: ``zlib``, ``bz2`` or ``lzma``.

    Raises:
        ConfigurationError: another library, or no such serializer.
    """

    def __init__(self, serializer: Serializer | str = "pickle", compressionlib: str = "zlib") -> None:
        if compressionlib not in _LIBRARIES:
            raise ConfigurationError(f"compressionlib={compressionlib!r}: give {', '.join(_LIBRARIES)}")
        self.serializer = checked("serializer", serializer)
        self.compressionlib = compressionlib
        if isinstance(self.serializer, CompressedSerializer):
            raise ConfigurationError(f"serializer={self.serializer.name!r}: it is compressed already")
        self.unpickles = self.serializer.unpickles
        self.is_json = self.serializer.is_json

    @property
    def name(self) -> str:
        library = "" if self.compressionlib == "zlib" else f"+{self.compressionlib}"
        return f"compressed{library}/{self.serializer.name}"

    def dumps(self, obj: Any) -> bytes:
        import io

        file = io.BytesIO()
        self.dump(obj, file)
        return file.getvalue()

    def loads(self, blob: bytes) -> Any:
        import io

        return self.load(io.BytesIO(blob))

    def dump(self, obj: Any, target: Target) -> None:
        compressor = self._made(0)
        self.serializer.dump(obj, _Compressing(compressor, target))
        target.write(compressor.flush())

    def load(self, source: Source) -> Any:
        plain = Pieces(_Decompressing(self._made(1), source).more)
        value = self.serializer.load(plain)
        while plain.read(_PIECE):  # to the end, where the checksum is
            pass
        return value

    def _made(self, way: int) -> Any:
        return getattr(importlib.import_module(self.compressionlib), _LIBRARIES[self.compressionlib][way])()

    def __repr__(self) -> str:
        return f"CompressedSerializer({self.serializer.name!r}, compressionlib={self.compressionlib!r})"


class CompressedJSONSerializer(CompressedSerializer):
    """``compressed/json``."""

    def __init__(self, compressionlib: str = "zlib") -> None:
        super().__init__("json", compressionlib)


class CompressedPickleSerializer(CompressedSerializer):
    """``compressed/pickle``."""

    def __init__(self, compressionlib: str = "zlib") -> None:
        super().__init__("pickle", compressionlib)


class _Compressing:
    def __init__(self, compressor: Any, target: Target) -> None:
        self._compressor = compressor
        self._target = target
        self._room = settings.current().max_value_bytes

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._room -= len(view)
        if self._room < 0:
            raise ValueTooLarge(f"before it is compressed it has {_TOO_MANY}")
        for start in range(0, len(view), _PIECE):
            out = self._compressor.compress(view[start : start + _PIECE])
            if out:
                self._target.write(out)
        return len(view)


class _Decompressing:
    """Gives what ``source`` holds compressed, in pieces of a size that does not depend on how well it is compressed."""

    def __init__(self, decompressor: Any, source: Source) -> None:
        self._decompressor = decompressor
        self._source = source
        self._room = settings.current().max_value_bytes  # a few bytes may stand for very many

    def more(self) -> bytes:
        """The next piece, b"" at the end.

        Raises:
            UnreadableValue: it is cut, or no such compression.
        """
        d = self._decompressor
        while not d.eof:
            held = getattr(d, "unconsumed_tail", b"")  # of zlib; the others keep it themselves
            fresh = b"" if held or not getattr(d, "needs_input", True) else self._source.read(_PIECE)
            if not held and not fresh and getattr(d, "needs_input", True):
                raise UnreadableValue("it cannot be decompressed: it ends too early")
            try:
                piece = d.decompress(held or fresh, _PIECE)
            except Exception as error:
                raise UnreadableValue(f"it cannot be decompressed: {error}") from error
            self._room -= len(piece)
            if self._room < 0:
                raise UnreadableValue(f"decompressed it has {_TOO_MANY}")
            if piece:
                return piece
        return b""


def _of_name(name: str) -> Serializer:
    match = _NAME.fullmatch(name)
    if match is None:
        raise ConfigurationError(f"{name!r} is no serializer: give compressed/<serializer>")
    return CompressedSerializer(match[2], match[1] or "zlib")


add_family("compressed", _of_name)

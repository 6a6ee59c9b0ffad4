"""Arrays as npy, tables as Arrow streams, where the library is there; chosen by themselves for values that fit exactly.

Neither runs code when it is read, so both are allowed where pickles are not, and other languages read them, too. What
would come back as something else (object arrays, columns of mixed values, subclasses) is left to pickle.
"""

from __future__ import annotations

import importlib
from typing import Any

from kapstan.errors import SerializationError
from kapstan.exact_json import exact_json
from kapstan.serializers.base import ExactJSON, PickleSerializer, Serializer, Source, Target

_LONGEST_HEADER = 8000  # of npy; numpy reads 10,000 characters unasked


class _OfFiles(Serializer):
    """One that writes to files and reads from them, whichever way it is called."""

    def dumps(self, obj: Any) -> bytes:
        return _gathered(self, obj)

    def loads(self, blob: bytes) -> Any:
        return self.load(_file(blob))


class ArraySerializer(_OfFiles):
    """numpy arrays, without objects in them, as npy."""

    type = "npy"

    @staticmethod
    def fits(value: Any) -> bool:
        """Whether it comes back as an equal array of the same dtype."""
        numpy = _library("numpy")
        if type(value) is not numpy.ndarray:
            return False
        dtype, npy = value.dtype, numpy.lib.format
        if dtype.hasobject or dtype.metadata or dtype.kind not in "biufcmMSUV":
            return False
        described = npy.dtype_to_descr(dtype)
        return len(repr(described)) < _LONGEST_HEADER and npy.descr_to_dtype(described) == dtype

    def dump(self, obj: Any, target: Target) -> None:
        if not self.fits(obj):
            raise SerializationError("npy takes a numpy.ndarray without objects in it")
        _library("numpy").lib.format.write_array(target, obj, allow_pickle=False)

    def load(self, source: Source) -> Any:
        return _library("numpy").lib.format.read_array(source, allow_pickle=False)


class ArrowSerializer(_OfFiles):
    """``pyarrow.Table`` as an Arrow stream."""

    type = "arrow"

    @staticmethod
    def fits(value: Any) -> bool:
        return type(value) is _library("pyarrow").Table

    def dump(self, obj: Any, target: Target) -> None:
        if not self.fits(obj):
            raise SerializationError("arrow takes a pyarrow.Table")
        _write_table(obj, target)

    def load(self, source: Source) -> Any:
        arrow = _library("pyarrow")
        with arrow.ipc.open_stream(arrow.PythonFile(_Unseekable(source), mode="r")) as stream:
            return stream.read_all()


class PandasSerializer(ArrowSerializer):
    """pandas DataFrames, whose columns have exact types, as an Arrow stream."""

    type = "arrow-pandas"

    @staticmethod
    def fits(value: Any) -> bool:
        """Whether it comes back as an equal frame: its columns have names and types that Arrow keeps, and its first
        rows, with index and types, come back as they are."""
        pandas, arrow = _library("pandas"), _library("pyarrow")
        if type(value) is not pandas.DataFrame or value.attrs or not value.columns.is_unique:
            return False
        exact = all(type(name) is str for name in value.columns) and all(map(_is_exact, value.dtypes))
        if not exact or value.index.nlevels > 1 or not _is_exact(value.index.dtype):
            return False
        first = value.iloc[:5]
        try:
            file = _file(b"")
            _write_table(arrow.Table.from_pandas(first), file)
            file.seek(0)
            back = ArrowSerializer().load(file).to_pandas()
            pandas.testing.assert_frame_equal(back, first, check_exact=True, check_freq=True)
        except (AssertionError, ValueError, arrow.ArrowException):
            return False
        return type(back.index) is type(first.index) and list(back.dtypes) == list(value.dtypes)

    def dump(self, obj: Any, target: Target) -> None:
        if not self.fits(obj):
            raise SerializationError("arrow-pandas takes a pandas.DataFrame whose columns have names and exact types")
        _write_table(_library("pyarrow").Table.from_pandas(obj), target)

    def load(self, source: Source) -> Any:
        return super().load(source).to_pandas()


def _is_exact(dtype: Any) -> bool:
    """Whether Arrow keeps every value of a column, a missing one as such included."""
    pandas, numpy = _library("pandas"), _library("numpy")
    if isinstance(dtype, numpy.dtype):
        return dtype.kind in "biufmM"
    if isinstance(dtype, pandas.CategoricalDtype):
        return _is_exact(dtype.categories.dtype)
    return isinstance(dtype, pandas.DatetimeTZDtype) or str(dtype) in ("str", "boolean", "Int64", "Int32")


_OF_LIBRARY: dict[str, Any] = {"numpy": ArraySerializer, "pandas": PandasSerializer, "pyarrow": ArrowSerializer}


def of_library(value: Any) -> Serializer | None:
    """What carries ``value`` exactly, if it is an array or a table and its libraries are here."""
    module: Any = type(value).__module__
    kind = _OF_LIBRARY.get(module.partition(".")[0]) if isinstance(module, str) else None
    try:
        return kind() if kind is not None and kind.fits(value) else None
    except ImportError:  # pandas without pyarrow
        return None


def chosen(value: Any) -> Serializer:
    """What writes ``value`` where nobody has chosen: JSON, npy or Arrow where that is exact, else cloudpickle."""
    if exact_json(value):
        return ExactJSON()
    return of_library(value) or PickleSerializer()


def _write_table(table: Any, target: Target) -> None:
    arrow = _library("pyarrow")
    with arrow.ipc.new_stream(arrow.PythonFile(_Unseekable(target), mode="w"), table.schema) as stream:
        stream.write_table(table, max_chunksize=100_000)


class _Unseekable:
    """A target or source as pyarrow wants it."""

    closed = False

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, data: Any) -> int:
        self._file.write(memoryview(data))
        return len(data)

    def read(self, size: int | None = None) -> bytes:
        return self._file.read(-1 if size is None else size)

    def flush(self) -> None: ...

    def close(self) -> None: ...


def _gathered(serializer: Serializer, obj: Any) -> bytes:
    import io

    file = io.BytesIO()
    serializer.dump(obj, file)
    return file.getvalue()


def _file(blob: bytes) -> Any:
    import io

    return io.BytesIO(blob)


def _library(name: str) -> Any:
    return importlib.import_module(name)

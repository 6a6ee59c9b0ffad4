"""What of arrays and tables counts in a key: their values, types and names, however they lie in memory.

What pickle would take of them differs between releases of these libraries, and between equal values (strides, chunks,
caches). The libraries are never imported here: who has such a value has loaded them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

Form = tuple[Any, ...]


def form_of(kind: type[Any]) -> Callable[[Any], Form] | None:
    """How a value of class ``kind`` is read; None if it is no array and no table."""
    library = str(kind.__module__).partition(".")[0]
    if library == "pyarrow" and kind.__name__.endswith("Array"):
        return _arrow_array
    return _FORMS[library].get(kind.__name__) if library in _FORMS else None


def _array(array: Any) -> Form:
    dtype = array.dtype
    if dtype.hasobject:
        return ("array", str(dtype), array.shape, array.tolist())
    if dtype.byteorder == ">" or (dtype.byteorder == "=" and sys.byteorder == "big"):
        array = array.astype(dtype.newbyteorder("<"))
    return (
        "array",
        array.dtype.str if array.dtype.fields is None else str(array.dtype),
        array.shape,
        array.tobytes("C"),
    )


def _column(values: Any) -> Form:
    """The values of a Series or an Index of pandas, without its names."""
    dtype, kind = values.dtype, type(values.dtype).__name__
    if kind == "CategoricalDtype":
        categorical = values.array
        return ("category", dtype.ordered, _column(categorical.categories), _array(categorical.codes))
    if kind == "DatetimeTZDtype":
        return ("moments", str(dtype), _array(values.array.asi8))
    if hasattr(dtype, "hasobject") and not dtype.hasobject:
        return ("values", _array(values.to_numpy()))
    missing = [bool(gone) for gone in values.isna()]
    return (
        "values",
        str(dtype),
        [None if gone else value for gone, value in zip(missing, values.tolist(), strict=True)],
    )


def _index(index: Any) -> Form:
    if hasattr(index, "levels"):
        return ("levels", list(index.names), [_column(index.get_level_values(n)) for n in range(index.nlevels)])
    return ("index", list(index.names), _column(index))


def _series(series: Any) -> Form:
    return ("series", series.name, _index(series.index), _column(series))


def _frame(frame: Any) -> Form:
    columns = [_column(frame.iloc[:, n]) for n in range(frame.shape[1])]
    return ("frame", _index(frame.columns), _index(frame.index), columns)


def _polars(frame: Any) -> Form:
    return ("polars", [(series.name, str(series.dtype), series.to_list()) for series in frame.get_columns()])


def _polars_series(series: Any) -> Form:
    return ("polars series", series.name, str(series.dtype), series.to_list())


def _arrow(table: Any) -> Form:
    columns = [table.column(n).to_pylist() for n in range(table.num_columns)]
    return ("arrow", [(field.name, str(field.type), field.nullable) for field in table.schema], columns)


def _arrow_array(array: Any) -> Form:
    return ("arrow array", str(array.type), array.to_pylist())


_NUMBERS = (
    "bool bool_ int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 complex64 complex128 str_ "
)
_FORMS: dict[str, dict[str, Callable[[Any], Form]]] = {
    "numpy": {
        "ndarray": _array,
        **dict.fromkeys(
            (_NUMBERS + "bytes_ datetime64 timedelta64 longlong ulonglong").split(),
            lambda number: _array(number.reshape(())),
        ),
    },
    "pandas": {
        "DataFrame": _frame,
        "Series": _series,
        **dict.fromkeys("Index RangeIndex MultiIndex DatetimeIndex TimedeltaIndex CategoricalIndex".split(), _index),
    },
    "polars": {"DataFrame": _polars, "Series": _polars_series},
    "pyarrow": {"Table": _arrow, "RecordBatch": _arrow},
}

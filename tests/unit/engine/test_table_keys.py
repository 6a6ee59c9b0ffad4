"""Arrays and tables in keys: equal values are equal, however they lie in memory and after every way of copying."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kapstan.engine import canonical

np: Any = pytest.importorskip("numpy")
pd: Any = pytest.importorskip("pandas")
pa: Any = pytest.importorskip("pyarrow")

GRID = np.arange(12).reshape(3, 4)


def frame() -> Any:
    return pd.DataFrame(
        {
            "a": [1, 2, 3],
            "b": ["x", "y", None],
            "c": pd.to_datetime(["2020-01-01", "2021-01-01", None]),
            "d": pd.Categorical(["a", "b", "a"]),
            "e": pd.to_datetime(["2020-01-01"] * 3).tz_localize("UTC"),
            "f": [1.5, float("nan"), 2],
            "g": pd.array([1, None, 3], dtype="Int64"),
        }
    )


SAME: dict[str, list[Any]] = {
    "order in memory": [GRID, np.asfortranarray(GRID), GRID.copy(), GRID.T.T],
    "strides": [GRID[:, ::2], GRID[:, ::2].copy()],
    "byte order": [GRID.astype(">i8"), GRID.astype("<i8")],
    "objects": [np.array(["a", 1, None], dtype=object), np.array(["a", 1, None], dtype=object)],
    "records": [np.array([(1, 2.0)], dtype=[("x", "i4"), ("y", "f8")]) for _ in range(2)],
    "a number": [np.float64(1.5), np.array([1.5])[0]],
    "a table": [frame(), frame().copy(), frame().iloc[:]],
    "a column": [frame()["a"], pd.Series([1, 2, 3], name="a")],
    "an index": [pd.RangeIndex(3), pd.Index([0, 1, 2])],
    "levels": [pd.MultiIndex.from_tuples([(1, "a"), (2, "b")]), pd.MultiIndex.from_arrays([[1, 2], ["a", "b"]])],
    "chunks": [pa.table({"a": [1, 2]}), pa.concat_tables([pa.table({"a": [1]}), pa.table({"a": [2]})])],
    "a part of an array": [pa.array([1, 2]), pa.array([1, 2, 3])[:2]],
}
DIFFERENT: list[Any] = [
    GRID,
    GRID.T,
    GRID.reshape(4, 3),
    GRID.astype("f8"),
    GRID.astype("i4"),
    GRID + 1,
    GRID.tolist(),
    frame(),
    frame().rename(columns={"a": "z"}),
    frame().set_index("a"),
    frame()[["b", "a"]],
    frame().assign(a=[1, 2, 4]),
    frame().assign(d=["a", "b", "a"]),
    frame().assign(e=frame()["c"]),
    frame()["a"],
    frame()["a"].rename("z"),
    pa.table({"a": [1, 2]}),
    pa.table({"a": [1, 2]}, schema=pa.schema([("a", pa.int32())])),
    pa.table({"b": [1, 2]}),
    np.float64(1.5),
    np.float32(1.5),
    1.5,
]


def digest(value: Any) -> str:
    assert canonical.unkeyable(value) == []
    return canonical.digest({"value": value})


@pytest.mark.parametrize("name", SAME)
def test_equal_values_have_one_key(name: str) -> None:
    assert len({digest(value) for value in SAME[name]}) == 1
    assert {digest(pickle.loads(pickle.dumps(value))) for value in SAME[name]} == {digest(SAME[name][0])}


def test_other_values_types_and_names_have_other_keys() -> None:
    assert len({digest(value) for value in DIFFERENT}) == len(DIFFERENT)


def test_what_a_table_remembers_does_not_count() -> None:
    table = frame()
    before = digest(table)
    assert table.groupby("a").size().sum() == 3
    assert table.index.is_unique
    assert digest(table) == before


def test_another_process_agrees() -> None:
    here = {name: digest(values[0]) for name, values in SAME.items()}
    program = (
        "import json; from tests.unit.engine.test_table_keys import SAME, digest; "
        "print(json.dumps({name: digest(values[0]) for name, values in SAME.items()}))"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True)
    assert json.loads(done.stdout) == here, done.stderr

"""DataFrames, figures and arrays as files."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

import upload_kit as uk
from upload_kit.destinations.memory import memory_folder
from upload_kit.errors import ConfigurationError
from upload_kit.notebook.sources import to_source

if TYPE_CHECKING:
    from pathlib import Path

TABLE = pd.DataFrame({"a": [1, 2], "b": ["x", None]})


def stored(source: Any, name: str | None = None) -> tuple[str, bytes]:
    """Upload something, and return its name and its bytes there."""
    result = uk.upload(source, "memory://sources/", progress=None, name=name)
    folder = memory_folder("sources")
    return result.name, folder.objects[result.name]


def test_a_table_as_parquet() -> None:
    """A DataFrame without a name becomes parquet."""
    name, data = stored(TABLE)
    assert name == "table.parquet"
    pd.testing.assert_frame_equal(pd.read_parquet(io.BytesIO(data)), TABLE)


@pytest.mark.parametrize(
    ("table", "text"),
    [
        pytest.param(TABLE, "a,b\n1,x\n2,\n", id="plain index"),
        pytest.param(
            TABLE.set_index("b"), "b,a\nx,1\n,2\n", id="an index that says something"
        ),
    ],
)
def test_a_table_as_csv(table: pd.DataFrame, text: str) -> None:
    """By its name it becomes CSV, with the index where that is data."""
    name, data = stored(table, "table.CSV")
    assert name == "table.CSV"
    assert data.decode() == text


@pytest.mark.parametrize(
    ("name", "start"),
    [
        pytest.param(None, b"\x89PNG", id="usual"),
        pytest.param("plot.pdf", b"%PDF", id="pdf"),
        pytest.param("plot.svg", b"<?xml", id="svg"),
    ],
)
def test_a_figure(name: str | None, start: bytes) -> None:
    """A figure becomes what its name says; a picture by default."""
    mpl.use("agg")
    figure = Figure()
    figure.subplots().plot([1, 2])
    shown, data = stored(figure, name)
    assert shown == (name or "figure.png")
    assert data.startswith(start)


def test_an_array() -> None:
    """An array comes back from `numpy.load` as it was."""
    array = np.arange(6.0).reshape(2, 3)
    name, data = stored(array)
    assert name == "array.npy"
    np.testing.assert_array_equal(np.load(io.BytesIO(data)), array)


@pytest.mark.parametrize(
    ("source", "name", "message"),
    [
        pytest.param(TABLE, "table.xlsx", "parquet or something.csv", id="table"),
        pytest.param(Figure(), "plot", "endings: .*png", id="figure"),
        pytest.param(np.zeros(1), "a.bin", "something.npy", id="array"),
        pytest.param(np.array([{}]), "a.npy", "array of object", id="objects"),
    ],
)
def test_names_that_do_not_fit(source: Any, name: str, message: str) -> None:
    """What cannot be written under a name is told, with what can."""
    with pytest.raises(ConfigurationError, match=message):
        to_source(source, name)


def test_the_rest_is_left_alone(tmp_path: Path) -> None:
    """Paths and bytes are no objects to be written."""
    for source in (str(tmp_path), tmp_path, b"bytes"):
        assert to_source(source, None) == (source, None)


def test_many_at_once() -> None:
    """A dictionary may hold all of them, each by the name it is given."""
    results = uk.upload_many(
        {"t.csv": TABLE, "a.npy": np.zeros(2), "b.bin": b"x"},
        "memory://sources/",
        progress=None,
    )
    assert [result.success for result in results] == [True] * 3


@pytest.mark.parametrize(
    "sources",
    [
        pytest.param(TABLE, id="alone"),
        pytest.param([b"x", TABLE], id="in a list"),
    ],
)
def test_many_need_names(sources: Any) -> None:
    """Objects without a name of their own are handed in by names."""
    with pytest.raises(ConfigurationError, match="dictionary of names"):
        uk.upload_many(sources, "memory://sources/", progress=None)

"""What people have in a notebook, as something that can be uploaded."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from upload_kit.errors import ConfigurationError, MissingExtra

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from matplotlib.figure import Figure
    from numpy.typing import NDArray
    from pandas import DataFrame

    from upload_kit.sources.factory import SourceLike

    NotebookSource: TypeAlias = SourceLike | DataFrame | Figure | NDArray[Any]
    NotebookSources: TypeAlias = (
        SourceLike | Iterable[SourceLike] | Mapping[str, NotebookSource]
    )

_TABLE: Final = "table.parquet"
_FIGURE: Final = "figure.png"
_ARRAY: Final = "array.npy"


def to_source(source: Any, name: str | None) -> tuple[SourceLike, str | None]:
    """
    Return a source as bytes if it is an object of pandas, matplotlib or NumPy.

    A DataFrame becomes parquet or CSV, by its name; a figure what its name says, such
    as PNG or PDF; an array what `numpy.load` reads.

    Args:
        source: Whatever was handed in; what is none of them comes back as it is.

        name: File name at the destination; None for a usual one.

    Raises:
        ConfigurationError: It cannot be written under such a name.
        MissingExtra: A package that writes it is not installed.
    """
    for package, kind, write, usual in _WRITERS:
        if isinstance(source, _loaded(package, kind)):
            name = name or usual
            return write(source, name), name
    return source, name


def is_object(source: object) -> bool:
    """Return whether it is one of those that `to_source` turns into bytes."""
    return any(isinstance(source, _loaded(*one[:2])) for one in _WRITERS)


def _loaded(package: str, kind: str) -> type | tuple[()]:
    """Return a class if its module was imported: else nothing can be one of it."""
    found: type | tuple[()] = getattr(sys.modules.get(package), kind, ())
    return found


def _write_table(table: DataFrame, name: str) -> bytes:
    lower = name.lower()
    if lower.endswith((".parquet", ".pq")):
        buffer = io.BytesIO()
        try:
            table.to_parquet(buffer)
        except ImportError as error:
            raise MissingExtra("pyarrow", "notebook") from error
        return buffer.getvalue()
    if lower.endswith(".csv"):
        from pandas import RangeIndex

        plain = isinstance(table.index, RangeIndex) and table.index.name is None
        return table.to_csv(index=not plain).encode()
    raise ConfigurationError(
        f"A DataFrame cannot be written as {name!r}.",
        hint="Name it something.parquet or something.csv.",
    )


def _write_figure(figure: Figure, name: str) -> bytes:
    kind = name.rpartition(".")[2].lower()
    known = figure.canvas.get_supported_filetypes()
    if "." not in name or kind not in known:
        raise ConfigurationError(
            f"A figure cannot be written as {name!r}.",
            hint=f"Give it one of these endings: {', '.join(sorted(known))}.",
        )
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, bbox_inches="tight")
    return buffer.getvalue()


def _write_array(array: NDArray[Any], name: str) -> bytes:
    import numpy as np

    if not name.lower().endswith(".npy"):
        raise ConfigurationError(
            f"An array cannot be written as {name!r}.", hint="Name it something.npy."
        )
    buffer = io.BytesIO()
    try:
        np.save(buffer, array, allow_pickle=False)
    except ValueError as error:
        raise ConfigurationError(
            f"An array of {array.dtype} cannot be written: {error}.",
            hint="Turn it into numbers or fixed-width strings.",
        ) from error
    return buffer.getvalue()


_WRITERS: Final[tuple[tuple[str, str, Callable[[Any, str], bytes], str], ...]] = (
    ("pandas", "DataFrame", _write_table, _TABLE),
    ("matplotlib.figure", "Figure", _write_figure, _FIGURE),
    ("numpy", "ndarray", _write_array, _ARRAY),
)

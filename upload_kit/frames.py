"""How records that know nothing of pandas get to be DataFrames when somebody asks."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from upload_kit.errors import MissingExtra

if TYPE_CHECKING:
    from pandas import DataFrame

_MAKERS: Final = "upload_kit.notebook.frames"
# Without the extra neither is there, and which one is missed first is chance.
_OPTIONAL: Final = ("numpy", "pandas")


def make_frame(maker: str, *data: Any) -> DataFrame:
    """
    Return what a function of `upload_kit.notebook.frames` makes of the data.

    Named, not imported: it stands floors above whoever calls this, and it needs pandas.

    Raises:
        MissingExtra: pandas is not installed.
    """
    try:
        makers = import_module(_MAKERS)
    except ModuleNotFoundError as error:
        if error.name not in _OPTIONAL:
            raise
        raise MissingExtra(error.name, "notebook") from error
    frame: DataFrame = getattr(makers, maker)(*data)
    return frame

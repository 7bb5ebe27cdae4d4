"""The rows of a statement, as every database's execution returns them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Rows:
    """What a statement returned, already in the JSON form that docs/values.md describes.

    *types* are the database's own names, one a column; *more* tells that rows were left unread.
    """

    columns: list[str]
    types: list[str]
    rows: list[Sequence[Any]]
    more: bool = False

"""How settings name tables and columns: `schema.table`, `table`, `table.column`, with `*` for any characters in a part.

A part in double quotes is taken as it is.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from manydb import lineage
from manydb.errors import BadParameter

_PART = re.compile(r'"((?:[^"]|"")+)"|([^\s".](?:[^".]*[^\s".])?)')


@dataclass(frozen=True, slots=True)
class Pattern:
    """The parts of a pattern; *exact* tells that it names one thing. A missing schema is `*`."""

    parts: tuple[str, ...]
    quoted: tuple[bool, ...]

    @classmethod
    def of(cls, text: str, *, key: str, least: int, most: int) -> Self:
        """Read *text*, which has *least* to *most* parts. Raises BadParameter naming *key*."""
        parts: list[str] = []
        quoted: list[bool] = []
        position = 0
        while True:
            match = _PART.match(text, position)
            if match is None or len(parts) == most:
                break
            parts.append(match[1].replace('""', '"') if match[1] else match[2])
            quoted.append(bool(match[1]))
            position = match.end()
            if position == len(text) and len(parts) >= least:
                missing = most - len(parts)
                return cls(("*",) * missing + tuple(parts), (False,) * missing + tuple(quoted))
            if text[position : position + 1] != ".":
                break
            position += 1
        form = "schema.table.column or table.column" if most == 3 else "schema.table or table"
        raise BadParameter(f"{key}: {text!r} is not a pattern; it looks like {form}, with * for any characters")

    @property
    def exact(self) -> bool:
        """Does the last part name one thing?"""
        return self.quoted[-1] or "*" not in self.parts[-1]

    def fits(self, names: Sequence[str], *, folds: bool) -> bool:
        return all(
            _fits(part, name, quoted=quoted, folds=folds)
            for part, quoted, name in zip(self.parts, self.quoted, names, strict=False)
        )


def _fits(part: str, name: str, *, quoted: bool, folds: bool) -> bool:
    if folds:
        part, name = lineage.fold(part), lineage.fold(name)
    if quoted or "*" not in part:
        return part == name
    return re.fullmatch(".*".join(map(re.escape, part.split("*"))), name, re.DOTALL) is not None

"""Finding tables, columns and indexes by a part of their name or comment."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from manydb import errors
from manydb.dialects.schema import ColumnEntry, IndexEntry, Place, Relation, Snapshot, TableName
from manydb.names import Quote, spelled

Subject = Literal["tables", "columns", "indexes"]
SUBJECTS: tuple[Subject, ...] = ("tables", "columns", "indexes")

_LONGEST_COMMENT = 120
"""Characters of a comment in a list; a described table shows all of it."""

_Hit = tuple[int, Place, Relation | ColumnEntry | IndexEntry]


@dataclass(frozen=True, slots=True)
class Pattern:
    """What a caller searches for: `%` or `*` stand for anything, else every word must occur. All texts are folded."""

    words: tuple[str, ...]
    whole: re.Pattern[str] | None

    @classmethod
    def of(cls, text: str) -> "Pattern":
        folded = text.strip().casefold()
        if not re.search(r"[%*]", folded):
            return cls(tuple(folded.split()), None)
        expression = ".*".join(re.escape(piece) for piece in re.split(r"[%*]+", folded))
        return cls((), re.compile(expression, re.DOTALL))

    @property
    def needle(self) -> str:
        """A text without which nothing fits that has no context: looking for it is cheaper than `rank`."""
        return max(self.words, key=len, default="")

    def rank(self, name: str, comment: str, context: str = "") -> int | None:
        """How well it fits, 0 best; None where it does not. *context* may hold some of the words, never all."""
        if self.whole is not None:
            return 0 if self.whole.fullmatch(name) else 4 if comment and self.whole.fullmatch(comment) else None
        own = [word in name or word in comment for word in self.words]
        if not all(own) and not (
            any(own) and all(word in context or hit for word, hit in zip(self.words, own, strict=True))
        ):
            return None
        phrase = " ".join(self.words)
        if name == phrase:
            return 0
        return (
            1
            if name.startswith(phrase)
            else 2
            if phrase in name
            else 3
            if any(word in name for word in self.words)
            else 4
        )


def run(
    snapshot: Snapshot, pattern: str, quote: Quote, *, subjects: Sequence[Subject] = SUBJECTS, limit: int = 50
) -> dict[str, Any]:
    """Tables, views, columns and indexes whose name or comment fits, the best *limit* of them.

    Several words must all occur; for a column, some of them may be in its table's name. Columns that are told alike are
    told once, with the names of their tables joined by commas. An index whose table fits, too, is left out. *total*
    counts all that fit. Raises BadParameter.
    """
    if not pattern.strip():
        raise errors.BadParameter("pattern is empty; list_tables lists everything")
    fits = Pattern.of(pattern)
    found = {subject: list(_FINDERS[subject](snapshot, fits)) for subject in subjects}
    best = sorted(
        ((rank, SUBJECTS.index(subject), place, entry) for subject in found for rank, place, entry in found[subject]),
        key=lambda hit: hit[:3],
    )
    shown = [entry for *_, entry in best[:limit]]
    reply: dict[str, Any] = {
        "tables": [_table_line(each, snapshot, quote) for each in shown if isinstance(each, Relation)],
        "columns": _columns((each for each in shown if isinstance(each, ColumnEntry)), snapshot, quote),
        "indexes": [_index_line(each, snapshot, quote) for each in shown if isinstance(each, IndexEntry)],
    }
    reply = {subject: hits for subject, hits in reply.items() if hits} | {"total": len(best)}
    if len(best) > limit:
        reply["hint"] = f"the best {limit} of {len(best)}; use a narrower pattern or a higher limit"
    return reply


# -- hits --------------------------------------------------------------------------------------------------------------


def _tables(snapshot: Snapshot, fits: Pattern) -> Iterator[_Hit]:
    needle = fits.needle
    for relation, name, comment in snapshot.overview.folded:
        if (needle in name or needle in comment) and (rank := fits.rank(name, comment)) is not None:
            yield rank, snapshot.overview.place(relation.address), relation


def _named_columns(snapshot: Snapshot, fits: Pattern) -> Iterator[_Hit]:
    for (name, comment), entries in snapshot.folded_columns.items():
        rank = fits.rank(name, comment)
        needs_context = rank is None and any(word in name or word in comment for word in fits.words)
        if rank is None and not needs_context:
            continue
        for entry in entries:
            own = fits.rank(name, comment, entry.table.casefold()) if needs_context else rank
            if own is not None:
                yield own, snapshot.overview.place(TableName(entry.schema, entry.table)), entry


def _named_indexes(snapshot: Snapshot, fits: Pattern) -> Iterator[_Hit]:
    needle = fits.needle
    for entry, name in snapshot.folded_indexes:
        rank = fits.rank(name, "") if needle in name else None
        # Most indexes bear the name of their table, which is told already.
        if rank is not None and fits.rank(entry.table.casefold(), "") is None:
            yield rank, snapshot.overview.place(TableName(entry.schema, entry.table)), entry


_FINDERS = {"tables": _tables, "columns": _named_columns, "indexes": _named_indexes}


# -- lines -------------------------------------------------------------------------------------------------------------


def _table_line(relation: Relation, snapshot: Snapshot, quote: Quote) -> str:
    line = spelled(snapshot.overview, relation.address, quote)
    line += f" ({relation.kind.replace('_', ' ')})" if relation.kind != "table" else ""
    return commented(line, shortened(relation.comment))


def _columns(entries: Iterable[ColumnEntry], snapshot: Snapshot, quote: Quote) -> dict[str, str]:
    tables: dict[str, list[str]] = {}
    for entry in entries:
        line = commented(f"{quote(entry.name)} {entry.type}".rstrip(), shortened(entry.comment))
        tables.setdefault(line, []).append(spelled(snapshot.overview, TableName(entry.schema, entry.table), quote))
    return {line: ",".join(names) for line, names in tables.items()}


def _index_line(entry: IndexEntry, snapshot: Snapshot, quote: Quote) -> str:
    table = spelled(snapshot.overview, TableName(entry.schema, entry.table), quote)
    unique = "unique " if entry.unique else ""
    return f"{unique}{quote(entry.name)} on {table} ({', '.join(entry.columns)})"


def shortened(comment: str) -> str:
    """*comment* in one line of a list."""
    line = " ".join(comment.split())
    return line if len(line) <= _LONGEST_COMMENT else line[: _LONGEST_COMMENT - 1] + "…"


def commented(line: str, comment: str) -> str:
    """*line* with *comment*, if there is one."""
    return f"{line} -- {comment}" if comment else line

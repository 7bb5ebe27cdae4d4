"""Unique keys: the one that a row meets another by, and what a row that is refused would tell of it."""

import re
from collections.abc import Sequence
from typing import Any

from manydb import reads, statements
from manydb.connections import Registration
from manydb.dialects.loading import Load
from manydb.dialects.schema import Column, Table
from manydb.errors import BadParameter, Forbidden, Unsupported
from manydb.gateway import Gateway
from manydb.inserts.request import Request, Row


def _unique_keys(registration: Registration, table: Table) -> list[tuple[str, ...]]:
    """The columns of each unique key that a row can be told by; the primary key first."""
    spelled = {registration.dialect.quote(column.name): column.name for column in table.columns}
    spelled |= {column.name: column.name for column in table.columns}
    keys = [table.primary_key] if table.primary_key else []
    plain = (each for each in table.indexes if each.unique and not each.where and spelled.keys() >= set(each.columns))
    return [*keys, *(tuple(spelled[part] for part in index.columns) for index in plain)]


def chosen(registration: Registration, request: Request, table: Table, columns: Sequence[Column]) -> tuple[str, ...]:
    """The columns of the key that ``on_conflict`` is about; none for ``error``. Raises BadParameter, Unsupported."""
    if request.on_conflict == "error":
        return ()
    keys = _unique_keys(registration, table)
    given = {column.name for column in columns}
    told = ", ".join(f"({', '.join(key)})" for key in keys) or "none"
    usable = [key for key in keys if given.issuperset(key)]
    if request.key is not None:
        usable = [key for key in usable if set(key) == set(request.key)]
    if not usable:
        raise BadParameter(
            f"on_conflict needs a unique key all of whose columns are given; {table.name} has: {told}", key=request.key
        )
    others = [key for key in keys if key != usable[0] and given.issuperset(key)]
    if request.on_conflict == "update" and others and not registration.dialect.chooses_key:
        raise Unsupported(
            f"{registration.dialect.title} updates whatever row meets any unique key, and two are given: {told}; "
            "leave the columns of one out, or update those rows instead"
        )
    return usable[0]


async def require_discreet(
    gateway: Gateway, registration: Registration, table: Table, columns: Sequence[Column]
) -> None:
    """Raises Forbidden where inserting would tell what the connection hides: that a row meets a masked value."""
    if registration.policy.is_open:
        return
    grammar, quote = registration.dialect.grammar, registration.dialect.quote
    address = ".".join(map(quote, filter(None, table.address)))
    # What reading the table would conceal knows of parents and partitions too.
    verdict = await reads.judged(gateway, registration, statements.parse(f"SELECT * FROM {address}", grammar))
    masked = {table.columns[place].name for place in verdict.masked if place < len(table.columns)}
    masked |= registration.policy.masked(*table.address, [column.name for column in table.columns])
    telling = [*table.primary_key]
    for index in table.indexes:
        if index.unique:
            telling += [*index.columns, index.where]
    words = {word for part in telling for word in (part, *re.findall(r"\w+", part))}
    for column in columns:
        if column.name in masked and column.name in words:
            raise Forbidden(
                f"column {column.name} is masked and part of a unique key: what is refused would tell its values",
                suggestions=["use a connection without masks"],
            )


def require_distinct(load: Load, rows: Sequence[Row]) -> None:
    """Two rows with one key would overwrite each other, and not every database allows it."""
    if not load.changed:
        return
    places = [load.names.index(name) for name in load.key]
    seen: dict[Any, int] = {}
    try:
        for number, row in enumerate(rows):
            values = tuple(row[place] for place in places)
            if None not in values and seen.setdefault(values, number) != number:
                raise BadParameter(
                    f"rows {seen[values]} and {number} have the same key ({', '.join(load.key)})", row=number
                )
    except TypeError:
        return  # of values that Python cannot compare the database will tell

"""Schemas as a model reads them: pure functions from the records of `dialects.schema` to small JSON-able replies.

Names are written as SQL needs them, with *quote* as in `names`.
"""

import base64
import binascii
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

from manydb import errors
from manydb.dialects.schema import (
    KINDS,
    Column,
    ForeignKey,
    Index,
    Overview,
    Relation,
    Table,
    TableName,
)
from manydb.names import Quote, spelled, suggest_columns
from manydb.search import Pattern, commented, shortened

Detail = Literal["names", "summary"]

_MOST_REFERENCES = 40
"""References to one table that its description spells out."""
_GROUPS = {
    "table": "tables",
    "partitioned_table": "tables",
    "partition": "partitions",
    "foreign_table": "foreign_tables",
    "virtual_table": "virtual_tables",
    "view": "views",
    "materialized_view": "materialized_views",
}


# -- list_tables -------------------------------------------------------------------------------------------------------


def list_tables(
    overview: Overview,
    quote: Quote,
    *,
    schema: str | None = None,
    pattern: str | None = None,
    kind: str | None = None,
    detail: Detail = "names",
    limit: int = 1000,
    cursor: str | None = None,
) -> dict[str, Any]:
    """A page of tables and views; the default schema first, then by schema and name.

    ``names``: kind → schema → names, joined by commas (a name with a comma in it is quoted). ``summary``: a line each,
    `name | kind | ~rows | columns | comment`, where a table's kind and what is not known are left out. *total* counts
    what matches; *next* is the cursor of the following page. Raises BadParameter.
    """
    found = _listed(overview, schema, pattern, kind)
    start = _position(found, overview, cursor) if cursor else 0
    page = found[start : start + limit]
    content = _summary(page, overview, quote) if detail == "summary" else _names(page, quote)
    reply: dict[str, Any] = {**content, "total": len(found)}
    if len({relation.schema for relation in page}) > 1 and overview.default_schema:
        reply["default_schema"] = overview.default_schema
    if page and start + limit < len(found):
        reply["next"] = _cursor(page[-1].address)
    return reply


def _listed(overview: Overview, schema: str | None, pattern: str | None, kind: str | None) -> list[Relation]:
    wanted = _schema(overview, schema) if schema else None
    kinds = _kinds(kind) if kind else frozenset(KINDS)
    fits = Pattern.of(pattern) if pattern else None
    return [
        relation
        for relation, name, comment in overview.folded
        if wanted in (None, relation.schema)
        and relation.kind in kinds
        and (fits is None or fits.rank(name, comment) is not None)
    ]


def _schema(overview: Overview, schema: str) -> str:
    folded = {known.casefold(): known for known in overview.schemas}
    if schema in overview.schemas:
        return schema
    if schema.casefold() in folded:
        return folded[schema.casefold()]
    known = ", ".join(overview.schemas[:20])
    raise errors.BadParameter(
        f"no schema {schema!r} with tables; known: {known}", suggestions=suggest_columns(overview.schemas, schema)
    )


def _kinds(kind: str) -> frozenset[str]:
    """A kind as callers write it; `table` covers partitioned tables, which are used alike."""
    wanted = kind.strip().lower().replace(" ", "_")
    kinds = frozenset({"table", "partitioned_table"} if wanted in {"table", "tables"} else {wanted, wanted.rstrip("s")})
    if not kinds & frozenset(KINDS):
        raise errors.BadParameter(f"no kind {kind!r}; known: {', '.join(KINDS)}")
    return kinds


def _cursor(address: TableName) -> str:
    return base64.urlsafe_b64encode(json.dumps(address, ensure_ascii=False).encode()).decode().rstrip("=")


def _position(found: Sequence[Relation], overview: Overview, cursor: str) -> int:
    """The index after the cursor's relation, which may have been dropped since."""
    try:
        schema, name = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        last = overview.place(TableName(str(schema), str(name)))
    except (binascii.Error, ValueError, TypeError) as exc:
        raise errors.BadParameter("cursor is not one that a reply gave as 'next'") from exc
    return sum(overview.place(relation.address) <= last for relation in found)


def _names(page: Iterable[Relation], quote: Quote) -> dict[str, Any]:
    groups: dict[str, dict[str, list[str]]] = {}
    for relation in page:
        groups.setdefault(_GROUPS[relation.kind], {}).setdefault(relation.schema, []).append(quote(relation.name))
    return {
        group: {schema: ",".join(names) for schema, names in groups[group].items()}
        for group in dict.fromkeys(_GROUPS.values())
        if group in groups
    }


def _summary(page: Iterable[Relation], overview: Overview, quote: Quote) -> dict[str, Any]:
    return {"tables": [_summary_line(relation, overview, quote) for relation in page]}


def _summary_line(relation: Relation, overview: Overview, quote: Quote) -> str:
    facts = (
        spelled(overview, relation.address, quote),
        relation.kind.replace("_", " ") if relation.kind != "table" else "",
        f"~{relation.rows} rows" if relation.rows is not None else "",
        f"{relation.columns} columns" if relation.columns is not None else "",
        shortened(relation.comment),
    )
    return " | ".join(fact for fact in facts if fact)


# -- get_table_schema --------------------------------------------------------------------------------------------------


def table_reply(table: Table, overview: Overview, quote: Quote) -> dict[str, Any]:
    """One table or view: a line a column, then a line for each key, index, check and reference; nothing said twice.

    `id bigint pk identity`, `customer_id bigint not null -> customers.id on delete cascade`,
    `status varchar(10) not null default 'new' in (new|paid) -- comment`. Keys of the reply: table, kind (unless it is a
    table), rows (the database's estimate), comment, columns, keys, definition; empty ones are left out.
    """
    relation = overview.by_address.get(table.address)
    reply = {
        "table": spelled(overview, table.address, quote),
        "kind": "" if table.kind == "table" else table.kind,
        "rows": f"~{relation.rows}" if relation and relation.rows is not None else "",
        "comment": table.comment,
        "columns": [_column_line(column, table, overview, quote) for column in table.columns],
        "keys": list(_key_lines(table, overview, quote)),
        "definition": table.definition,
    }
    return {key: value for key, value in reply.items() if value}


def _column_line(column: Column, table: Table, overview: Overview, quote: Quote) -> str:
    is_key = table.primary_key == (column.name,)
    name = quote(column.name)
    words = (
        name,
        column.type,
        f"= {column.base}" if column.base else "",
        "pk" if is_key else "",
        column.identity,
        "" if column.nullable or column.name in table.primary_key else "not null",
        "unique" if any(_is_plain_unique(index, name) for index in table.indexes) else "",
        f"default {column.default}" if column.default is not None else "",
        f"generated as ({column.generated})" if column.generated else "",
        f"in ({'|'.join(column.values)})" if column.values else "",
        *(_target(key, overview, quote) for key in table.foreign_keys if key.columns == (column.name,)),
    )
    return commented(" ".join(word for word in words if word), " ".join(column.comment.split()))


def _is_plain_unique(index: Index, column: str) -> bool:
    """Whether *index* says no more than that *column* (as SQL text) is unique."""
    return index.unique and index.columns == (column,) and index == Index(index.name, (column,), unique=True)


def _key_lines(table: Table, overview: Overview, quote: Quote) -> Iterator[str]:
    if len(table.primary_key) > 1:
        yield f"pk ({_listing(table.primary_key, quote)})"
    on_column_lines = {quote(column.name) for column in table.columns}
    for index in table.indexes:
        if not any(_is_plain_unique(index, name) for name in on_column_lines.intersection(index.columns)):
            yield _index_line(index, quote)
    for key in table.foreign_keys:
        if len(key.columns) > 1:
            yield f"fk ({_listing(key.columns, quote)}) {_target(key, overview, quote)}"
    if table.referenced_by:
        yield _references(table, overview, quote)
    yield from (f"check {check}" for check in table.checks)
    yield from table.notes


def _listing(columns: Iterable[str], quote: Quote) -> str:
    return ", ".join(map(quote, columns))


def _index_line(index: Index, quote: Quote) -> str:
    words = (
        "unique" if index.unique else "index",
        quote(index.name) if index.name else "",
        f"using {index.method}" if index.method else "",
        f"({', '.join(index.columns)})",
        f"include ({', '.join(index.include)})" if index.include else "",
        f"where {index.where}" if index.where else "",
    )
    return " ".join(word for word in words if word)


def _target(key: ForeignKey, overview: Overview, quote: Quote) -> str:
    """`-> customers.id on delete cascade`; several columns stand in brackets, an implied key is left out."""
    words = (
        f"-> {_place_of(key.target, key.target_columns, overview, quote)}",
        f"on delete {key.on_delete}" if key.on_delete else "",
        f"on update {key.on_update}" if key.on_update else "",
    )
    return " ".join(word for word in words if word)


def _place_of(table: TableName, columns: Sequence[str], overview: Overview, quote: Quote) -> str:
    name = spelled(overview, table, quote)
    if not columns:
        return name
    return f"{name}.{quote(columns[0])}" if len(columns) == 1 else f"{name}({_listing(columns, quote)})"


def _references(table: Table, overview: Overview, quote: Quote) -> str:
    """Who refers to *table*; the column referred to is named where it is not the primary key."""
    shown = [
        _place_of(key.table, key.columns, overview, quote)
        + ("" if key.target_columns in {(), table.primary_key} else f" -> {_listing(key.target_columns, quote)}")
        for key in table.referenced_by[:_MOST_REFERENCES]
    ]
    more = len(table.referenced_by) - len(shown)
    return f"referenced by {', '.join(shown)}" + (f" and {more} more" if more else "")

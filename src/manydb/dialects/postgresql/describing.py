"""What PostgreSQL tells of tables that are named: one statement, whose parts look up no more than an index each.

The planner costs more here than what it plans: subqueries and joins for facts that few tables have are left to
statements of their own, for those tables.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from operator import itemgetter
from typing import Any, NamedTuple

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from manydb.dialects.postgresql import literals
from manydb.dialects.postgresql.libpq import asking
from manydb.dialects.schema import Column, Index, Kind, Table, TableName, in_order

# Each row is a JSON array: the part that it tells of, its relation's number, and what the functions below name. Where
# tables of several schemas are asked for, more may be found than that.
_DESCRIBE = """
WITH asked AS MATERIALIZED (
    SELECT c.oid, n.nspname, c.relname, c.relkind, c.relispartition, c.relrowsecurity, c.relpartbound
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = ANY (CAST(:schemas AS text[])) AND c.relname = ANY (CAST(:names AS text[]))
        AND c.relkind IN ('r', 'p', 'v', 'm', 'f'))
SELECT json_build_array('relation', c.oid::bigint, c.nspname, c.relname, c.relkind, c.relispartition, c.relrowsecurity,
    CASE WHEN c.relkind IN ('v', 'm') THEN pg_get_viewdef(c.oid, true) END,
    CASE WHEN c.relkind = 'p' THEN pg_get_partkeydef(c.oid) END, pg_get_expr(c.relpartbound, c.oid))::text
FROM asked c
UNION ALL
SELECT json_build_array('column', a.attrelid::bigint, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod),
    a.atttypid::bigint, a.attnotnull, a.attidentity, a.attgenerated, pg_get_expr(d.adbin, d.adrelid, true),
    CASE WHEN pg_get_expr(d.adbin, d.adrelid) LIKE 'nextval(%'
        THEN pg_get_serial_sequence(a.attrelid::regclass::text, a.attname) IS NOT NULL END)::text
FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = ANY (ARRAY(SELECT oid FROM asked)) AND a.attnum > 0 AND NOT a.attisdropped
UNION ALL
SELECT json_build_array('index', x.indrelid::bigint, i.relname, x.indisunique,
    i.relam::bigint, pg_get_expr(x.indpred, x.indrelid, true), x.indnkeyatts, x.indoption::text,
    ARRAY(SELECT pg_get_indexdef(x.indexrelid, k, true) FROM generate_series(1, x.indnatts) k))::text
FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
WHERE x.indrelid = ANY (ARRAY(SELECT oid FROM asked)) AND NOT x.indisprimary
UNION ALL
SELECT json_build_array('constraint', k.conrelid::bigint, k.conname, k.contype, k.conkey,
    CASE k.contype WHEN 'c' THEN pg_get_expr(k.conbin, k.conrelid, true)
         WHEN 'x' THEN pg_get_constraintdef(k.oid, true) END)::text
FROM pg_constraint k WHERE k.conrelid = ANY (ARRAY(SELECT oid FROM asked)) AND k.contype IN ('p', 'c', 'x')
UNION ALL
SELECT json_build_array('comment', o.objoid::bigint, o.objsubid, o.description)::text
FROM pg_description o WHERE o.objoid = ANY (ARRAY(SELECT oid FROM asked)) AND o.classoid = 'pg_class'::regclass
UNION ALL
SELECT json_build_array('parent', h.inhrelid::bigint, h.inhseqno, h.inhparent::regclass)::text
FROM pg_inherits h WHERE h.inhrelid = ANY (ARRAY(SELECT oid FROM asked))"""
# Enums and domains, and arrays of enums.
_TYPES = """
SELECT json_build_array(t.oid::bigint, t.typnotnull,
    CASE WHEN t.typtype = 'd' THEN format_type(t.typbasetype, t.typtypmod) || coalesce((
        SELECT string_agg(' ' || pg_get_constraintdef(k.oid, true), '' ORDER BY k.conname)
        FROM pg_constraint k WHERE k.contypid = t.oid AND k.contype = 'c'), '') END,
    CASE WHEN t.typtype IN ('e', 'd') OR t.typcategory = 'A' THEN (
        SELECT json_agg(e.enumlabel ORDER BY e.enumsortorder) FROM pg_enum e
        WHERE e.enumtypid IN (t.oid, t.typelem, t.typbasetype)) END)::text
FROM pg_type t WHERE t.oid = ANY (CAST(:numbers AS oid[]))"""
_SERVERS = """
SELECT json_build_array(g.ftrelid::bigint, quote_ident(v.srvname))::text
FROM pg_foreign_table g JOIN pg_foreign_server v ON v.oid = g.ftserver
WHERE g.ftrelid = ANY (CAST(:numbers AS oid[]))"""

_METHODS = """
SELECT json_build_array(m.oid::bigint, m.amname)::text FROM pg_am m WHERE m.oid = ANY (CAST(:numbers AS oid[]))"""

_KINDS: dict[str, Kind] = {"p": "partitioned_table", "v": "view", "m": "materialized_view", "f": "foreign_table"}
_FIRST_MADE = 12_000
"""Numbers from here on are not of the types that PostgreSQL is built with, of which none is an enum or a domain."""
_BTREE = 403
# The numbers of what it is built with are fixed in its source.
_BUILT_IN_METHODS = {_BTREE: "", 405: "hash", 783: "gist", 2742: "gin", 3580: "brin", 4000: "spgist"}
_SHORT_TYPES = (
    (re.compile(r"^character varying"), "varchar"),
    (re.compile(r"^character(?=\(|\[|$)"), "char"),
    (re.compile(r"^(timestamp|time)(\(\d\))? with time zone"), r"\1tz\2"),
    (re.compile(r"^(timestamp|time)(\(\d\))? without time zone"), r"\1\2"),
)
# Quoted names and whole literals are consumed, so that nothing inside them is taken for a cast.
_CAST_LITERAL = re.compile(
    r"""("(?:[^"]|"")*")|('(?:[^']|'')*')(?:::(?:character varying|text|bpchar)(?:\(\d+\))?(?![\w\[]))?"""
)
_ANY_OF_LITERALS = re.compile(
    r"(\"(?:[^\"]|\"\")+\"|\w+)(?:::text)? = ANY \(\(?ARRAY\[((?:'(?:[^']|'')*'(?:, )?)+)\]\)?(?:::text\[\])?\)"
)


class _Relation(NamedTuple):
    number: int
    schema: str
    name: str
    letter: str
    is_partition: bool
    is_row_secured: bool
    definition: str | None
    partition_key: str | None
    bound: str | None


class _Type(NamedTuple):
    is_not_null: bool = False
    base: str | None = None
    values: Sequence[str] | None = None


_PLAIN = _Type()


@dataclass(slots=True)
class _Told:
    """What is told of one relation, part by part, without its number."""

    columns: list[Any] = field(default_factory=list)
    indexes: list[Any] = field(default_factory=list)
    constraints: list[Any] = field(default_factory=list)
    comments: dict[int, str] = field(default_factory=dict)
    parents: list[Any] = field(default_factory=list)


@dataclass(slots=True)
class _Known:
    """What columns, indexes and foreign tables refer to, by number."""

    types: Mapping[int, _Type]
    methods: Mapping[int, str]
    servers: Mapping[int, str]


async def tables(conn: AsyncConnection, names: Sequence[TableName]) -> list[Table]:
    """The tables and views called *names*, in that order, without their references.

    What opens the transaction may be sent together with it.
    """
    if not names:
        return []
    asked = {"schemas": list({name.schema for name in names}), "names": list({name.name for name in names})}
    relations, told = [], defaultdict[int, _Told](_Told)
    for part, number, *facts in await _read(conn, _DESCRIBE, asked):
        match part:
            case "relation":
                relations.append(_Relation(number, *facts))
            case "column":
                told[number].columns.append(facts)
            case "index":
                told[number].indexes.append(facts)
            case "constraint":
                told[number].constraints.append(facts)
            case "comment":
                told[number].comments[facts[0]] = facts[1]
            case "parent":
                told[number].parents.append(facts)
    known = await _known(conn, relations, told.values())
    return in_order((_table(each, told[each.number], known) for each in relations), names)


async def _known(conn: AsyncConnection, relations: Iterable[_Relation], told: Iterable[_Told]) -> _Known:
    """What the parts refer to; nothing is asked where all of it is built in, which is the rule."""
    types = {column[3] for each in told for column in each.columns if column[3] >= _FIRST_MADE}
    methods = {index[2] for each in told for index in each.indexes} - _BUILT_IN_METHODS.keys()
    foreign = {each.number for each in relations if each.letter == "f"}
    return _Known(
        {number: _Type(*facts) for number, *facts in await _about(conn, _TYPES, types)},
        _BUILT_IN_METHODS | dict(await _about(conn, _METHODS, methods)),
        dict(await _about(conn, _SERVERS, foreign)),
    )


async def _about(conn: AsyncConnection, query: str, numbers: Collection[int]) -> list[Any]:
    return await _read(conn, query, {"numbers": sorted(numbers)}) if numbers else []


async def _read(conn: AsyncConnection, query: str, values: Mapping[str, Sequence[Any]]) -> list[Any]:
    """The rows of *query*, each of which is a JSON array; *values* are lists."""
    if conn.dialect.driver == "psycopg":
        for position, name in enumerate(values, 1):
            query = query.replace(f":{name}", f"${position}")
        arguments = [literals.to_array(list(map(str, each))) for each in values.values()]
        return [orjson.loads(row) for row in await asking.texts(conn, query, arguments)]
    return [orjson.loads(row) for (row,) in await conn.execute(text(query), values)]


def _table(relation: _Relation, told: _Told, known: _Known) -> Table:
    columns = sorted(told.columns, key=itemgetter(0))
    by_number = {number: column for number, column, *_ in columns}
    constraints = sorted(told.constraints, key=itemgetter(0))
    excluding = {name: text for name, letter, _, text in constraints if letter == "x"}
    indexes = sorted(told.indexes, key=itemgetter(0))
    return Table(
        relation.schema,
        relation.name,
        "partition" if relation.is_partition else _KINDS.get(relation.letter, "table"),
        told.comments.get(0, ""),
        columns=tuple(
            _column(facts, known.types.get(facts[2], _PLAIN), told.comments.get(number, ""))
            for number, *facts in columns
        ),
        primary_key=tuple(by_number[each] for _, letter, key, _ in constraints if letter == "p" for each in key),
        # The index of an exclusion constraint bears its name.
        indexes=tuple(_index(facts, known.methods) for facts in indexes if facts[0] not in excluding),
        checks=tuple(plain_expression(text) for _, letter, _, text in constraints if letter == "c"),
        definition=plain_query(relation.definition or ""),
        notes=(
            *_notes(relation, sorted(told.parents), known.servers),
            *(f"exclude{text[7:]}" for text in excluding.values()),
        ),
    )


def _notes(relation: _Relation, parents: Sequence[Sequence[Any]], servers: Mapping[int, str]) -> Iterator[str]:
    if relation.partition_key:
        yield f"partition by {relation.partition_key}"
    if parents:
        word = "partition of" if relation.is_partition else "inherits"
        yield f"{word} {parents[0][1]}{' ' + relation.bound if relation.bound else ''}"
    if relation.number in servers:
        yield f"foreign server {servers[relation.number]}"
    if relation.is_row_secured:
        yield "row level security"


def _column(facts: Sequence[Any], made: _Type, comment: str) -> Column:
    name, type_text, _, is_not_null, identity, generated, expression, is_serial = facts
    plain = plain_expression(expression).removesuffix(f"::{type_text}") if expression else None
    counted = "identity" if identity else "serial" if is_serial else ""
    return Column(
        name,
        short_type(type_text),
        nullable=not (is_not_null or made.is_not_null),
        default=None if counted or generated else plain,
        identity=counted,
        generated=plain if generated else None,
        base=short_type(made.base or ""),
        values=tuple(made.values or ()),
        comment=comment,
    )


def _index(facts: Sequence[Any], methods: Mapping[int, str]) -> Index:
    name, is_unique, method, where, keys, options, parts = facts
    descends = [int(each) & 1 for each in options.split()]
    return Index(
        name,
        tuple(f"{part} desc" if down else part for part, down in zip(parts[:keys], descends, strict=False)),
        is_unique,
        methods.get(method, ""),
        plain_expression(where or ""),
        tuple(parts[keys:]),
    )


def plain_query(definition: str) -> str:
    """A view's query as it would be sent."""
    return definition.strip().removesuffix(";")


@lru_cache(maxsize=1000)  # a schema has thousands of columns and a few dozen types
def short_type(type_text: str) -> str:
    """The everyday spelling of a type: `character varying(40)` is `varchar(40)`."""
    for long, short in _SHORT_TYPES:
        type_text = long.sub(short, type_text)
    return type_text


def plain_expression(expression: str) -> str:
    """An expression without the casts that PostgreSQL adds to text literals, and `= ANY (ARRAY[…])` as `IN (…)`.

    `'new'::character varying` is `'new'`; both spellings mean the same to the server.
    """
    return _ANY_OF_LITERALS.sub(r"\1 IN (\2)", _CAST_LITERAL.sub(r"\1\2", expression))

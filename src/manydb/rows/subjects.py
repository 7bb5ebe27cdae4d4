"""The table that a call is about, as it is where statements run; and SQL about it."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from sqlalchemy import URL, Select, select
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.sql.dml import Delete, Update

from manydb import names, reads, statements
from manydb.connections import Registration
from manydb.criteria import Field, Subject
from manydb.dialects.schema import Table
from manydb.errors import (
    UnknownTable,
)
from manydb.gateway import Gateway, Place


async def subject_of(gateway: Gateway, place: Place, name: str) -> Subject:
    """The table called *name* as it is where statements run, and its masked columns. Raises UnknownTable."""
    registration = place.registration
    table = await _described(gateway, place, name)
    if registration.policy.is_open:
        return Subject(table)
    subject = Subject(table)
    sql, _ = compiled(registration, select(*(each.column for each in subject.fields.values())))
    # What is masked elsewhere and shown by a view, a partition or a generated column is masked here.
    verdict = await reads.judged(gateway, registration, statements.parse(sql, registration.dialect.grammar))
    masked = {table.columns[place].name for place in verdict.masked}
    return Subject(table, registration.policy.masked(*table.address, subject.fields) | masked)


async def _described(gateway: Gateway, place: Place, name: str) -> Table:
    registration = place.registration
    if place.goes_on:
        address = names.resolve(await gateway.catalogs.overview(registration), name, registration.dialect.quote)
        found = await place.run(
            lambda on: registration.dialect.catalog.describe(on, [address]), gateway.seconds(registration, None)
        )
        found = [registration.policy.visible(each) for each in found]
    else:
        found = await gateway.catalogs.describe(registration, [name])
    if not found:  # it was dropped since its name was remembered
        raise UnknownTable(f"no table or view {name!r} (any more)")
    described: Table = found[0]
    return described


def compiled(registration: Registration, core: Select[Any] | Update | Delete) -> tuple[str, dict[str, Any]]:
    """SQL of the registration's database with `:name` placeholders, and their values."""
    made = core.compile(dialect=_speaker(registration.target.url.drivername))
    return str(made), dict(made.params)


@lru_cache(maxsize=32)
def _speaker(drivername: str) -> Dialect:
    return URL.create(drivername).get_dialect()(paramstyle="named")  # type: ignore[call-arg]  # the protocol names none


def unique_key(subject: Subject, quote: Callable[[str], str]) -> tuple[Field, ...] | None:
    """The columns that tell every row from all others: the primary key, or a unique one that is never null."""
    table = subject.table
    by_text = {quote(name): name for name in subject.fields} | {name: name for name in subject.fields}
    candidates = [table.primary_key] if table.primary_key else []
    for index in table.indexes:
        if index.unique and not index.where and by_text.keys() >= set(index.columns):
            key = tuple(by_text[text] for text in index.columns)
            if not any(subject.fields[name].described.nullable for name in key):
                candidates.append(key)
    for key in candidates:
        fields = tuple(subject.fields[name] for name in key if name in subject.fields)
        if fields and not subject.masked.intersection(key) and all(each.family != "other" for each in fields):
            return fields
    return None

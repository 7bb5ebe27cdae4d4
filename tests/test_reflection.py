"""What the schema tools answer: names as SQL needs them, one line a fact, nothing twice, few tokens."""

import json
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import make_url

from manydb import errors, names, reflection, search
from manydb.dialects.schema import (
    Column,
    ColumnEntry,
    ForeignKey,
    Index,
    IndexEntry,
    Overview,
    Relation,
    Snapshot,
    Table,
    TableName,
)

quote = make_url("postgresql+asyncpg://").get_dialect()().identifier_preparer.quote

OVERVIEW = Overview(
    (
        Relation("sales", "Order", visible=False, columns=5),
        Relation("public", "orders", rows=50000, columns=10, comment="Sales\n orders"),
        Relation("public", "customers", rows=0, columns=8, comment="People who buy"),
        Relation("sales", "customers", visible=False),
        Relation("public", "order_totals", "view", columns=3),
        Relation("public", "Order Items"),
        Relation("public", "a.b"),
        Relation("public", "naïve,name"),
        Relation("public", "events", "partitioned_table"),
        Relation("public", "events_2026", "partition"),
        Relation("public", "totals", "materialized_view"),
    ),
    "public",
)
EMPTY = Overview((), "public")
SNAPSHOT = Snapshot(
    OVERVIEW,
    (
        ColumnEntry("public", "customers", "email", "varchar(120)", "where invoices go"),
        ColumnEntry("public", "orders", "contact_email", "text", ""),
        ColumnEntry("sales", "Order", "note", "text", "Email of the buyer"),
        ColumnEntry("public", "orders", "id", "bigint", ""),
    ),
    (
        IndexEntry("public", "customers", "ix_customers_email", ("lower(email)",), unique=True),
        IndexEntry("public", "orders", "ix_orders_placed", ("placed_at", "status"), unique=False),
    ),
)


def tokens(reply: dict[str, Any]) -> float:
    return len(json.dumps(reply, ensure_ascii=False, separators=(",", ":"))) / 4


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("customers", ("public", "customers")),
        ("CUSTOMERS", ("public", "customers")),
        ("sales.customers", ("sales", "customers")),
        ("Sales.Customers", ("sales", "customers")),
        ('"sales"."customers"', ("sales", "customers")),
        ('sales."Order"', ("sales", "Order")),
        ("`sales`.`Order`", ("sales", "Order")),
        ("[sales] . [Order]", ("sales", "Order")),
        ("shop.sales.Order", ("sales", "Order")),
        ("order", ("sales", "Order")),
        ("Order Items", ("public", "Order Items")),
        ('"Order Items"', ("public", "Order Items")),
        ("a.b", ("public", "a.b")),
        ('"a.b"', ("public", "a.b")),
        ('public."a.b"', ("public", "a.b")),
        (" orders ", ("public", "orders")),
    ],
)
def test_a_name_is_understood_as_callers_write_it(typed: str, meant: tuple[str, str]) -> None:
    assert names.resolve(OVERVIEW, typed, quote) == TableName(*meant)


@pytest.mark.parametrize("typed", ["", ".", "..", '"', '"open', "a.", ".b", "sales.", "x" * 1000, "public.Order"])
def test_a_name_that_means_nothing_is_unknown(typed: str) -> None:
    with pytest.raises(errors.UnknownTable):
        names.resolve(OVERVIEW, typed, quote)


@pytest.mark.parametrize(
    ("typed", "suggestion"),
    [
        ("custmers", "customers"),
        ("public.order", 'sales."Order"'),
        ("order_item", '"Order Items"'),
        ("crm.customers", "customers"),
        ("totl", "totals"),
    ],
)
def test_an_unknown_table_comes_with_names_that_work(typed: str, suggestion: str) -> None:
    with pytest.raises(errors.UnknownTable) as caught:
        names.resolve(OVERVIEW, typed, quote)
    assert suggestion in caught.value.suggestions
    assert suggestion in caught.value.message


def test_a_name_in_several_schemas_off_the_path_is_asked_back() -> None:
    overview = Overview(tuple(Relation(schema, "log", visible=False) for schema in ("a", "b")), "public")
    with pytest.raises(errors.UnknownTable) as caught:
        names.resolve(overview, "log", quote)
    assert caught.value.suggestions == ["a.log", "b.log"]


def test_names_that_differ_in_case_only_are_kept_apart() -> None:
    overview = Overview((Relation("public", "Order"), Relation("public", "order")), "public")
    assert names.resolve(overview, "Order", quote).name == "Order"
    assert names.resolve(overview, "order", quote).name == "order"
    with pytest.raises(errors.UnknownTable) as caught:
        names.resolve(overview, "ORDER", quote)
    assert caught.value.suggestions == ['"Order"', '"order"']


def test_in_an_empty_database_an_unknown_table_has_no_suggestions() -> None:
    with pytest.raises(errors.UnknownTable) as caught:
        names.resolve(EMPTY, "orders", quote)
    assert caught.value.suggestions == []


def test_columns_are_suggested_by_likeness() -> None:
    assert names.suggest_columns(["id", "customer_id", "created_at"], "CustomerID")[0] == "customer_id"
    assert names.suggest_columns(["id", "E-Mail"], "e_mail") == ["E-Mail"]
    assert names.suggest_columns([], "x") == []


# -- list_tables -------------------------------------------------------------------------------------------------------


def test_names_are_grouped_by_kind_and_schema() -> None:
    assert reflection.list_tables(OVERVIEW, quote) == {
        "tables": {
            "public": '"Order Items","a.b",customers,events,"naïve,name",orders',
            "sales": '"Order",customers',
        },
        "partitions": {"public": "events_2026"},
        "views": {"public": "order_totals"},
        "materialized_views": {"public": "totals"},
        "total": 11,
        "default_schema": "public",
    }


def test_an_empty_database_lists_nothing() -> None:
    assert reflection.list_tables(EMPTY, quote) == {"total": 0}
    assert reflection.list_tables(EMPTY, quote, detail="summary", schema="public") == {"tables": [], "total": 0}


def test_a_summary_says_what_is_known_and_no_more() -> None:
    reply = reflection.list_tables(OVERVIEW, quote, detail="summary", pattern="order")
    assert reply["tables"] == [
        '"Order Items"',
        "order_totals | view | 3 columns",
        "orders | ~50000 rows | 10 columns | Sales orders",
        'sales."Order" | 5 columns',
    ]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("order", 4),
        ("ORDER", 4),
        ("order%", 4),
        ("%order", 1),
        ("%s", 7),
        ("o*s", 3),
        ("who buy", 1),
        ("buy people", 1),
        ("People%", 1),
        ("order_", 1),
        ("a.b", 1),
        ("(", 0),
        ("%", 11),
    ],
)
def test_a_pattern_fits_names_and_comments(pattern: str, found: int) -> None:
    assert reflection.list_tables(OVERVIEW, quote, pattern=pattern)["total"] == found


def test_kind_and_schema_narrow_the_list() -> None:
    assert reflection.list_tables(OVERVIEW, quote, kind="view")["total"] == 1
    assert reflection.list_tables(OVERVIEW, quote, kind="materialized views")["total"] == 1
    assert "events" in reflection.list_tables(OVERVIEW, quote, kind="table")["tables"]["public"]
    assert reflection.list_tables(OVERVIEW, quote, schema="SALES") == {
        "tables": {"sales": '"Order",customers'},
        "total": 2,
    }


def test_an_unknown_schema_or_kind_names_the_known_ones() -> None:
    with pytest.raises(errors.BadParameter) as schema:
        reflection.list_tables(OVERVIEW, quote, schema="slaes")
    assert schema.value.suggestions == ["sales"]
    with pytest.raises(errors.BadParameter, match="materialized_view"):
        reflection.list_tables(OVERVIEW, quote, kind="sequence")


def test_pages_follow_each_other_without_gap_or_overlap() -> None:
    listed: list[str] = []
    cursor = None
    while True:
        reply = reflection.list_tables(OVERVIEW, quote, detail="summary", limit=3, cursor=cursor)
        listed += [line.split(" | ")[0] for line in reply["tables"]]
        assert reply["total"] == 11
        if (cursor := reply.get("next")) is None:
            break
    everything = reflection.list_tables(OVERVIEW, quote, detail="summary")["tables"]
    assert listed == [line.split(" | ")[0] for line in everything]


def test_a_page_follows_even_when_its_cursor_table_was_dropped() -> None:
    cursor = reflection.list_tables(OVERVIEW, quote, limit=3)["next"]
    rest = replace(OVERVIEW, relations=tuple(r for r in OVERVIEW.relations if r.name != "customers"))
    reply = reflection.list_tables(rest, quote, detail="summary", cursor=cursor)
    assert reply["tables"][0] == "events | partitioned table"


@pytest.mark.parametrize("cursor", ["x", "é", "bnVsbA", "WzFd", "eyJhIjoxfQ"])
def test_a_cursor_of_someone_elses_making_is_refused(cursor: str) -> None:
    with pytest.raises(errors.BadParameter, match="cursor"):
        reflection.list_tables(OVERVIEW, quote, cursor=cursor)


def test_a_thousand_tables_fit_in_the_token_budget() -> None:
    modules = [f"{first}{second}c" for first in "hkmpt" for second in "aeiouxyz"]
    words = """account address approval asset batch calendar channel comment contact contract currency document event
        invoice item ledger location note policy rate schedule status user order line"""
    entities = words.split()
    relations = tuple(Relation("public", f"{module}_{entity}") for module in modules for entity in entities)
    reply = reflection.list_tables(Overview(relations, "public"), quote)
    assert reply["total"] == 1000
    assert tokens(reply) <= 3500


# -- search_schema -----------------------------------------------------------------------------------------------------


def test_a_search_looks_at_names_and_comments_of_everything() -> None:
    assert search.run(SNAPSHOT, "email", quote) == {
        "columns": {
            "email varchar(120) -- where invoices go": "customers",
            "contact_email text": "orders",
            "note text -- Email of the buyer": 'sales."Order"',
        },
        "indexes": ["unique ix_customers_email on customers (lower(email))"],
        "total": 4,
    }


def test_some_words_of_a_search_may_be_in_the_tables_name() -> None:
    assert search.run(SNAPSHOT, "customers email", quote)["columns"] == {
        "email varchar(120) -- where invoices go": "customers"
    }
    assert "columns" not in search.run(SNAPSHOT, "customers", quote)


def test_columns_that_are_told_alike_are_told_once() -> None:
    overview = Overview(tuple(Relation("public", name) for name in ("orders", "Order Items", "visits")), "public")
    columns = tuple(ColumnEntry("public", relation.name, "order_id", "bigint", "") for relation in overview.relations)
    columns += (ColumnEntry("public", "visits", "order_day", "date", ""),)
    assert search.run(Snapshot(overview, columns), "order_", quote) == {
        "columns": {"order_day date": "visits", "order_id bigint": '"Order Items",orders,visits'},
        "total": 4,
    }


def test_an_index_is_found_by_what_its_table_does_not_tell() -> None:
    found = search.run(SNAPSHOT, "customers", quote)
    assert (found["tables"][0], "indexes" in found) == ("customers -- People who buy", False)
    assert search.run(SNAPSHOT, "customers_email", quote)["indexes"] == [
        "unique ix_customers_email on customers (lower(email))"
    ]


def test_a_search_can_be_narrowed_and_says_what_it_left_out() -> None:
    reply = search.run(SNAPSHOT, "order", quote, subjects=["tables"], limit=2)
    assert reply == {
        "tables": ['sales."Order"', '"Order Items"'],
        "total": 4,
        "hint": "the best 2 of 4; use a narrower pattern or a higher limit",
    }
    assert search.run(SNAPSHOT, "nothing like it", quote) == {"total": 0}


def test_a_search_for_nothing_is_refused() -> None:
    with pytest.raises(errors.BadParameter):
        search.run(SNAPSHOT, "  ", quote)


def test_a_long_comment_is_cut_in_lists_and_whole_in_a_description() -> None:
    comment = "word " * 100
    overview = Overview((Relation("public", "t", comment=comment),), "public")
    (line,) = search.run(Snapshot(overview), "t", quote)["tables"]
    assert line.endswith("…")
    assert len(line) < 140
    assert reflection.table_reply(Table("public", "t", comment=comment), overview, quote)["comment"] == comment


# -- get_table_schema --------------------------------------------------------------------------------------------------

CUSTOMERS = TableName("public", "customers")
ORDERS = TableName("public", "orders")


def test_a_table_is_told_in_a_line_a_fact() -> None:
    table = Table(
        *ORDERS,
        comment="Sales orders",
        columns=(
            Column("id", "bigint", nullable=False, identity="identity"),
            Column("customer_id", "bigint", nullable=False),
            Column(
                "status", "order_status", nullable=False, default="'new'", values=("new", "paid"), comment="of\n it"
            ),
            Column("Order No", "varchar(16)", nullable=False),
            Column("mail", "email", base="varchar(120)"),
            Column("gross", "numeric", generated="net * 2"),
        ),
        primary_key=("id",),
        indexes=(
            Index("uq", ('"Order No"',), unique=True),
            Index("ix", ("status", "lower(mail)"), method="gin", where="gross > 0", include=("id",)),
            Index("part", ("mail",), unique=True, where="gross > 0"),
        ),
        checks=("gross >= 0",),
        foreign_keys=(ForeignKey(ORDERS, ("customer_id",), CUSTOMERS, ("id",), on_delete="cascade"),),
        referenced_by=(
            ForeignKey(TableName("public", "Order Items"), ("order_id",), ORDERS, ("id",)),
            ForeignKey(TableName("sales", "Order"), ("no",), ORDERS, ("Order No",)),
        ),
        notes=("partition by RANGE (id)",),
    )
    assert reflection.table_reply(table, OVERVIEW, quote) == {
        "table": "orders",
        "rows": "~50000",
        "comment": "Sales orders",
        "columns": [
            "id bigint pk identity",
            "customer_id bigint not null -> customers.id on delete cascade",
            "status order_status not null default 'new' in (new|paid) -- of it",
            '"Order No" varchar(16) not null unique',
            "mail email = varchar(120)",
            "gross numeric generated as (net * 2)",
        ],
        "keys": [
            "index ix using gin (status, lower(mail)) include (id) where gross > 0",
            "unique part (mail) where gross > 0",
            'referenced by "Order Items".order_id, sales."Order".no -> "Order No"',
            "check gross >= 0",
            "partition by RANGE (id)",
        ],
    }


def test_composite_keys_have_lines_of_their_own() -> None:
    table = Table(
        "sales",
        "Order",
        columns=(Column("id", "int", nullable=False), Column("line", "int", nullable=False)),
        primary_key=("id", "line"),
        indexes=(Index("", ("id", "line"), unique=True),),
        foreign_keys=(ForeignKey(TableName("sales", "Order"), ("id", "line"), ORDERS, ("id", "Line")),),
    )
    assert reflection.table_reply(table, OVERVIEW, quote) == {
        "table": 'sales."Order"',
        "columns": ["id int", "line int"],
        "keys": ["pk (id, line)", "unique (id, line)", 'fk (id, line) -> orders(id, "Line")'],
    }


def test_a_view_is_told_with_its_query() -> None:
    view = Table("public", "order_totals", "view", columns=(Column("n", "bigint"),), definition="SELECT 1 AS n")
    assert reflection.table_reply(view, OVERVIEW, quote) == {
        "table": "order_totals",
        "kind": "view",
        "columns": ["n bigint"],
        "definition": "SELECT 1 AS n",
    }


def test_a_reference_to_an_unnamed_key_names_the_table() -> None:
    key = ForeignKey(ORDERS, ("customer_id",), CUSTOMERS, (), on_update="cascade")
    table = Table(*ORDERS, columns=(Column("customer_id", "int"),), foreign_keys=(key,))
    reply = reflection.table_reply(table, OVERVIEW, quote)
    assert reply["columns"] == ["customer_id int -> customers on update cascade"]


def test_very_many_references_are_counted() -> None:
    keys = tuple(ForeignKey(TableName("public", f"t{i}"), ("c",), CUSTOMERS, ("id",)) for i in range(45))
    table = Table(*CUSTOMERS, primary_key=("id",), referenced_by=keys)
    (line,) = reflection.table_reply(table, OVERVIEW, quote)["keys"]
    assert line.endswith("t39.c and 5 more")


def test_a_small_table_fits_in_the_token_budget() -> None:
    table = Table(
        *ORDERS,
        columns=(
            Column("id", "integer", nullable=False),
            Column("order_no", "varchar(16)", nullable=False),
            Column("customer_id", "integer", nullable=False),
            Column("status", "varchar(16)", nullable=False),
            Column("currency", "char(3)", nullable=False),
            Column("total", "numeric(12,2)", nullable=False),
            Column("placed_at", "timestamp", nullable=False),
            Column("shipped_at", "timestamp"),
        ),
        primary_key=("id",),
        indexes=(
            Index("orders_order_no_key", ("order_no",), unique=True),
            Index("ix_orders_placed", ("placed_at", "status")),
        ),
        foreign_keys=(ForeignKey(ORDERS, ("customer_id",), CUSTOMERS, ("id",)),),
        referenced_by=(ForeignKey(TableName("public", "order_items"), ("order_id",), ORDERS, ("id",)),),
    )
    assert tokens(reflection.table_reply(table, OVERVIEW, quote)) <= 110

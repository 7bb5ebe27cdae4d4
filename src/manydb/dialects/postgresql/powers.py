"""What a PostgreSQL login could do, in one query over the catalogs that every login may read."""

import json
from dataclasses import dataclass
from typing import Any, Self

from sqlalchemy.ext.asyncio import AsyncConnection

from manydb.dialects.powers import PASSWORD, Powers, counted, listed

_NAME_BYTES = 63
_SUFFIX = "_reader"
_NO_ATTRIBUTES = "NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS"
_ATTRIBUTES = {"rolcreaterole": "CREATEROLE", "rolcreatedb": "CREATEDB", "rolreplication": "REPLICATION"}
# Predefined roles, from version 9.6 to 18: those that change something, and those that reach beyond tables.
_WRITERS = (
    "pg_write_all_data", "pg_write_server_files", "pg_execute_server_program", "pg_maintain", "pg_create_subscription",
    "pg_signal_backend", "pg_signal_autovacuum_worker", "pg_checkpoint", "pg_database_owner",
)  # fmt: skip
_READERS = ("pg_read_server_files", "pg_monitor", "pg_read_all_settings")

# session_user is who logged in: SET ROLE only ever reaches roles that it is a member of. *reach* are the identities
# that count: the login with what it inherits, and every role that it could switch to but does not inherit from. A
# superuser needs no counting, and is a member of everything.
_SQL = f"""
WITH me AS MATERIALIZED (
    SELECT * FROM pg_catalog.pg_roles WHERE rolname = session_user
), member AS MATERIALIZED (
    SELECT r.* FROM pg_catalog.pg_roles r, me
    WHERE NOT me.rolsuper AND pg_catalog.pg_has_role(me.oid, r.oid, 'MEMBER')
), reach AS MATERIALIZED (
    SELECT r.oid FROM member r, me WHERE r.oid = me.oid OR NOT pg_catalog.pg_has_role(me.oid, r.oid, 'USAGE')
), spaces AS MATERIALIZED (
    SELECT oid, nspname, nspowner FROM pg_catalog.pg_namespace
    WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
), relations AS MATERIALIZED (
    SELECT c.oid, c.relkind, c.relowner, c.relnamespace
    FROM pg_catalog.pg_class c JOIN spaces s ON s.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
), writable AS (
    SELECT c.oid, c.relkind,
        c.relkind <> 'S' AND bool_or(pg_catalog.has_any_column_privilege(m.oid, c.oid, 'INSERT')) AS "INSERT",
        c.relkind <> 'S' AND bool_or(pg_catalog.has_any_column_privilege(m.oid, c.oid, 'UPDATE')) AS "UPDATE",
        c.relkind <> 'S' AND bool_or(pg_catalog.has_table_privilege(m.oid, c.oid, 'DELETE')) AS "DELETE",
        c.relkind <> 'S' AND bool_or(pg_catalog.has_table_privilege(m.oid, c.oid, 'TRUNCATE, TRIGGER')) AS "TRUNCATE",
        bool_or(pg_catalog.pg_has_role(m.oid, c.relowner, 'USAGE')) AS owned,
        bool_or(CASE WHEN c.relkind = 'S' THEN pg_catalog.has_sequence_privilege(m.oid, c.oid, 'USAGE, UPDATE') END)
            AS sequence
    FROM relations c, reach m GROUP BY c.oid, c.relkind
)
SELECT pg_catalog.json_build_object(
    'login', session_user,
    'database', pg_catalog.current_database(),
    'owner', (SELECT pg_catalog.pg_get_userbyid(datdba) FROM pg_catalog.pg_database
        WHERE datname = pg_catalog.current_database()),
    'superuser', (SELECT rolsuper FROM me),
    'attributes', (SELECT pg_catalog.row_to_json(me) FROM me),
    'super_roles', (SELECT json_agg(rolname ORDER BY rolname) FROM member WHERE rolsuper),
    'roles', (SELECT json_agg(rolname ORDER BY rolname) FROM member
        WHERE rolname = ANY (ARRAY{[*_WRITERS, *_READERS]})),
    'tables', (SELECT json_build_object(
        'INSERT', count(*) FILTER (WHERE "INSERT"), 'UPDATE', count(*) FILTER (WHERE "UPDATE"),
        'DELETE', count(*) FILTER (WHERE "DELETE"), 'TRUNCATE', count(*) FILTER (WHERE "TRUNCATE")) FROM writable),
    'sequences', (SELECT count(*) FROM writable WHERE sequence),
    'owned', (SELECT count(*) FROM writable WHERE owned AND relkind <> 'S'),
    'creates', EXISTS (SELECT FROM reach m
        WHERE pg_catalog.has_database_privilege(m.oid, pg_catalog.current_database(), 'CREATE')),
    'schemas', (SELECT json_agg(json_build_object(
        'name', s.nspname,
        'creates', EXISTS (SELECT FROM reach m WHERE pg_catalog.has_schema_privilege(m.oid, s.oid, 'CREATE')),
        'open', pg_catalog.has_schema_privilege('public', s.oid, 'CREATE'),
        'owners', (SELECT json_agg(DISTINCT pg_catalog.pg_get_userbyid(o.owner)) FROM (
            SELECT s.nspowner UNION SELECT c.relowner FROM relations c WHERE c.relnamespace = s.oid) AS o (owner))
        ) ORDER BY s.nspname) FROM spaces s)
)::text
"""


@dataclass(frozen=True, slots=True)
class _Schema:
    """A schema of the database; *open*: everybody may create in it; *owners* of it and of what is in it."""

    name: str
    creates: bool
    open: bool
    owners: list[str]

    @classmethod
    def all(cls, found: dict[str, Any]) -> list[Self]:
        schemas = [cls(**schema) for schema in found["schemas"] or []]
        for schema in schemas:
            # The role that stands for whoever owns the database makes no tables itself.
            owners = (found["owner"] if owner == "pg_database_owner" else owner for owner in schema.owners)
            schema.owners[:] = dict.fromkeys(owners)
        return schemas


async def powers(connection: AsyncConnection) -> Powers:
    """What the login of *connection* could do to this database. One query, also in a read-only transaction."""
    found = json.loads((await connection.exec_driver_sql(_SQL)).scalar_one())
    schemas = _Schema.all(found)
    superuser = bool(found["superuser"] or found["super_roles"])
    writes = [*_attributes(found), *_privileges(found, schemas)]
    reads = [f"member of {role}" for role in found["roles"] or [] if role in _READERS]
    return Powers(
        login=found["login"],
        superuser=superuser,
        can_write=superuser or bool(writes),
        reasons=(*writes, *reads),
        remedy=_remedy(found["database"], schemas),
    )


def _attributes(found: dict[str, Any]) -> list[str]:
    """What the login is allowed by itself and by its roles, whatever is in the database."""
    if found["superuser"]:
        return ["superuser"]
    return [
        *(f"member of {role}, a superuser" for role in found["super_roles"] or []),
        *(text for attribute, text in _ATTRIBUTES.items() if found["attributes"][attribute]),
        *(f"member of {role}" for role in found["roles"] or [] if role in _WRITERS),
    ]


def _privileges(found: dict[str, Any], schemas: list[_Schema]) -> list[str]:
    """What it was granted on the database's objects."""
    creates = [schema.name for schema in schemas if schema.creates]
    return [
        *(["CREATE on the database"] if found["creates"] else []),
        *([f"CREATE in {listed(creates)}"] if creates else []),
        *([f"owner of {counted(found['owned'], 'table')}"] if found["owned"] else []),
        *(f"{privilege} on {counted(number, 'table')}" for privilege, number in found["tables"].items() if number),
        *([f"USAGE of {counted(found['sequences'], 'sequence')}"] if found["sequences"] else []),
    ]


def _remedy(database: str, schemas: list[_Schema]) -> str:
    login = _quoted(database.encode()[: _NAME_BYTES - len(_SUFFIX)].decode(errors="ignore") + _SUFFIX)
    lines = [
        f"CREATE ROLE {login} LOGIN {_NO_ATTRIBUTES} PASSWORD '{PASSWORD}';",
        f"ALTER ROLE {login} SET default_transaction_read_only = on;",
        f"GRANT CONNECT ON DATABASE {_quoted(database)} TO {login};",
    ]
    reading = f"GRANT SELECT ON TABLES TO {login};"
    for schema in schemas:
        name = _quoted(schema.name)
        if schema.open:
            # Else the new login could create there too: what everybody may do cannot be taken from one.
            lines.append(f"REVOKE CREATE ON SCHEMA {name} FROM PUBLIC;")
        lines += [
            f"GRANT USAGE ON SCHEMA {name} TO {login};",
            f"GRANT SELECT ON ALL TABLES IN SCHEMA {name} TO {login};",
            f"GRANT SELECT ON ALL SEQUENCES IN SCHEMA {name} TO {login};",
            # Of tables to come: each owner's have to be named.
            *(
                f"ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA {name} {reading}"
                for owner in map(_quoted, schema.owners)
            ),
        ]
    return "\n".join(lines)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'

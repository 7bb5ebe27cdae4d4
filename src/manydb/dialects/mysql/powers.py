"""What a MySQL or MariaDB login could do, read from its own grants, which every login may see."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from manydb.dialects.powers import PASSWORD, Powers, counted, listed

_NAME_CHARACTERS = {"MySQL": 32, "MariaDB": 80}  # of a user's name
_SUFFIX = "_reader"
_SYSTEM = ("information_schema", "mysql", "performance_schema", "sys")
_MOST_ROLES = 20

_QUOTED = r"""(?:`(?:[^`]|``)*`|"(?:[^"]|"")*")"""
_ACCOUNT = rf"(?:{_QUOTED}|'(?:[^'\\]|''|\\.)*'|\w+)(?:@(?:{_QUOTED}|'(?:[^'\\]|''|\\.)*'))?"
_PRIVILEGES = re.compile(
    rf"GRANT (?P<privileges>.+?) ON (?P<kind>(?:TABLE|FUNCTION|PROCEDURE|PACKAGE(?: BODY)?) )?"
    rf"(?P<database>\*|{_QUOTED})\.(?P<object>\*|{_QUOTED}) TO {_ACCOUNT}"
)
_ROLES = re.compile(rf"GRANT (?P<roles>{_ACCOUNT}(?:, ?{_ACCOUNT})*) TO {_ACCOUNT}")
_PRIVILEGE = re.compile(r"([A-Z][A-Z _]*[A-Z])(?: \([^)]*\))?")
# What a person has to see first, where there are too many to name.
_FIRST = ("ALL PRIVILEGES", "SUPER", "FILE")
# Fail closed: what is not named here counts as writing, for servers learn new privileges.
_HARMLESS = {"USAGE", "SELECT", "SHOW VIEW", "SHOW DATABASES"}
_WITHOUT_WRITING = {
    "PROCESS", "LOCK TABLES", "REPLICATION CLIENT", "BINLOG MONITOR", "SLAVE MONITOR", "REPLICA MONITOR",
    "SHOW CREATE ROUTINE", "SHOW_ROUTINE",
}  # fmt: skip
_SUPER = frozenset({"ALL PRIVILEGES", "SUPER"})


@dataclass(frozen=True, slots=True)
class _Grant:
    """Privileges on ``database.object``, as written in SQL; ``*`` is every one."""

    privileges: tuple[str, ...]
    kind: str
    database: str
    object: str

    @property
    def scope(self) -> str:
        """Where they hold, for people; single tables share one text, since there may be thousands of them."""
        if self.database == "*":
            return "every database"
        if self.object == "*":
            return f"{self.database}.*"
        return "routine" if self.kind in {"FUNCTION", "PROCEDURE", "PACKAGE", "PACKAGE BODY"} else "table"


async def powers(connection: AsyncConnection) -> Powers:
    """What the login of *connection* could do, roles that it may take on included. Also in a read-only transaction."""
    rows = await connection.exec_driver_sql("SELECT CURRENT_USER() AS account, DATABASE() AS db, VERSION() AS version")
    me = rows.mappings().one()
    maria = "MariaDB" in me["version"]
    texts = await _grants(connection, "SHOW GRANTS")
    texts += await _granted_by_roles(connection, texts, maria=maria)
    grants = [grant for text in texts if (grant := _read(text))]
    superuser = any(grant.database == "*" and _SUPER.intersection(grant.privileges) for grant in grants)
    writes = _reasons(grants, lambda privilege: privilege not in _HARMLESS | _WITHOUT_WRITING)
    if any(text.startswith("GRANT PROXY ") for text in texts):
        writes.append("PROXY for other logins")
    return Powers(
        login=me["account"],
        superuser=superuser,
        can_write=bool(writes),
        reasons=(*writes, *_reasons(grants, lambda privilege: privilege in _WITHOUT_WRITING)),
        remedy=_remedy(
            me["account"],
            await _databases(connection, me["db"]),
            longest=_NAME_CHARACTERS["MariaDB" if maria else "MySQL"],
            literal=await _is_literal(connection),
        ),
    )


async def _grants(connection: AsyncConnection, sql: str) -> list[str]:
    return [str(text) for text in (await connection.exec_driver_sql(sql)).scalars()]


async def _granted_by_roles(connection: AsyncConnection, texts: list[str], *, maria: bool) -> list[str]:
    """The grants of the roles in *texts*, and of these roles' roles: the login may take on any of them."""
    read = _as_role if maria else _with_role
    found: list[str] = []
    for role in [*dict.fromkeys(_roles(texts))][:_MOST_ROLES]:
        found += await read(connection, role)
    return found


async def _as_role(connection: AsyncConnection, role: str) -> list[str]:
    """MariaDB shows a role's grants, and those of the roles within, to whom has taken it on."""
    before = (await connection.exec_driver_sql("SELECT CURRENT_ROLE()")).scalar_one()
    await connection.exec_driver_sql(f"SET ROLE {_escaped(role)}")
    try:
        return await _grants(connection, "SHOW GRANTS")
    finally:
        await connection.exec_driver_sql(f"SET ROLE {_escaped(_quoted(before)) if before else 'NONE'}")


async def _with_role(connection: AsyncConnection, role: str) -> list[str]:
    """MySQL shows a login its own grants, with a role's and those of the roles within among them."""
    return await _grants(connection, f"SHOW GRANTS FOR CURRENT_USER() USING {_escaped(role)}")


def _escaped(name: str) -> str:
    """For a driver that reads '%' as the begin of a parameter."""
    return name.replace("%", "%%")


def _roles(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        if match := _ROLES.match(text):
            yield from re.findall(_ACCOUNT, match["roles"])


def _read(text: str) -> _Grant | None:
    """One line of SHOW GRANTS; None where it gives roles or sets a default."""
    match = _PRIVILEGES.match(text)
    if not match:
        return None
    privileges = _PRIVILEGE.findall(match["privileges"])
    if text.endswith("WITH GRANT OPTION"):
        privileges.append("GRANT OPTION")
    return _Grant(tuple(privileges), (match["kind"] or "TABLE").strip(), match["database"], match["object"])


def _reasons(grants: Iterable[_Grant], wanted: Callable[[str], bool]) -> list[str]:
    """The wanted privileges by where they hold: by name on whole databases, by number on single tables and routines."""
    names: dict[str, dict[str, None]] = {}
    objects: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for grant in grants:
        for privilege in filter(wanted, grant.privileges):
            if grant.object == "*":
                names.setdefault(grant.scope, {})[privilege] = None
            else:
                objects.setdefault((privilege, grant.scope), set()).add((grant.database, grant.object))
    return [
        *(f"{listed(sorted(found, key=_rank))} on {scope}" for scope, found in names.items()),
        *(f"{privilege} on {counted(len(found), noun)}" for (privilege, noun), found in objects.items()),
    ]


def _rank(privilege: str) -> int:
    return _FIRST.index(privilege) if privilege in _FIRST else len(_FIRST)


async def _databases(connection: AsyncConnection, current: str | None) -> list[str]:
    """The connection's database; where it has none, all that the login sees."""
    if current:
        return [current]
    names = (await connection.exec_driver_sql("SHOW DATABASES")).scalars()
    return [str(name) for name in names if name not in _SYSTEM]


async def _is_literal(connection: AsyncConnection) -> bool:
    """Whether '_' and '%' in the database name of a GRANT are no wildcards: so in MySQL with partial revokes."""
    found = await connection.exec_driver_sql("SHOW VARIABLES WHERE Variable_name = 'partial_revokes'")
    return any(value == "ON" for value in found.scalars(1))


def _remedy(account: str, databases: list[str], *, longest: int, literal: bool) -> str:
    base = databases[0] if len(databases) == 1 else "manydb"
    # From where this login comes in, the other may come too.
    login = f"{_quoted(base[: longest - len(_SUFFIX)] + _SUFFIX)}@{_quoted(account.rpartition('@')[2])}"
    return "\n".join(
        [
            f"CREATE USER {login} IDENTIFIED BY '{PASSWORD}';",
            *(f"GRANT SELECT, SHOW VIEW ON {_pattern(name, literal=literal)}.* TO {login};" for name in databases),
        ]
    )


def _pattern(database: str, *, literal: bool) -> str:
    """A GRANT reads a database's name as a LIKE pattern: unescaped, ``my_db`` would open ``my1db`` too."""
    return _quoted(database if literal else re.sub(r"([_%\\])", r"\\\1", database))


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"

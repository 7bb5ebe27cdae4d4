"""MySQL's and MariaDB's statements: which are reads, and which words, functions and schemas a read may not hold.

Exact only under an sql_mode without ANSI_QUOTES and NO_BACKSLASH_ESCAPES, which the engine set-up pins.
"""

from manydb.dialects.grammar import (
    KINDS,
    Command,
    Grammar,
    Refusal,
    Source,
    functions,
    refuse_into,
    refuse_locks,
    unquote,
)  # fmt: skip
from manydb.errors import Forbidden, ReadOnly, SqlSyntax
from manydb.lexer import Lexicon

_QUERY_WORDS = frozenset({"SELECT", "WITH", "VALUES", "TABLE", "("})
_EXPLAIN_WORDS = frozenset({"EXTENDED", "PARTITIONS", "ANALYZE"})

_MAINTENANCE = frozenset({
    "BACKUP", "BINLOG", "CACHE", "CHANGE", "CHECK", "CHECKSUM", "FLUSH", "INSTALL", "KILL", "OPTIMIZE", "PURGE",
    "REPAIR", "SHUTDOWN", "SIGNAL", "STOP", "UNINSTALL",
})  # fmt: skip

# SHOW, less the words FULL, EXTENDED, GLOBAL, SESSION, LOCAL and STORAGE in front, by the word or words that follow.
_SHOWN = frozenset({
    "TABLES", "DATABASES", "SCHEMAS", "COLUMNS", "FIELDS", "INDEX", "INDEXES", "KEYS", "WARNINGS", "ERRORS",
    "CHARSET", "COLLATION", "ENGINES", "TRIGGERS", "EVENTS", "VARIABLES", "STATUS", "PLUGINS", "PRIVILEGES",
    "TABLE STATUS", "CHARACTER SET", "OPEN TABLES", "FUNCTION STATUS", "PROCEDURE STATUS", "PACKAGE STATUS",
    "CREATE TABLE", "CREATE VIEW", "CREATE DATABASE", "CREATE SCHEMA", "CREATE FUNCTION", "CREATE PROCEDURE",
    "CREATE TRIGGER", "CREATE EVENT", "CREATE SEQUENCE", "CREATE PACKAGE", "COUNT (",
})  # fmt: skip
_SHOW_MODIFIERS = frozenset({"FULL", "EXTENDED", "GLOBAL", "SESSION", "LOCAL", "STORAGE"})

# All reserved, so a bare one is the keyword; a column of that name is quoted.
_WRITING_WORDS = frozenset(
    {"OUTFILE", "DUMPFILE", "DELETE", "UPDATE", "CALL", "DROP", "ALTER", "GRANT", "REVOKE", "LOAD"}
)
_WRITING_UNLESS_CALLED = frozenset({"INSERT", "REPLACE", "TRUNCATE"})
_ENGINES = frozenset({"innodb", "aria", "myisam", "memory", "rocksdb"})
_SYSTEM_SCHEMAS = frozenset({"mysql", "performance_schema", "sys"})

_FUNCTION_RULES = (
    functions(r"sleep | benchmark", "only spends time"),
    functions(r"load_file", "reads a file of the database server"),
    functions(
        r"(get|release|is_free|is_used)_lock | release_all_locks | service_(get|release)_.*locks",
        "takes or frees a lock",
    ),
    functions(r".*_wait | wait_(for|until)_.* | wsrep_sync_wait.*", "waits for another server"),
    functions(r"nextval | setval | lastval", "moves a sequence", writes=True),
    functions(
        r"sys_(exec|eval|get|set) | lib_mysqludf_.* | keyring_.* | group_replication_.* | version_tokens_.*"
        r"| audit_(log|api)_.* | mysql_firewall_.* | set_firewall_.* | asynchronous_connection_failover_.*"
        r"| query_rewrite.* | load_rewrite_rules | flush_rewrite_cache | mysql_query_attribute_.* | spider_.*",
        "acts on the database server",
    ),
)


def _explain(source: Source) -> Command | Refusal:
    index = 1
    while source.key(index) in _EXPLAIN_WORDS or (source.key(index) == "FORMAT" and source.key(index + 1) == "="):
        index += 3 if source.key(index) == "FORMAT" else 1
    if source.key(index) in _QUERY_WORDS:
        return Command("explain", index)
    if index == 1:
        return _describe(source)
    return Refusal(Forbidden, "EXPLAIN here takes a query only", "EXPLAIN SELECT …")


def _analyze(source: Source) -> Command | Refusal:
    index = 4 if source.key(1) == "FORMAT" and source.key(2) == "=" else 1
    if source.key(index) in _QUERY_WORDS - {"TABLE"}:  # ANALYZE TABLE is another statement: it stores statistics
        return Command("explain", index)
    return Refusal(ReadOnly, "ANALYZE of anything but a query writes", "ANALYZE [FORMAT=JSON] SELECT …")


def _describe(source: Source) -> Command | Refusal:
    """`DESC [schema.]table [column | 'pattern']`, which has no keyword where the name stands."""
    named = len(source.tokens) > 1 and source.tokens[1].kind in ("word", "name")
    follows = source.key(2)
    if named and source.key(1) not in KINDS and source.key(1) != "FOR" and (follows != "=" and follows not in KINDS):
        return Command("describe")
    return Refusal(Forbidden, "DESCRIBE and EXPLAIN take a table or a query", "DESCRIBE table, or EXPLAIN SELECT …")


def _show(source: Source) -> Command | Refusal:
    index = 1
    while source.key(index) in _SHOW_MODIFIERS:
        index += 1
    first, second = source.key(index), source.key(index + 1)
    if any(source.key(opening + 1) in _QUERY_WORDS for opening in source.at("(")):
        # Nobody writes them, and servers have been seen to crash on one.
        return Refusal(Forbidden, "SHOW takes no subquery here", "SELECT … FROM information_schema")
    if first in _SHOWN or f"{first} {second}" in _SHOWN:
        return Command("show")
    what = f"SHOW {first} {second}" if first in ("CREATE", "ENGINE", "BINLOG") else f"SHOW {first}"
    suggestion = "SHOW TABLES, COLUMNS, INDEX, CREATE TABLE, TABLE STATUS, VARIABLES or STATUS"
    return Refusal(Forbidden, f"{what.strip()} tells about accounts, sessions or the server's logs", suggestion)


def _hidden_code(source: Source) -> Refusal | None:
    for token in source.comments:
        if token.kind == "code":
            return Refusal(
                SqlSyntax, f"{token.text} … */ is a comment that the server executes", "write it as plain SQL"
            )
        if token.text.startswith("/*+") and "SET_VAR" in token.text.upper():
            return Refusal(Forbidden, "SET_VAR changes a setting", "leave the hint out: settings are fixed for reads")
    return None


def _symbols(source: Source) -> Refusal | None:
    for key in source.places:
        if key.startswith("$"):  # a name to most versions, a quote to the newest
            return Refusal(SqlSyntax, "a bare name begins with $", f"quote the name: `{key.lower()}`")
        if key in ("{", "}"):
            return Refusal(
                SqlSyntax, "{ } escapes are not taken", "write DATE '2025-01-31' instead of {d '2025-01-31'}"
            )
        if key == ":=":
            return Refusal(Forbidden, ":= sets a variable of the session", "use a common table expression")
    return None


def _words(source: Source) -> Refusal | None:
    for index in source.at(*_WRITING_WORDS, *_WRITING_UNLESS_CALLED):
        key = source.keys[index]
        writes = key in _WRITING_WORDS or source.key(index + 1) != "("
        if writes and not source.is_member(index) and source.key(index - 1) != ":":
            return Refusal(ReadOnly, f"{key} is not part of a read", f"quote a column of that name: `{key.lower()}`")
    if any(source.key(index + 1) == "IN" for index in source.at("LOCK")):
        return Refusal(ReadOnly, "LOCK IN SHARE MODE locks rows", "leave the locking clause out")
    for index in source.at("NEXT", "PREVIOUS"):
        if source.key(index + 1) == "VALUE":
            reason = f"{source.keys[index]} VALUE FOR uses a sequence"
            return Refusal(ReadOnly, reason, "read the sequence as a table: SELECT * FROM it")
    return None


def _files(source: Source) -> Refusal | None:
    """What reads or writes files of the server, or makes a table of another server's."""
    for index in source.at("OUTFILE", "DUMPFILE", "INFILE"):
        if not source.is_member(index):
            return Refusal(Forbidden, f"{source.keys[index]} is a file of the database server", "leave it out")
    for index in source.at("DIRECTORY", "CONNECTION", "SONAME", "DEFINER"):
        if source.key(index + 1) == "=" and source.key(0) in ("CREATE", "ALTER"):
            return Refusal(Forbidden, f"{source.keys[index]} = is not open to any access", "leave it out")
    for index in source.at("ENGINE"):
        token = source.tokens[min(index + 1 + (source.key(index + 1) == "="), len(source.tokens) - 1)]
        engine = unquote(token.text).strip("'\"").lower()
        if source.key(0) in ("CREATE", "ALTER") and not source.is_member(index) and engine not in _ENGINES:
            return Refusal(Forbidden, f"tables of the engine {engine} are not made here", "ENGINE = InnoDB")
    return None


def _last_insert_id(source: Source) -> Refusal | None:
    for index in source.at("("):
        before = source.tokens[max(index - 1, 0)]
        named = before.kind in ("word", "name") and unquote(before.text).lower() == "last_insert_id"
        if named and source.key(index + 1) != ")":
            return Refusal(Forbidden, "LAST_INSERT_ID(x) changes the session", "LAST_INSERT_ID() without an argument")
    return None


def _system_schemas(source: Source) -> Refusal | None:
    for index, token in enumerate(source.tokens):
        if token.kind not in ("word", "name"):
            continue
        name = unquote(token.text).lower()
        if name in _SYSTEM_SCHEMAS and source.key(index + 1) == "." and not source.is_member(index):
            return Refusal(Forbidden, f"the schema {name} holds accounts and other sessions", "use information_schema")
        if name in ("processlist", "innodb_trx") and source.key(index + 1) != "(":
            return Refusal(Forbidden, f"{name} shows other sessions' statements", "leave it out")
    return None


GRAMMAR = Grammar(
    lexicon=Lexicon(
        string_quotes="'\"",
        name_quotes="`",
        backslash_escapes=True,
        hash_comments=True,
        dash_needs_blank=True,
        executable_comments=True,
        backslash_null=True,
        name_start="$",
    ),
    query_words=_QUERY_WORDS,
    commands={"EXPLAIN": _explain, "DESCRIBE": _explain, "DESC": _explain, "SHOW": _show, "ANALYZE": _analyze},
    kinds={**KINDS, "LOAD": "write", "ANALYZE": "write", **dict.fromkeys(_MAINTENANCE, "other")},
    checks=(refuse_into, refuse_locks, _words, _last_insert_id),
    always=(_hidden_code, _symbols, _system_schemas, _files),
    definable=frozenset({"TABLE", "VIEW", "INDEX", "SEQUENCE", "TRIGGER", "FUNCTION", "PROCEDURE"}),
    function_rules=_FUNCTION_RULES,
    expanding_functions=frozenset({"repeat", "lpad", "rpad", "space"}),
    parser="mysql",
)

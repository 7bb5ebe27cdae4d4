"""What hostile statements are made of: what they are to do, where it is hidden, and marks to lose one's way in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Words:
    """*payloads* act (`{folder}`: where files are written); *carriers* have a place for one; *marks* open or close."""

    payloads: Sequence[str]
    carriers: Sequence[str]
    marks: Sequence[str]


# Blanks to a database, to Python, or to nobody.
BLANKS = (
    "", " ", "\n", "\t", "\x0c", "\r", "\x0b", "\r\n", "\xa0", "\u2003", "\u3000", "\u200b", "\ufeff", "\x85",
    "\u2028",
)  # fmt: skip
COMMENTS = (
    "/**/", "/* x */", "/* /* */ */", "/* ' */", "/*/", "*/", "/*", "-- x\n", "--\n", "--x\n", "#\n", "# x\n",
    "--\r", "/*!*/",
)  # fmt: skip

EVERYWHERE = Words(
    payloads=(
        "DELETE FROM accounts", "DELETE FROM accounts RETURNING *", "UPDATE accounts SET balance = 0",
        "DROP TABLE scratch", "INSERT INTO scratch VALUES (1)", "INSERT INTO scratch SELECT 1",
        "CREATE TABLE evil (x int)", "TRUNCATE scratch", "CREATE TABLE evil AS SELECT 1 AS x", "INTO evil",
        "FOR UPDATE", "ALTER TABLE scratch ADD evil int", "COMMIT", "BEGIN", "CREATE VIEW evil AS SELECT 1 AS x",
        "SELECT 1", "SELECT * FROM accounts",
    ),
    carriers=(
        "{}", "{};", "({})", "SELECT 1 {}", "SELECT 1; {}", "SELECT '{}'", "SELECT 1 FROM accounts {}", "EXPLAIN {}",
        "EXPLAIN ANALYZE {}", "WITH a AS ({}) SELECT 1", "WITH a AS (WITH b AS ({}) SELECT 1) SELECT * FROM a",
        "WITH a(x) AS (SELECT 1), b AS ({}) SELECT * FROM a", "WITH RECURSIVE a AS (SELECT 1 UNION ALL {}) SELECT 1",
        "SELECT ({})", "SELECT 1 UNION {}", "SELECT * FROM ({}) q", "SELECT CASE WHEN 1 = 1 THEN ({}) END",
        "SELECT 1 WHERE EXISTS ({})", "WITH a AS (SELECT 1) {}", "VALUES (({}))", "SELECT 1 AS {}",
        "SELECT t.{} FROM accounts t", "SELECT 1 ORDER BY {}", "SELECT 1 LIMIT {}", "SELECT {} FROM accounts",
    ),
    marks=(
        "'", "''", '"', '""', "`", "``", "\\", "\\'", '\\"', "'\\''", "[", "]", "{", "}", "(", ")", ";", ",",
    ),
)  # fmt: skip
OWN: Mapping[str, Words] = {
    "postgresql": Words(
        payloads=(
            "nextval('hit_seq')", "app.hit('x')", "app.run_sql('DELETE FROM accounts')",
            "SELECT * INTO evil FROM accounts", "COPY accounts TO '{folder}/copy'",
            "lo_export(424242, '{folder}/object')", "lo_unlink(424242)", "FOR SHARE",
            "set_config('application_name', 'evil', false)", "SET application_name = 'evil'",
            "SELECT app.hit('x') INTO evil", "pg_advisory_lock(42)", "LISTEN evil", "PREPARE evil AS SELECT 1",
            "DO $$BEGIN DELETE FROM accounts; END$$", "CREATE ROLE evil", "ALTER ROLE evil SUPERUSER",
            "REFRESH MATERIALIZED VIEW mv_daily", "VACUUM FULL accounts", "CALL app.purge()", "LOCK TABLE accounts",
            "('hit_seq'::regclass).nextval", "x.nextval FROM to_regclass('hit_seq') x",
            "x.lo_unlink FROM oidlarger(424242, 0) x", "query_to_xml('DELETE FROM accounts', true, true, '')",
            "MERGE INTO accounts a USING customers c ON a.id = c.id WHEN MATCHED THEN DELETE",
            "DECLARE evil CURSOR WITH HOLD FOR SELECT 1", "FOR NO KEY UPDATE", "TABLE accounts", "hit_seq",
            "app.hit",
        ),
        carriers=(
            "EXPLAIN (ANALYZE, VERBOSE) {}", "EXPLAIN (ANALYZE false, ANALYZE) {}", "TABLE accounts {}", "SHOW {}",
            "WITH a AS MATERIALIZED ({}) SELECT 1", "WITH a AS NOT MATERIALIZED ({}) TABLE a",
            "SELECT * FROM ROWS FROM ({}) x", "SELECT $${}$$", "SELECT $a${}$a$", "SELECT E'{}'", "SELECT U&'{}'",
            "SELECT x.{} FROM lower('hit_seq') AS x", "SELECT (accounts).{} FROM accounts", "SELECT 1::{}",
            "SELECT ARRAY({})", "SELECT 1 OPERATOR(pg_catalog.+) {}",
            "SELECT * FROM accounts TABLESAMPLE system ({})", "SELECT * FROM accounts, LATERAL ({}) x",
        ),
        marks=(
            "$$", "$a$", "$1", "$a", "E'", "e'\\'", "U&'", 'U&"', 'u&"\\0061"', "::", "B'", "N'", "'\n'", "'--\n'",
            "1e1", "1_000",
        ),
    ),
    "mysql": Words(
        payloads=(
            "INTO OUTFILE '{folder}/out'", "INTO DUMPFILE '{folder}/dump'", "INTO @evil", "@evil := 1",
            "SET @evil = 1", "NEXT VALUE FOR hit_seq", "nextval(hit_seq)", "setval(hit_seq, 500)", "CALL p_purge()",
            "DO last_insert_id(7)", "last_insert_id(7)", "REPLACE accounts VALUES (1, 'm', 0)", "LOCK IN SHARE MODE",
            "get_lock('evil', 0)", "SET SESSION sql_mode = 'ANSI_QUOTES'", "USE mysql", "HANDLER accounts OPEN",
            "START TRANSACTION", "XA START 'evil'", "CREATE TEMPORARY TABLE evil (x int)",
            "LOAD DATA INFILE '{folder}/in' INTO TABLE scratch", "PREPARE evil FROM 'SELECT 1'",
            "DELETE a FROM accounts a", "hit_seq.nextval", "ANALYZE TABLE accounts", "FLUSH TABLES accounts",
            "LOCK TABLES accounts READ", "EXECUTE IMMEDIATE 'DELETE FROM accounts'",
            "SET STATEMENT max_statement_time = 1 FOR SELECT 1", "CREATE USER evil",
            "BEGIN NOT ATOMIC DELETE FROM accounts; END", "IF 1 THEN DELETE FROM accounts; END IF",
            "PROCEDURE analyse()",
        ),
        carriers=(
            "/*!{}*/", "/*!50000 {}*/", "/*M!{}*/", "SELECT 1 /*!{}*/", "SELECT 1 /*!99999 */ {}",
            "SELECT {{d '2025-01-01'}} {}", "SELECT 1 --{}", "SELECT 1 #{}", "ANALYZE {}", "ANALYZE FORMAT=JSON {}",
            "EXPLAIN EXTENDED {}", "DESC {}", "SHOW {}", "SHOW COLUMNS FROM accounts WHERE ({})",
            "TABLE accounts {}", "SELECT /*+ SET_VAR({}) */ 1", "SELECT 1 PROCEDURE {}", "EXPLAIN FORMAT=JSON {}",
            "DESCRIBE accounts {}", "SHOW CREATE TABLE {}", "SELECT 1e1{}", "SELECT .5{}", "SELECT \\N{}",
        ),
        marks=(
            "/*!", "/*M!", "/*!50000", "*/", "--", "-- ", "#", "@", "@@", ":=", "$$", "\\N", "0x", "x'", "N'",
            "_utf8'", "1e1", "\\%",
        ),
    ),
    "sqlite": Words(
        payloads=(
            "ATTACH '{folder}/attached' AS evil", "VACUUM INTO '{folder}/vacuum'", "PRAGMA user_version = 7",
            "REINDEX", "ANALYZE", "PRAGMA journal_mode = WAL", "PRAGMA writable_schema = 1",
            "INSERT INTO docs(docs) VALUES ('optimize')", "VACUUM", "REPLACE INTO accounts VALUES (1, 'm', 0)",
            "CREATE TEMP TABLE evil (x)", "SAVEPOINT evil", "PRAGMA foreign_keys = 1", "pragma_user_version(7)",
            "pragma_wal_checkpoint", "PRAGMA incremental_vacuum", "load_extension('x')", "user_version(7)",
            "CREATE TEMP VIEW accounts AS SELECT 1", "DETACH main", "PRAGMA main.cache_size(7)",
            "PRAGMA case_sensitive_like(1)", "PRAGMA table_info(accounts)", "pragma_table_info('accounts')",
        ),
        carriers=(
            "EXPLAIN QUERY PLAN {}", "PRAGMA {}", "PRAGMA main.{}", "PRAGMA table_info({})",
            "SELECT * FROM pragma_{}", "SELECT [{}]", "SELECT `{}`", "SELECT $a({})", "SELECT @a::b({})",
            "SELECT :a({})", "SELECT #a{}", "PRAGMA {} = 1", "PRAGMA {}(1)",
        ),
        marks=(
            "[", "]", "$a(", "@a", ":a", "?1", "$a::", "x'", "0x1", "1e1", "#",
        ),
    ),
}  # fmt: skip

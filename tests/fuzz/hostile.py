"""Hostile statements, endlessly and from a seed: the corpus cut up, dressed up and put together anew."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from tests.corpus_bench import lines, text_of

_LONGEST = 3_000  # characters
_PIECE = re.compile(r"\w+|\s+|.", re.DOTALL)

# Blanks to a database, to Python, or to nobody.
_BLANKS = [
    "",
    " ",
    "\n",
    "\t",
    "\f",
    "\r",
    "\v",
    "\r\n",
    "\xa0",
    "\u2003",
    "\u3000",
    "\u200b",
    "\ufeff",
    "\x85",
    "\u2028",
]
_COMMENTS = [
    "/**/",
    "/* x */",
    "/* /* */ */",
    "/* ' */",
    "/*/",
    "*/",
    "/*",
    "-- x\n",
    "--\n",
    "--x\n",
    "#\n",
    "# x\n",
    "--\r",
    "/*!*/",
]
_QUOTES = ["'", "''", '"', '""', "`", "``", "\\", "\\'", '\\"', "'\\''", "[", "]", "{", "}", "(", ")", ";", ","]
_CARRIERS = [
    "{}", "{};", "({})", "SELECT 1 {}", "SELECT 1; {}", "SELECT '{}'", "SELECT 1 FROM accounts {}", "EXPLAIN {}",
    "EXPLAIN ANALYZE {}", "WITH a AS ({}) SELECT 1", "WITH a AS (WITH b AS ({}) SELECT 1) SELECT * FROM a",
    "WITH a(x) AS (SELECT 1), b AS ({}) SELECT * FROM a", "WITH RECURSIVE a AS (SELECT 1 UNION ALL {}) SELECT 1",
    "SELECT ({})", "SELECT 1 UNION {}", "SELECT * FROM ({}) q", "SELECT CASE WHEN 1 = 1 THEN ({}) END",
    "SELECT 1 WHERE EXISTS ({})", "WITH a AS (SELECT 1) {}", "VALUES (({}))", "SELECT 1 AS {}", "SELECT t.{} FROM accounts t",
    "SELECT 1 ORDER BY {}", "SELECT 1 LIMIT {}", "SELECT {} FROM accounts",
]  # fmt: skip
_PAYLOADS = [
    "DELETE FROM accounts", "DELETE FROM accounts RETURNING *", "UPDATE accounts SET balance = 0", "DROP TABLE scratch",
    "INSERT INTO scratch VALUES (1)", "INSERT INTO scratch SELECT 1", "CREATE TABLE evil (x int)", "TRUNCATE scratch",
    "CREATE TABLE evil AS SELECT 1 AS x", "INTO evil", "FOR UPDATE", "ALTER TABLE scratch ADD evil int", "COMMIT", "BEGIN",
    "CREATE VIEW evil AS SELECT 1 AS x", "SELECT 1", "SELECT * FROM accounts",
]  # fmt: skip
_OWN: Mapping[str, tuple[Sequence[str], Sequence[str], Sequence[str]]] = {  # payloads, carriers, quotes
    "postgresql": (
        [
            "nextval('hit_seq')",
            "app.hit('x')",
            "app.run_sql('DELETE FROM accounts')",
            "SELECT * INTO evil FROM accounts",
            "COPY accounts TO '{folder}/copy'",
            "lo_export(424242, '{folder}/object')",
            "lo_unlink(424242)",
            "FOR SHARE",
            "set_config('application_name', 'evil', false)",
            "SET application_name = 'evil'",
            "SELECT app.hit('x') INTO evil",
            "pg_advisory_lock(42)",
            "LISTEN evil",
            "PREPARE evil AS SELECT 1",
            "DO $$BEGIN DELETE FROM accounts; END$$",
            "CREATE ROLE evil",
            "ALTER ROLE evil SUPERUSER",
            "REFRESH MATERIALIZED VIEW mv_daily",
            "VACUUM FULL accounts",
            "CALL app.purge()",
            "LOCK TABLE accounts",
            "('hit_seq'::regclass).nextval",
            "x.nextval FROM to_regclass('hit_seq') x",
            "x.lo_unlink FROM oidlarger(424242, 0) x",
            "query_to_xml('DELETE FROM accounts', true, true, '')",
            "MERGE INTO accounts a USING customers c ON a.id = c.id WHEN MATCHED THEN DELETE",
            "DECLARE evil CURSOR WITH HOLD FOR SELECT 1",
            "FOR NO KEY UPDATE",
            "TABLE accounts",
            "hit_seq",
            "app.hit",
        ],
        [
            "EXPLAIN (ANALYZE, VERBOSE) {}",
            "EXPLAIN (ANALYZE false, ANALYZE) {}",
            "TABLE accounts {}",
            "SHOW {}",
            "WITH a AS MATERIALIZED ({}) SELECT 1",
            "WITH a AS NOT MATERIALIZED ({}) TABLE a",
            "SELECT * FROM ROWS FROM ({}) x",
            "SELECT $${}$$",
            "SELECT $a${}$a$",
            "SELECT E'{}'",
            "SELECT U&'{}'",
            "SELECT x.{} FROM lower('hit_seq') AS x",
            "SELECT (accounts).{} FROM accounts",
            "SELECT 1::{}",
            "SELECT ARRAY({})",
            "SELECT 1 OPERATOR(pg_catalog.+) {}",
            "SELECT * FROM accounts TABLESAMPLE system ({})",
            "SELECT * FROM accounts, LATERAL ({}) x",
        ],
        [
            "$$",
            "$a$",
            "$1",
            "$a",
            "E'",
            "e'\\'",
            "U&'",
            'U&"',
            'u&"\\0061"',
            "::",
            "B'",
            "N'",
            "'\n'",
            "'--\n'",
            "1e1",
            "1_000",
        ],
    ),
    "mysql": (
        [
            "INTO OUTFILE '{folder}/out'",
            "INTO DUMPFILE '{folder}/dump'",
            "INTO @evil",
            "@evil := 1",
            "SET @evil = 1",
            "NEXT VALUE FOR hit_seq",
            "nextval(hit_seq)",
            "setval(hit_seq, 500)",
            "CALL p_purge()",
            "DO last_insert_id(7)",
            "last_insert_id(7)",
            "REPLACE accounts VALUES (1, 'm', 0)",
            "LOCK IN SHARE MODE",
            "get_lock('evil', 0)",
            "SET SESSION sql_mode = 'ANSI_QUOTES'",
            "USE mysql",
            "HANDLER accounts OPEN",
            "START TRANSACTION",
            "XA START 'evil'",
            "CREATE TEMPORARY TABLE evil (x int)",
            "LOAD DATA INFILE '{folder}/in' INTO TABLE scratch",
            "PREPARE evil FROM 'SELECT 1'",
            "DELETE a FROM accounts a",
            "hit_seq.nextval",
            "ANALYZE TABLE accounts",
            "FLUSH TABLES accounts",
            "LOCK TABLES accounts READ",
            "EXECUTE IMMEDIATE 'DELETE FROM accounts'",
            "SET STATEMENT max_statement_time = 1 FOR SELECT 1",
            "CREATE USER evil",
            "BEGIN NOT ATOMIC DELETE FROM accounts; END",
            "IF 1 THEN DELETE FROM accounts; END IF",
            "PROCEDURE analyse()",
        ],
        [
            "/*!{}*/",
            "/*!50000 {}*/",
            "/*M!{}*/",
            "SELECT 1 /*!{}*/",
            "SELECT 1 /*!99999 */ {}",
            "SELECT {{d '2025-01-01'}} {}",
            "SELECT 1 --{}",
            "SELECT 1 #{}",
            "ANALYZE {}",
            "ANALYZE FORMAT=JSON {}",
            "EXPLAIN EXTENDED {}",
            "DESC {}",
            "SHOW {}",
            "SHOW COLUMNS FROM accounts WHERE ({})",
            "TABLE accounts {}",
            "SELECT /*+ SET_VAR({}) */ 1",
            "SELECT 1 PROCEDURE {}",
            "EXPLAIN FORMAT=JSON {}",
            "DESCRIBE accounts {}",
            "SHOW CREATE TABLE {}",
            "SELECT 1e1{}",
            "SELECT .5{}",
            "SELECT \\N{}",
        ],
        [
            "/*!",
            "/*M!",
            "/*!50000",
            "*/",
            "--",
            "-- ",
            "#",
            "@",
            "@@",
            ":=",
            "$$",
            "\\N",
            "0x",
            "x'",
            "N'",
            "_utf8'",
            "1e1",
            "\\%",
        ],
    ),
    "sqlite": (
        [
            "ATTACH '{folder}/attached' AS evil",
            "VACUUM INTO '{folder}/vacuum'",
            "PRAGMA user_version = 7",
            "REINDEX",
            "ANALYZE",
            "PRAGMA journal_mode = WAL",
            "PRAGMA writable_schema = 1",
            "INSERT INTO docs(docs) VALUES ('optimize')",
            "VACUUM",
            "REPLACE INTO accounts VALUES (1, 'm', 0)",
            "CREATE TEMP TABLE evil (x)",
            "SAVEPOINT evil",
            "PRAGMA foreign_keys = 1",
            "pragma_user_version(7)",
            "pragma_wal_checkpoint",
            "PRAGMA incremental_vacuum",
            "load_extension('x')",
            "user_version(7)",
            "CREATE TEMP VIEW accounts AS SELECT 1",
            "DETACH main",
            "PRAGMA main.cache_size(7)",
            "PRAGMA case_sensitive_like(1)",
            "PRAGMA table_info(accounts)",
            "pragma_table_info('accounts')",
        ],
        [
            "EXPLAIN QUERY PLAN {}",
            "PRAGMA {}",
            "PRAGMA main.{}",
            "PRAGMA table_info({})",
            "SELECT * FROM pragma_{}",
            "SELECT [{}]",
            "SELECT `{}`",
            "SELECT $a({})",
            "SELECT @a::b({})",
            "SELECT :a({})",
            "SELECT #a{}",
            "PRAGMA {} = 1",
            "PRAGMA {}(1)",
        ],
        ["[", "]", "$a(", "@a", ":a", "?1", "$a::", "x'", "0x1", "1e1", "#"],
    ),
}


def pieces_of(sql: str) -> list[str]:
    """*sql* cut at every change between word, blank and mark, in a way that knows nothing of SQL."""
    return _PIECE.findall(sql)


@dataclass
class Hostile:
    """Statements against *backend*; *folder* is where those that write files are to write them."""

    backend: str
    folder: str
    random: Random
    seeds: list[str] = field(init=False)
    payloads: list[str] = field(init=False)
    carriers: list[str] = field(init=False)
    marks: list[str] = field(init=False)

    def __post_init__(self) -> None:
        payloads, carriers, quotes = _OWN[self.backend]
        # What only takes long would tell nothing.
        honest, hostile = lines("must_accept", self.backend), lines("must_reject", self.backend)
        self.seeds = [text_of(line) for line in [*honest, *hostile] if line["category"] != "dos"]
        self.payloads = [payload.replace("{folder}", self.folder) for payload in [*_PAYLOADS, *payloads]]
        self.carriers = [*_CARRIERS, *carriers]
        self.marks = [*_QUOTES, *quotes, *_COMMENTS]

    def statement(self) -> str:
        """The next one."""
        ways: Sequence[Callable[[], str]] = (self._carried, self._confused, self._spliced, self._seed, self._seed)
        sql = self.random.choice(ways)()
        for change in self.random.choices(self._changes, k=self.random.choice((0, 0, 1, 1, 2, 3, 5))):
            sql = change(sql)
        return sql[:_LONGEST]

    # -- beginnings --------------------------------------------------------------------------------------------------

    def _seed(self) -> str:
        return self.random.choice(self.seeds)

    def _carried(self) -> str:
        """A payload where a query, an expression or a name is expected; up to three layers deep."""
        sql = self.random.choice(self.payloads)
        for _ in range(self.random.choice((1, 1, 2, 3))):
            sql = self.random.choice(self.carriers).format(sql)
        return sql

    def _confused(self) -> str:
        """A query, a payload, and between and around them marks in which a lexer may lose its way."""
        parts = [
            self.random.choice(("SELECT 1", "SELECT 1 ", "SELECT 'a", "SELECT 1 AS ", "VALUES (1", "EXPLAIN SELECT 1"))
        ]
        for _ in range(self.random.randint(1, 4)):
            parts.extend(self.random.choices(self.marks, k=self.random.randint(1, 3)))
            parts.append(
                self.random.choice((";", "; ", " ", "\n", "")) + self.random.choice((*self.payloads, "x", "1"))
            )
        parts.extend(self.random.choices(self.marks, k=self.random.randint(0, 3)))
        return "".join(parts)

    def _spliced(self) -> str:
        """The beginning of one statement and the end of another."""
        first, second = pieces_of(self._seed()), pieces_of(self._seed())
        cut, other = self.random.randint(0, len(first)), self.random.randint(0, len(second))
        return "".join(first[:cut] + second[other:])

    # -- changes -----------------------------------------------------------------------------------------------------

    @property
    def _changes(self) -> Sequence[Callable[[str], str]]:
        return (
            self._inserted,
            self._inserted,
            self._without,
            self._doubled,
            self._swapped,
            self._reblanked,
            self._carry,
            self._case,
            self._quoted,
        )

    def _inserted(self, sql: str) -> str:
        pieces = pieces_of(sql)
        piece = self.random.choice(
            (self.random.choice(self.marks), self.random.choice(self.payloads), self.random.choice(_BLANKS))
        )
        pieces.insert(self.random.randint(0, len(pieces)), piece)
        return "".join(pieces)

    def _without(self, sql: str) -> str:
        pieces = pieces_of(sql)
        start = self.random.randint(0, len(pieces))
        return "".join(pieces[:start] + pieces[start + self.random.randint(1, 4) :])

    def _doubled(self, sql: str) -> str:
        pieces = pieces_of(sql)
        start = self.random.randint(0, len(pieces))
        end = start + self.random.randint(1, 6)
        return "".join(pieces[:end] + pieces[start:end] + pieces[end:])

    def _swapped(self, sql: str) -> str:
        pieces = pieces_of(sql)
        if len(pieces) > 1:
            one, other = self.random.sample(range(len(pieces)), 2)
            pieces[one], pieces[other] = pieces[other], pieces[one]
        return "".join(pieces)

    def _reblanked(self, sql: str) -> str:
        blanks = [*_BLANKS, *_COMMENTS]
        return "".join(
            self.random.choice(blanks) if piece.isspace() and self.random.random() < 0.4 else piece for piece in pieces_of(sql)
        )  # fmt: skip

    def _carry(self, sql: str) -> str:
        return self.random.choice(self.carriers).format(sql)

    def _case(self, sql: str) -> str:
        return "".join(piece.swapcase() if self.random.random() < 0.3 else piece for piece in pieces_of(sql))

    def _quoted(self, sql: str) -> str:
        """One word as a quoted name, which is not always another name."""
        pieces = pieces_of(sql)
        words = [index for index, piece in enumerate(pieces) if piece.isidentifier()]
        if words:
            index = self.random.choice(words)
            left, right = self.random.choice(('""', "``", "[]", "''"))
            pieces[index] = f"{left}{pieces[index]}{right}"
        return "".join(pieces)

"""The text's wall: what it costs to read a statement and to decide that it reads."""

import itertools
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from benchmarks.lab import Lab
from benchmarks.measuring import Sample, Timed, taking_turns
from benchmarks.reporting import Figure
from manydb import statements
from manydb.dialects import DIALECTS, Dialect
from manydb.dialects.grammar import Grammar
from manydb.errors import ManydbError
from manydb.lexer import MAX_CHARACTERS
from manydb.statements import Statement

ROUNDS = 200
LONG_ROUNDS = 7

MOST_SEEN = 0.3  # ms
MOST_NEW = 2.0
MOST_GROWTH = 2.0  # x what each character costs in a text of a fifth of the length

SHORT = "SELECT id, email FROM customers WHERE id = 7"
JOIN = """
SELECT c.id, c.name, o.id AS order_id, o.placed_at, sum(i.quantity * i.price) AS total
FROM customers AS c
JOIN orders AS o ON o.customer_id = c.id
JOIN order_items AS i ON i.order_id = o.id
WHERE c.country = 'CH' AND o.status IN ('paid', 'sent') AND o.placed_at >= :since
GROUP BY c.id, c.name, o.id, o.placed_at ORDER BY total DESC LIMIT 50
"""
_MEASURES = ",\n".join(
    f"  sum(CASE WHEN s.month = {month} THEN s.revenue - coalesce(s.refunded, 0) ELSE 0 END) AS month_{month}"
    for month in range(1, 13)
)
REPORT = f"""
-- Revenue by customer and month, refunds taken out; those who left are not in it.
WITH sales AS (
  SELECT o.customer_id, o.month, sum(i.quantity * i.price * (1 - i.discount)) AS revenue, sum(r.amount) AS refunded
  FROM orders AS o
  JOIN order_items AS i ON i.order_id = o.id
  LEFT JOIN refunds AS r ON r.order_id = o.id AND r.state = 'done'
  WHERE o.year = :year AND o.status NOT IN ('draft', 'cancelled')
  GROUP BY o.customer_id, o.month
)
SELECT c.id, c.name, upper(c.country) AS country,
{_MEASURES},
  rank() OVER (PARTITION BY c.country ORDER BY sum(s.revenue) DESC) AS place
FROM sales AS s
JOIN customers AS c ON c.id = s.customer_id
WHERE c.left_at IS NULL AND c.segment LIKE 'retail%'
  AND EXISTS (SELECT 1 FROM contracts AS k WHERE k.customer_id = c.id AND k.valid_until > :today)
GROUP BY c.id, c.name, c.country
HAVING sum(s.revenue) > 1000
ORDER BY country, place LIMIT 200
"""
TYPICAL = {"short select": SHORT, "join": JOIN, "report": REPORT}
# The same with a word in them that the parser library could object to, which is what it is asked for.
SUSPECT = {name: f"-- for the update\n{sql}" for name, sql in TYPICAL.items()}

# Texts that grow by repeating a piece: beginning, piece, end.
GROWING = {
    "numbers": ("SELECT id FROM orders WHERE id IN (", "123456, ", "1)"),
    "strings": ("SELECT id FROM orders WHERE note IN (", "'it''s', ", "'')"),
    "calls": ("SELECT ", "coalesce(o.note, 'none'), ", "1 FROM orders AS o"),
    "brackets": ("SELECT ", "((((1)))), ", "1"),
    "common table expressions": ("WITH a AS (SELECT 1)", ", b AS (SELECT * FROM orders)", " SELECT 1"),
    "placeholders": ("SELECT ", ":value, ", "1"),
    "comments": ("SELECT 1 ", "-- a word\n", ""),
    # Not readable, which must not take longer to find out.
    "open comments": ("SELECT 1 ", "/* ", ""),
    "open brackets": ("SELECT ", "(", ""),
    "dollars": ("SELECT ", "$a$b", ""),
}

# Nothing here waits, so what counts is our own time, however busy the machine is.
_PROCESSOR = time.thread_time

_numbers = itertools.count(1_000_000)


async def run(lab: Lab) -> AsyncGenerator[Figure]:
    for dialect in DIALECTS:
        for name, sql in TYPICAL.items():
            for figure in await _typical(dialect, name, sql, lab.rounds or ROUNDS):
                yield figure
        for name, sql in SUSPECT.items():
            for figure in await _suspect(dialect, name, sql, lab.rounds or ROUNDS):
                yield figure
        for figure in await _long(dialect, lab.rounds or LONG_ROUNDS):
            yield figure


async def _typical(dialect: Dialect, name: str, sql: str, rounds: int) -> list[Figure]:
    """The whole of the wall: a typical statement holds nothing that the parser library has to be asked about."""
    title = f"{name}, {len(sql)} characters"
    texts = {"seen": partial(_equal, sql), "new": partial(_unseen, sql)}
    works = {kind: _Reading(dialect.grammar, text).timed() for kind, text in texts.items()}
    times = await taking_turns(works, rounds, _PROCESSOR)
    return [
        Figure(dialect.name, f"{title}, seen", times["seen"], "ms", at_most=MOST_SEEN),
        Figure(dialect.name, f"{title}, new", times["new"], "ms", at_most=MOST_NEW),
        Figure(dialect.name, f"{title}, new over seen", times["new"].over(times["seen"]), "x"),
    ]


async def _suspect(dialect: Dialect, name: str, sql: str, rounds: int) -> list[Figure]:
    """The same where the library is asked: what our thread does, and how long the call waits for the library's."""
    title = f"{name}, second opinion asked"
    works = {
        "seen": _Reading(dialect.grammar, partial(_equal, sql)).timed(),
        "new": _Reading(dialect.grammar, partial(_unseen, sql)).timed(),
    }
    ours = await taking_turns(works, rounds, _PROCESSOR)
    opinions = {"waited": _Asking(dialect.grammar, partial(_unseen, sql)).timed()}
    waited = (await taking_turns(opinions, rounds))["waited"]
    return [
        Figure(dialect.name, f"{title}, seen", ours["seen"], "ms", at_most=MOST_SEEN),
        Figure(dialect.name, f"{title}, new, without the library's thread", ours["new"], "ms", at_most=MOST_NEW),
        Figure(dialect.name, f"{title}, new, the wait for it alone", waited, "ms"),
    ]


async def _long(dialect: Dialect, rounds: int) -> list[Figure]:
    """What a character costs in the longest texts there may be, over what it costs in those of a fifth.

    Both are too long to be remembered, so that both are read.
    """
    figures = []
    for name, pieces in GROWING.items():
        works = {
            length: _Reading(dialect.grammar, partial(_grown, pieces, length)).timed()
            for length in (MAX_CHARACTERS // 5, MAX_CHARACTERS)
        }
        short, long = (await taking_turns(works, rounds, _PROCESSOR)).values()
        growth = Sample(tuple(ratio / 5 for ratio in long.over(short).each))
        what = f"{name}, {MAX_CHARACTERS:,} characters"
        figures += [
            Figure(dialect.name, f"{what}, each over each of a fifth", growth, "x", at_most=MOST_GROWTH),
            Figure(dialect.name, what, long, "ms"),
        ]
    return figures


@dataclass
class _Reading:
    """What the gateway does with a text, which *make* makes anew each time."""

    grammar: Grammar
    make: Callable[[], str]
    sql: str = ""

    def timed(self) -> Timed:
        return Timed(self.read, before=self.prepare)

    async def prepare(self) -> None:
        self.sql = self.make()

    async def read(self) -> None:
        with suppress(ManydbError):
            statement = statements.parse(self.sql, self.grammar)
            statements.require_read(statement)
            await statements.require_consent(statement)


@dataclass
class _Asking:
    """The second opinion alone, of a statement that has been read."""

    grammar: Grammar
    make: Callable[[], str]
    statement: Statement = field(init=False)

    def timed(self) -> Timed:
        return Timed(self.ask, before=self.prepare)

    async def prepare(self) -> None:
        self.statement = statements.parse(self.make(), self.grammar)

    async def ask(self) -> None:
        await statements.require_consent(self.statement)


def _equal(sql: str) -> str:
    """Another string of the same text: a client's never is the object that was seen, so its hash is not known yet."""
    return sql.encode().decode()


def _unseen(sql: str) -> str:
    """All of them end in a number: here in one that has not been there."""
    return f"{sql.rstrip()}{next(_numbers)}"


def _grown(pieces: tuple[str, str, str], length: int) -> str:
    beginning, piece, end = pieces
    return beginning + piece * ((length - len(beginning) - len(end)) // len(piece)) + end

"""A parser library's opinion of a statement. It may only refuse: where it cannot parse, it has none.

It takes 100 ms to import, and a millisecond for every few hundred characters. So it is asked in a thread, once a text,
and only about texts that hold a word without which it has nothing to object to: most reads never need it.
"""

import asyncio
import logging
import re
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, lru_cache
from typing import TYPE_CHECKING

from manydb.dialects.grammar import Grammar, Refusal
from manydb.errors import ReadOnly

if TYPE_CHECKING:
    from manydb.statements.reading import Statement

_LONGEST = 10_000  # characters; the time to parse grows with the text
_MOST_SUBSCRIPTS = 50  # its time grows with the square of their number: 200 ms for 200, 4 s for 1,000
_SPARE_NODES = 500  # over one for every two characters; honest statements need one for every five
_PATIENCE_SECONDS = 1.0

# What it may find in a read, and the words one of which it needs to find it. Its END of a transaction is not among
# them: inside a query nothing can be ended, and every CASE has one.
_OBJECTIONS = {
    "Insert": ("INSERT",),
    "Update": ("UPDATE",),
    "Delete": ("DELETE",),
    "Merge": ("MERGE",),
    "Create": ("CREATE",),
    "Drop": ("DROP",),
    "Alter": ("ALTER",),
    "TruncateTable": ("TRUNCATE",),
    "Into": ("INTO",),
    "Lock": ("UPDATE", "SHARE"),
    "Set": ("(?<!OFF)SET",),
    "Use": ("USE",),
    "Transaction": ("BEGIN", "START"),
    "Commit": ("COMMIT",),
    "Rollback": ("ROLLBACK",),
    "Copy": ("COPY",),
    "Grant": ("GRANT",),
    "Attach": ("ATTACH",),
    "Detach": ("DETACH",),
    "Kill": ("KILL",),
    "LoadData": ("LOAD",),
}
# Anywhere in the text, also within quotes and comments, since the library may disagree with us about where those end;
# and at the end of a longer word, since it takes 1INTO for a number and a word.
_WORDS = re.compile("(?:" + "|".join(sorted({word for words in _OBJECTIONS.values() for word in words})) + ")(?!\\w)")


def second_opinion(statement: "Statement") -> Refusal | None:
    """What the parser library holds against *statement*; None if nothing or if it cannot tell. Waits for it."""
    answer = _answer(statement)
    return None if answer is None else answer.result()


async def require_consent(statement: "Statement", *, patience: float = _PATIENCE_SECONDS) -> None:
    """Raise ReadOnly if the parser library takes *statement* for more than a read.

    One that has no answer within *patience* (seconds) is let pass: the library is no wall, and must not become an
    obstacle. Its answer is kept when it comes.
    """
    answer = _answer(statement)
    if answer is None:
        return
    if not answer.done():
        # wait, unlike wait_for, leaves the answer to those who come after a time-out or a cancelled call.
        await asyncio.wait([asyncio.wrap_future(answer)], timeout=patience)
    refusal = answer.result() if answer.done() else None
    if refusal:
        raise refusal.as_error()


def _answer(statement: "Statement") -> Future[Refusal | None] | None:
    """The library's answer, which may be on its way; None where it is not asked."""
    sql = statement.explained or statement.sql
    is_asked = statement.form in ("query", "explain") and len(sql) < _LONGEST and statement.grammar.parser is not None
    try:
        return _asked(sql, statement.grammar) if is_asked else None
    except RuntimeError:  # there can be no thread: too many, or the process is about to end
        return None


@lru_cache(maxsize=512)
def _asked(sql: str, grammar: Grammar) -> Future[Refusal | None] | None:
    if not _WORDS.search(sql.upper()) or sql.count("[") > _MOST_SUBSCRIPTS:
        return None
    return _thread().submit(_opinion, sql, grammar)


@cache
def _thread() -> ThreadPoolExecutor:
    """One thread: what it does keeps a processor busy, and two would only make everybody else wait longer."""
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="second opinion")


def _opinion(sql: str, grammar: Grammar) -> Refusal | None:
    try:
        found = _objection(sql, grammar)
    except Exception:  # noqa: BLE001 - it raises many things, RecursionError too, on SQL that databases take; then it has no opinion
        return None
    if found is None:
        return None
    message = f"the statement seems to hold {found.upper()}, which is not part of a read"
    return Refusal(ReadOnly, message, "write it as a plain SELECT")


def _objection(sql: str, grammar: Grammar) -> str | None:
    """What the library calls the part of *sql* that does not read."""
    import sqlglot  # noqa: PLC0415 - 100 ms, only where it is asked for
    from sqlglot import expressions  # noqa: PLC0415

    logging.getLogger("sqlglot").setLevel(logging.CRITICAL)  # its warnings quote the statement
    # Without a bound it takes twice the time for each further JOIN that has no condition.
    parsed = sqlglot.parse(sql, dialect=grammar.parser, max_nodes=len(sql) // 2 + _SPARE_NODES)
    trees = [tree for tree in parsed if tree is not None]
    objections = tuple(getattr(expressions, name) for name in _OBJECTIONS)
    node = trees[0].find(*objections) if len(trees) == 1 else None
    return None if node is None else type(node).__name__

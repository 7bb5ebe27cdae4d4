"""The search on one database: statements are proposed, the text judges, and what it lets pass is run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count

from manydb import statements
from manydb.errors import ManydbError
from tests.fuzz.grounds import GoneError, Ground, Snapshot, changes
from tests.fuzz.hostile import pieces_of

_BATCH = 100
"""Statements between two looks at everything: a look costs as much as some dozen statements."""
_MOST_TRIALS = 400

Judge = Callable[[Ground, str], str | None]


@dataclass(slots=True)
class Tally:
    """How many statements were *generated*, *accepted* as reads, and *executed* without an error."""

    generated: int = 0
    accepted: int = 0
    executed: int = 0


@dataclass(frozen=True, slots=True)
class Miss:
    """Statements that passed as reads and changed something, as short as they could be made."""

    statements: Sequence[str]
    changed: Sequence[str]


def passes(ground: Ground, sql: str) -> str | None:
    """*sql* as it would be sent, if the text alone (and the catalog's word on functions) takes it for a read."""
    try:
        statement = statements.parse(sql, ground.dialect.grammar)
        statements.require_read(statement)
        statements.check_functions(statement, ground.acting)
    except ManydbError:
        return None
    return statement.sql


async def search(
    ground: Ground, propose: Callable[[], str], *, goes_on: Callable[[], bool], judge: Judge = passes
) -> tuple[Tally, Miss | None]:
    """Look for a miss until *goes_on* says no, batch by batch."""
    tally = Tally()
    before = await ground.snapshot()
    while goes_on():
        batch: list[str] = []
        while len(batch) < _BATCH and goes_on():
            tally.generated += 1
            if sql := judge(ground, propose()):
                tally.accepted += 1
                batch.append(sql)
                try:
                    tally.executed += await ground.run(sql)
                except GoneError:
                    return tally, Miss([sql], ["the server has ended"])
        after = await ground.snapshot()
        if changes(before, after):
            return tally, await _blamed(ground, batch, changes(before, after), judge)
    return tally, None


async def _blamed(ground: Ground, batch: Sequence[str], changed: Sequence[str], judge: Judge) -> Miss:
    """The one statement of *batch* that changes something by itself, minimised; the whole batch where none does."""
    await ground.restore()
    before = await ground.snapshot()
    for sql in batch:
        effect, before = await _effect(ground, sql, before)
        if effect:
            return await _minimised(ground, sql, effect, judge)
    return Miss(batch, changed)


async def _effect(ground: Ground, sql: str, before: Snapshot) -> tuple[list[str], Snapshot]:
    """What *sql* changes, and the state for the next one, in which that is undone."""
    await ground.run(sql)
    effect = changes(before, await ground.snapshot())
    if effect:
        await ground.restore()
        before = await ground.snapshot()
    return effect, before


async def _minimised(ground: Ground, sql: str, effect: list[str], judge: Judge) -> Miss:
    """*sql* with every piece left out that it can do without: first long runs of pieces, then short ones."""
    before = await ground.snapshot()
    pieces, trials = pieces_of(sql), count()
    length = len(pieces) // 2
    while length:
        start = 0
        while start < len(pieces) and next(trials) < _MOST_TRIALS:
            shorter = pieces[:start] + pieces[start + length :]
            text = judge(ground, "".join(shorter))
            found, before = await _effect(ground, text, before) if text else ([], before)
            if found:
                pieces, effect = shorter, found
            else:
                start += length
        length //= 2
    return Miss(["".join(pieces)], effect)

"""Hostile statements, endlessly and from a seed: the corpus cut up, dressed up and put together anew."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from tests.corpus_bench import lines, text_of
from tests.fuzz.words import BLANKS, COMMENTS, EVERYWHERE, OWN

_LONGEST = 3_000  # characters
_PIECE = re.compile(r"\w+|\s+|.", re.DOTALL)


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
        own = OWN[self.backend]
        # What only takes long would tell nothing.
        honest, hostile = lines("must_accept", self.backend), lines("must_reject", self.backend)
        self.seeds = [text_of(line) for line in [*honest, *hostile] if line["category"] != "dos"]
        self.payloads = [text.replace("{folder}", self.folder) for text in (*EVERYWHERE.payloads, *own.payloads)]
        self.carriers = [*EVERYWHERE.carriers, *own.carriers]
        self.marks = [*EVERYWHERE.marks, *own.marks, *COMMENTS]

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
            (self.random.choice(self.marks), self.random.choice(self.payloads), self.random.choice(BLANKS))
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
        """Some blanks as others, or as comments."""
        pieces = pieces_of(sql)
        for index, piece in enumerate(pieces):
            if piece.isspace() and self.random.random() < 0.4:
                pieces[index] = self.random.choice((*BLANKS, *COMMENTS))
        return "".join(pieces)

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

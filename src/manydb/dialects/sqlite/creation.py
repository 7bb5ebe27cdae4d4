"""What only a CREATE statement tells about a SQLite table: checks, generated columns, AUTOINCREMENT, comments.

SQLite keeps the statement as it was written and has accepted it, so it is well-formed; this reads it as far as needed.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_QUOTED = r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\]"""
_COMMENT = re.compile(rf"({_QUOTED})|--[^\n]*|/\*.*?(?:\*/|\Z)", re.DOTALL)
_TOKEN = re.compile(rf"{_QUOTED}|\w+|[^\w\s]", re.DOTALL)
_LINE_COMMENT = re.compile(r"[ \t]*,?[ \t]*--([^\n]*)")
# Without any of these, all that a statement says beyond columns and keys stands behind its last bracket.
_WORTH_READING = re.compile(r"\b(?:check|as|autoincrement)\b|--|/\*", re.IGNORECASE)
_TABLE_CONSTRAINTS = frozenset({"constraint", "primary", "unique", "check", "foreign"})


@dataclass(frozen=True, slots=True)
class Part:
    """One part between the commas of a statement's outer brackets; *comment* is the one that ends its line."""

    text: str
    comment: str

    @property
    def name(self) -> str | None:
        """The column that this part defines; None for a constraint of the table."""
        word = _TOKEN.match(self.text)
        if word is None or word[0].lower() in _TABLE_CONSTRAINTS:
            return None
        return unquoted(word[0])


@dataclass(frozen=True, slots=True)
class Creation:
    """A CREATE TABLE statement; *generated* and *comments* are by column, *options* in lower case."""

    checks: tuple[str, ...]
    generated: dict[str, str]
    comments: dict[str, str]
    autoincrement: bool
    options: tuple[str, ...]


def read(sql: str) -> Creation:
    """What the CREATE TABLE statement *sql* says; all empty for a table that was made from a query."""
    if not _WORTH_READING.search(sql):
        return Creation((), {}, {}, autoincrement=False, options=_options(sql.rpartition(")")[2]))
    found, tail = parts(sql)
    columns = {part.name: part for part in found if part.name is not None}
    generated = {name: next(bracketed(part.text, "as"), "") for name, part in columns.items()}
    return Creation(
        checks=tuple(check for part in found for check in bracketed(part.text, "check")),
        generated={name: expression for name, expression in generated.items() if expression},
        comments={name: part.comment for name, part in columns.items() if part.comment},
        autoincrement=any(word.lower() == "autoincrement" for part in found for word in _TOKEN.findall(part.text)),
        options=_options(tail),
    )


def _options(tail: str) -> tuple[str, ...]:
    return tuple(" ".join(option.lower().split()) for option in tail.split(",") if option.strip())


def parts(sql: str) -> tuple[list[Part], str]:
    """The parts in the first brackets of *sql*, and the text after these brackets; both without comments."""
    bare = _without_comments(sql)
    found: list[Part] = []
    depth = start = 0
    for token in _TOKEN.finditer(bare):
        opened, closed = token[0] == "(", token[0] == ")"
        depth += opened - closed
        if opened and depth == 1:
            start = token.end()
        elif (closed and depth == 0) or (token[0] == "," and depth == 1):
            found.append(_part(sql, bare, start, token.start()))
            start = token.end()
        if closed and depth == 0:
            return found, bare[token.end() :].strip()
    return found, ""


def bracketed(text: str, word: str) -> Iterator[str]:
    """What stands in brackets right after each *word* outside other brackets."""
    depth = start = 0
    before = ""
    for token in _TOKEN.finditer(text):
        if token[0] == "(":
            if depth == 0:
                start = token.end() if before == word else -1
            depth += 1
        elif token[0] == ")":
            depth -= 1
            if depth == 0 and start >= 0:
                yield text[start : token.start()].strip()
        before = token[0].lower()


def unquoted(name: str) -> str:
    """An identifier without its quotes."""
    if name[0] == "[":
        return name[1:-1]
    return name[1:-1].replace(name[0] * 2, name[0]) if name[0] in "\"'`" else name


def _without_comments(sql: str) -> str:
    """*sql* with blanks in place of comments, so that every position stays where it is."""
    return _COMMENT.sub(lambda match: match[0] if match[1] else " " * len(match[0]), sql)


def _part(sql: str, bare: str, start: int, end: int) -> Part:
    text = bare[start:end]
    comment = _LINE_COMMENT.match(sql, start + len(text.rstrip()))
    return Part(" ".join(text.split("\n")).strip(), comment[1].strip() if comment else "")

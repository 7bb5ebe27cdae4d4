"""SQL text → exact tokens, as the database itself reads them: quotes, comments, dollar quotes, brackets.

A lexer that disagrees with the server about where a string or a comment ends can be talked into passing anything, so
what a database does here is data (`Lexicon`), and what no lexer should have to guess at is refused.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

from manydb.errors import SqlSyntax, TooLarge

MAX_CHARACTERS = 100_000
MAX_NESTING = 200

Kind = Literal["word", "name", "string", "number", "parameter", "operator", "comment", "code"]

_CLOSED_BY = {"(": ")", "[": "]", "{": "}"}
_OPENED_BY = {closing: opening for opening, closing in _CLOSED_BY.items()}
_BRACKETS = frozenset("()[]{}")
_HIGH = "\x80-\U0010ffff"
_UNDELIMITED = {
    "unclosed_string": "a string is not closed: its quote is missing",
    "unclosed_name": "a quoted name is not closed: its quote is missing",
    "unclosed_comment": "a comment is not closed: */ is missing",
    "dollar": "a dollar-quoted string is not closed",
    "nested": "a comment is not closed: */ is missing",
}


class Token(NamedTuple):
    """One token. *start* and *end* are character offsets; what lies between two tokens is blank.

    Kinds: word (keyword or bare name), name (quoted), string, number, parameter (`$1`), operator (one character, or
    `::` and `:=`), comment, and code (a comment that the server executes).
    """

    kind: Kind
    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Lexicon:
    """What one database's lexer does. The defaults are standard SQL."""

    string_quotes: str = "'"
    name_quotes: str = '"'
    bracket_names: bool = False  # [name]
    backslash_escapes: bool = False  # in every string
    escape_strings: bool = False  # E'…' with backslashes, also in its continuations on later lines
    unicode_quotes: bool = False  # U&'…' and U&"…" are one token
    dollar_quotes: bool = False  # $$…$$, $tag$…$tag$; and $1 is a parameter
    nested_comments: bool = False
    hash_comments: bool = False
    dash_needs_blank: bool = False  # --1 is minus minus one
    carriage_return_ends_line: bool = False  # for -- comments
    executable_comments: bool = False  # /*! … */ and /*M! … */
    backslash_null: bool = False  # \N is NULL, also with a letter right behind it
    name_start: str = ""  # further characters that begin a bare name

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """One alternative a kind of token; possessive quantifiers keep every match linear."""
        return re.compile("|".join(f"(?P<{name}>{regex})" for name, regex in self._alternatives()), re.DOTALL)

    def _alternatives(self) -> list[tuple[str, str]]:
        alternatives: list[tuple[str, str]] = []
        if self.escape_strings:
            segment = r"'(?:[^'\\]|\\.|'')*+'"
            line = r"(?:[ \t\f]|--[^\n\r]*+)*+[\n\r](?:[ \t\n\r\f]|--[^\n\r]*+[\n\r])*+"
            alternatives.append(("escape_string", rf"[eE]{segment}(?:{line}{segment})*+"))
            alternatives.append(("unclosed_escape_string", r"[eE]'"))
        if self.unicode_quotes:
            alternatives.append(("unicode_string", r"[uU]&'(?:[^']|'')*+'"))
            alternatives.append(("unicode_name", r'[uU]&"(?:[^"]|"")*+"'))
        if self.backslash_null:
            alternatives.append(("null", r"\\N"))
        alternatives.append(("word", rf"[A-Za-z_{_HIGH}{self.name_start}][A-Za-z0-9_${_HIGH}]*+"))
        alternatives.extend(self._comments())
        if self.dollar_quotes:
            alternatives.append(("dollar", rf"\$(?:[A-Za-z_{_HIGH}][A-Za-z0-9_{_HIGH}]*+)?\$"))
            alternatives.append(("parameter", r"\$[0-9]++"))
        number = r"0[xX][0-9A-Fa-f_]++|(?:[0-9][0-9_]*+(?:\.[0-9_]*+)?|\.[0-9][0-9_]*+)(?:[eE][+-]?[0-9]++)?"
        alternatives.append(("number", number))
        alternatives.extend(self._quoted())
        alternatives.append(("operator", r"::|:=|[!-/:-@\[-`{-~]"))
        alternatives.append(("stray", r"[^ \t\n\r\f]"))  # blanks match nothing: finditer steps over them
        return alternatives

    def _comments(self) -> list[tuple[str, str]]:
        rest_of_line = r"[^\n\r]*+" if self.carriage_return_ends_line else r"[^\n]*+"
        dashes = r"--(?=[ \t\n\r\f\v]|\Z)" if self.dash_needs_blank else "--"
        comments = [("comment", dashes + rest_of_line + ("|#[^\n]*+" if self.hash_comments else ""))]
        if self.executable_comments:
            comments.append(("code", r"/\*M?!"))
        if self.nested_comments:
            comments.append(("nested", r"/\*"))
        else:
            comments.append(("block_comment", r"/\*(?:[^*]|\*(?!/))*+\*/"))
            comments.append(("unclosed_comment", r"/\*"))
        return comments

    def _quoted(self) -> list[tuple[str, str]]:
        inside = r"(?:[^{q}\\]|\\.|{q}{q})*+" if self.backslash_escapes else r"(?:[^{q}]|{q}{q})*+"
        strings = "|".join(q + inside.format(q=q) + q for q in self.string_quotes)
        names = [f"{q}(?:[^{q}]|{q}{q})*+{q}" for q in self.name_quotes]
        unclosed = self.name_quotes
        if self.bracket_names:
            names.append(r"\[[^\]]*+\]")
            unclosed += r"\["
        return [
            ("string", strings),
            ("name", "|".join(names)),
            ("unclosed_string", f"[{self.string_quotes}]"),
            ("unclosed_name", f"[{unclosed}]"),
        ]


_WHOLE: dict[str, Kind] = {  # groups of the pattern that are a token as they stand
    "word": "word",
    "null": "word",
    "operator": "operator",
    "number": "number",
    "string": "string",
    "name": "name",
    "comment": "comment",
    "parameter": "parameter",
    "code": "code",
    "escape_string": "string",
    "unicode_string": "string",
    "unicode_name": "name",
    "block_comment": "comment",
}
_COMMENT_MARKS = re.compile(r"/\*|\*/")


def tokenize(sql: str, lexicon: Lexicon) -> list[Token]:
    """The tokens of *sql*, comments included, in order.

    Raises SqlSyntax for text that no database reads the same way twice (NUL, lone surrogates, control characters and
    non-ASCII blanks outside quotes, open quotes, brackets that do not match) and TooLarge past 100,000 characters or
    200 open brackets.
    """
    _check_text(sql)
    tokens: list[Token] = []
    position, end = 0, len(sql)
    while position < end:
        position = _scan(sql, position, lexicon.pattern, tokens)
    if not sql.isascii():
        _check_words(sql, tokens)
    _check_brackets(tokens)
    return tokens


def _scan(sql: str, position: int, pattern: re.Pattern[str], tokens: list[Token]) -> int:
    """Append tokens from *position* on; return early after one whose end is found by other means than the pattern."""
    append, make = tokens.append, Token._make
    for match in pattern.finditer(sql, position):
        group = match.lastgroup or ""
        kind = _WHOLE.get(group)
        if kind is not None:
            append(make((kind, match.group(), match.start(), match.end())))
        elif group in ("dollar", "nested"):
            end = _closing(sql, group, match)
            append(Token("string" if group == "dollar" else "comment", sql[match.start() : end], match.start(), end))
            return end
        else:
            raise _misread(sql, group, match.start())
    return len(sql)


def _closing(sql: str, group: str, opening: re.Match[str]) -> int:
    """Where the dollar quote or nested comment that begins with *opening* ends."""
    if group == "dollar":
        found = sql.find(opening.group(), opening.end())
        if found >= 0:
            return found + len(opening.group())
    else:
        depth = 1
        for mark in _COMMENT_MARKS.finditer(sql, opening.end()):
            depth += 1 if mark.group() == "/*" else -1
            if depth == 0:
                return mark.end()
    raise _misread(sql, group, opening.start())


def _misread(sql: str, group: str, start: int) -> SqlSyntax:
    line = sql.count("\n", 0, start) + 1
    if group == "stray":
        message = f"the character U+{ord(sql[start]):04X} stands outside quotes"
        return SqlSyntax(f"{message} (line {line})", suggestions=["use ordinary spaces and plain characters"])
    return SqlSyntax(f"{_UNDELIMITED[group.replace('escape_', '')]} (line {line})")


def _check_text(sql: str) -> None:
    if len(sql) > MAX_CHARACTERS:
        raise TooLarge(f"the statement has {len(sql):,} characters; the most is {MAX_CHARACTERS:,}")
    if "\0" in sql:
        raise SqlSyntax("the statement holds a NUL character")
    try:
        sql.encode()
    except UnicodeEncodeError as exc:
        raise SqlSyntax("the statement is not valid Unicode: it holds half of a surrogate pair") from exc


def _check_words(sql: str, tokens: list[Token]) -> None:
    """Refuse what a bare name may not hold although it is not ASCII: blanks, format and control characters."""
    for token in tokens:
        if token.kind == "word" and not token.text.isprintable():
            odd = next(index for index, char in enumerate(token.text) if not char.isprintable())
            raise _misread(sql, "stray", token.start + odd)


def _check_brackets(tokens: list[Token]) -> None:
    """Refuse brackets that do not match: no database takes them, and what reads the tokens need not think of them."""
    waiting: list[str] = []  # for these to close
    for text in [token[1] for token in tokens if token[1] in _BRACKETS]:
        if text in _CLOSED_BY:
            waiting.append(_CLOSED_BY[text])
            if len(waiting) > MAX_NESTING:
                raise TooLarge(f"the statement nests brackets more than {MAX_NESTING} deep")
        elif not waiting or waiting.pop() != text:
            raise SqlSyntax(f"a {text} has no {_OPENED_BY[text]} before it")
    if waiting:
        raise SqlSyntax(f"a {_OPENED_BY[waiting[-1]]} is not closed: {waiting[-1]} is missing")

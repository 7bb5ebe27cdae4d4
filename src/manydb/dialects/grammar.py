"""What makes a statement a read, as far as its text can tell: one Grammar a database, standard SQL by default.

A grammar is data plus a few checks over a Source, the tokens of one statement. A check can only refuse. The walls
behind it (read-only transactions, grants, the authorizer) do not rely on it, and it does not rely on them.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal

from manydb.errors import Forbidden, ManydbError, ReadOnly
from manydb.lexer import Lexicon, Token

Kind = Literal["read", "write", "ddl", "transaction", "session", "other"]
Form = Literal["query", "explain", "show", "describe", "pragma", "other"]

LARGEST_COUNT = 1_000_000  # characters or elements that one call may be asked to produce
UNKNOWN_COUNT = 1_000  # stands for a count that is no literal, where calls are nested

_OPENING, _CLOSING = frozenset("([{"), frozenset(")]}")
_BRACKETS = _OPENING | _CLOSING
_COUNT_ONLY = frozenset({"space", "zeroblob", "randomblob"})  # their first argument is the count
_STAR_IN_TEMPLATE = re.compile(r"%[^%a-zA-Z]*\*")
_WIDE_IN_TEMPLATE = re.compile(r"%[^%a-zA-Z]*[0-9]{7}")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a statement may not run as a read, and the nearest thing that may."""

    error: type[ManydbError]
    message: str
    suggestion: str

    def as_error(self) -> ManydbError:
        return self.error(self.message, suggestions=[self.suggestion])


@dataclass(frozen=True, slots=True)
class Source:
    """A statement's tokens with the comments set aside, in the form that checks read.

    *keys* has one entry a token: a bare word in upper case, an operator as it is, "" for everything else.
    *places* maps each key to the indices where it stands: statements may be long, and checks look for few words.
    *closing* maps the index of every `(`, `[`, `{` to the index of its counterpart.
    """

    tokens: Sequence[Token]
    comments: Sequence[Token]
    keys: Sequence[str]
    places: Mapping[str, Sequence[int]]
    closing: Mapping[int, int]

    @classmethod
    def of(cls, tokens: Sequence[Token]) -> "Source":
        comments = [token for token in tokens if token.kind in ("comment", "code")]
        rest = [token for token in tokens if token.kind not in ("comment", "code")] if comments else tokens
        keys = [_key(token) for token in rest]
        places: defaultdict[str, list[int]] = defaultdict(list)
        for index, key in enumerate(keys):
            places[key].append(index)
        return cls(rest, comments, keys, dict(places), _closing(keys))

    def key(self, index: int) -> str:
        """The key at *index*, "" outside the statement."""
        return self.keys[index] if 0 <= index < len(self.keys) else ""

    def at(self, *keys: str) -> Sequence[int]:
        """Where one of *keys* stands, in order."""
        found = [self.places[key] for key in keys if key in self.places]
        return found[0] if len(found) == 1 else sorted(chain.from_iterable(found))

    def is_member(self, index: int) -> bool:
        """Is this the part of a dotted name after its dot: a name whatever the word? The dot must touch it."""
        return self.key(index - 1) == "." and self.tokens[index - 1].end == self.tokens[index].start


def _key(token: Token) -> str:
    if token.kind == "word":
        # Databases fold keywords in ASCII only; Python would turn the long s into S.
        return token.text.upper() if token.text.isascii() else token.text
    return token.text if token.kind == "operator" else ""


def _closing(keys: Sequence[str]) -> dict[int, int]:
    closing: dict[int, int] = {}
    open_brackets: list[int] = []
    for index in [index for index, key in enumerate(keys) if key in _BRACKETS]:
        if keys[index] in _OPENING:
            open_brackets.append(index)
        elif open_brackets:
            closing[open_brackets.pop()] = index
    return closing | dict.fromkeys(open_brackets, len(keys))


@dataclass(frozen=True, slots=True)
class Command:
    """A read that does not begin as a query does. *query* is the index of the token where an explained query begins."""

    form: Form
    query: int | None = None


@dataclass(frozen=True, slots=True)
class FunctionRule:
    """Functions (*pattern* matches the whole folded name) that do what *reason* says."""

    pattern: re.Pattern[str]
    reason: str
    suggestion: str = "leave the call out; reads may use functions that only compute"
    writes: bool = False
    """Whether a statement that may write may call them."""


def functions(pattern: str, reason: str, suggestion: str | None = None, *, writes: bool = False) -> FunctionRule:
    """A rule for the names that *pattern* (blanks ignored) matches."""
    compiled = re.compile(pattern, re.VERBOSE)
    given = {"suggestion": suggestion} if suggestion else {}
    return FunctionRule(compiled, reason, **given, writes=writes)


WRITES = ("INSERT", "UPDATE", "DELETE", "MERGE", "REPLACE")
"""The verbs of rows; other writes (files, routines) have no statement here."""
KINDS: dict[str, Kind] = {
    **dict.fromkeys(["SELECT", "WITH", "VALUES", "TABLE", "("], "read"),
    **dict.fromkeys([*WRITES, "COPY", "IMPORT", "CALL", "DO"], "write"),
    **dict.fromkeys(["CREATE", "ALTER", "DROP", "TRUNCATE", "RENAME", "COMMENT", "GRANT", "REVOKE", "REINDEX"], "ddl"),
    **dict.fromkeys(["REFRESH", "CLUSTER", "SECURITY", "REASSIGN"], "ddl"),
    **dict.fromkeys(["BEGIN", "START", "COMMIT", "ROLLBACK", "ABORT", "END", "SAVEPOINT", "RELEASE"], "transaction"),
    "XA": "transaction",
    **dict.fromkeys(["SET", "RESET", "USE", "DISCARD", "LISTEN", "UNLISTEN", "NOTIFY", "DECLARE", "FETCH"], "session"),
    **dict.fromkeys(["MOVE", "CLOSE", "PREPARE", "EXECUTE", "DEALLOCATE", "LOCK", "UNLOCK", "PRAGMA"], "session"),
    **dict.fromkeys(["ATTACH", "DETACH", "HANDLER"], "session"),
}  # fmt: skip

CommandReader = Callable[[Source], Command | Refusal]
Check = Callable[[Source], Refusal | None]


@dataclass(frozen=True, eq=False)
class Grammar:
    """One database's statements. Compared by identity: each database has one, and caches are keyed by it."""

    lexicon: Lexicon = field(default_factory=Lexicon)
    query_words: frozenset[str] = frozenset({"SELECT", "WITH", "VALUES", "("})
    commands: Mapping[str, CommandReader] = field(default_factory=dict)
    kinds: Mapping[str, Kind] = field(default_factory=lambda: KINDS)
    checks: tuple[Check, ...] = ()
    """Of a read alone."""
    always: tuple[Check, ...] = ()
    """Of every statement, whatever its access."""
    definable: frozenset[str] = frozenset({"TABLE", "VIEW", "INDEX"})
    """What a change of the schema may be about."""
    function_rules: tuple[FunctionRule, ...] = ()
    harmless_functions: re.Pattern[str] = re.compile(r"(?!)")  # declared to act by the catalog, but only compute
    fields_call_functions: bool = False  # (x).f is f(x)
    quoted_names_fold: bool = True
    expanding_functions: frozenset[str] = frozenset({"repeat", "lpad", "rpad", "space"})
    template_functions: frozenset[str] = frozenset()  # printf and its kin: `*` and widths in the first argument
    placeholder_marks: str = ":"  # what may stand before a placeholder's name
    question_is_operator: bool = False
    parser: str | None = None  # what sqlglot calls this database

    def name(self, token: Token) -> str:
        """The name that a word or quoted name stands for, folded as the database compares function names."""
        if token.kind == "word":
            return token.text.lower() if token.text.isascii() else token.text
        unquoted = unquote(token.text)
        return unquoted.lower() if self.quoted_names_fold else unquoted

    @property
    def beginnings(self) -> str:
        """How a read may begin, in words."""
        return ", ".join([*sorted(self.query_words - {"("}), *sorted(self.commands)])


def unquote(text: str) -> str:
    """A name without its quotes; a bare word is itself."""
    first, last = text[:1], text[-1:]
    if first == "[":
        return text[1:-1]
    return text[1:-1].replace(last * 2, last) if first in ('"', "`") else text


def refuse_into(source: Source) -> Refusal | None:
    """INTO in a query makes a table, a file or a variable; but `AS into` and `t.into` are names."""
    for index in source.at("INTO"):
        is_label = source.key(index - 1) == "AS" and source.key(index - 2) != "AS" and not source.is_member(index - 1)
        if not source.is_member(index) and not is_label:
            return Refusal(ReadOnly, "INTO stores the result of a query", "leave INTO out: the rows are returned")
    return None


def refuse_locks(source: Source) -> Refusal | None:
    """FOR UPDATE, FOR NO KEY UPDATE, FOR SHARE and FOR KEY SHARE take row locks."""
    for index in source.at("FOR"):
        strength = source.key(index + 1), source.key(index + 2)
        locks = strength[0] in ("UPDATE", "SHARE") or strength in (("NO", "KEY"), ("KEY", "SHARE"))
        if locks and not source.is_member(index):
            return Refusal(ReadOnly, f"FOR {strength[0]} locks rows", "leave the locking clause out")
    return None


# Words between CREATE, ALTER or DROP and what it is about.
_ADJECTIVES = frozenset({
    "OR", "REPLACE", "TEMP", "TEMPORARY", "UNIQUE", "UNLOGGED", "MATERIALIZED", "RECURSIVE", "FULLTEXT", "SPATIAL",
    "ONLINE", "OFFLINE", "IGNORE", "GLOBAL", "LOCAL", "CONSTRAINT",
})  # fmt: skip
_NAMES_ITS_OBJECT = frozenset({"CREATE", "ALTER", "DROP", "RENAME", "REFRESH"})


def refuse_definitions(source: Source, grammar: Grammar, verb: str) -> Refusal | None:
    """A change of the schema is about what the grammar lists: not about logins, servers, languages or files."""
    if verb in ("TRUNCATE", "COMMENT", "REINDEX"):
        return None
    index = source.keys.index(verb) + 1 if verb in _NAMES_ITS_OBJECT and verb in source.keys else len(source.keys)
    while source.key(index) in _ADJECTIVES:
        index += 1
    what = source.key(index)
    if what in grammar.definable:
        return None
    kinds = ", ".join(sorted(grammar.definable)).lower()
    return Refusal(Forbidden, f"{f'{verb} {what}'.strip()} is not open to any access", f"what can be changed: {kinds}")


def refuse_functions(source: Source, grammar: Grammar, names: Sequence[str], *, writes: bool = False) -> Refusal | None:
    """The grammar's rules over the *names* of the functions that the statement calls; then what a call may produce."""
    for name in names:
        for rule in grammar.function_rules:
            if rule.pattern.fullmatch(name) and not (writes and rule.writes):
                return Refusal(Forbidden, f"{name}() {rule.reason}", rule.suggestion)
    expands = not (grammar.expanding_functions | grammar.template_functions).isdisjoint(names)
    oversized = _oversized_call(source, grammar) if expands else None
    if oversized:
        reason = f"{oversized}() is asked for more than {LARGEST_COUNT:,} characters or elements"
        return Refusal(Forbidden, reason, "ask for less at once")
    return None


@dataclass(slots=True)
class _Frame:
    """An open bracket: the expanding function it belongs to (or ""), and the largest counts seen inside."""

    call: str = ""
    counts: bool = False  # do literals here reach an expanding function?
    array: bool = False
    largest: float = 0
    nested: float = 0


def _oversized_call(source: Source, grammar: Grammar) -> str | None:
    """The function that a literal, a product of literals or nested calls ask for too much."""
    frames = [_Frame()]
    product = 0.0
    for index, key in enumerate(source.keys):
        frame = frames[-1]
        if key in _OPENING:
            frames.append(_opened(source, grammar, index, frame))
        elif key in _CLOSING and len(frames) > 1:
            closed = frames.pop()
            if _absorb(frames[-1], closed) > LARGEST_COUNT:
                return closed.call
        elif frame.counts and source.tokens[index].kind == "number":
            joined = source.key(index - 1) == "*" or (frame.array and source.key(index - 1) == ",")
            product = _count(source.tokens[index].text) * (product if joined and product else 1)
            frame.largest = max(frame.largest, product)
            if product > LARGEST_COUNT:
                return next((each.call for each in reversed(frames) if each.call), "")
        elif key == ",":
            frame.counts = frame.counts or bool(frame.call)  # the text or element to repeat came first, now the count
        elif key != "*":
            product = 0
    return None


def _opened(source: Source, grammar: Grammar, index: int, outer: _Frame) -> _Frame:
    before = source.tokens[index - 1] if index else None
    name = grammar.name(before) if before and before.kind in ("word", "name") and source.key(index) == "(" else ""
    if name in grammar.template_functions:
        name = _expanding_template(name, source, index)
    elif name not in grammar.expanding_functions:
        name = ""
    is_subquery = source.key(index + 1) in ("SELECT", "WITH", "VALUES")
    counts = name in _COUNT_ONLY or (outer.counts and not is_subquery and not name)
    return _Frame(name, counts, source.key(index) == "[")


def _expanding_template(name: str, source: Source, index: int) -> str:
    """*name* if the template behind the bracket at *index* takes widths from the arguments, or is not a literal."""
    template = source.tokens[index + 1] if index + 1 < len(source.tokens) else None
    if template is None or template.kind != "string":
        return name
    return name if _STAR_IN_TEMPLATE.search(template.text) else ""


def _absorb(outer: _Frame, closed: _Frame) -> float:
    """Hand a closed bracket's counts to the one around it; the size that nested calls ask for, 0 if none are nested."""
    if not closed.call:
        outer.largest, outer.nested = max(outer.largest, closed.largest), max(outer.nested, closed.nested)
        return 0
    size = (closed.largest or UNKNOWN_COUNT) * (closed.nested or 1)
    outer.nested = max(outer.nested, size)
    return size if closed.nested else 0


def _count(literal: str) -> float:
    text = literal.replace("_", "")
    try:
        return float(int(text, 16)) if text[:2] in ("0x", "0X") else float(text)
    except ValueError:  # 0x alone, 1_: not a number of any database
        return 0


def refuse_wide_templates(source: Source, grammar: Grammar) -> Refusal | None:
    """`printf('%9999999d', 1)`: the width is in the template."""
    for index in source.at("("):
        if grammar.template_functions and 0 < index < len(source.tokens) - 1:
            before, token = source.tokens[index - 1], source.tokens[index + 1]
            is_template = before.kind in ("word", "name") and grammar.name(before) in grammar.template_functions
            if is_template and token.kind == "string" and _WIDE_IN_TEMPLATE.search(token.text):
                return Refusal(Forbidden, f"{before.text}() is asked for a very wide field", "ask for a narrower field")
    return None


STANDARD = Grammar()  # for a database without a grammar of its own: SELECT, WITH and VALUES

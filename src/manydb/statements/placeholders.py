"""Params into a statement's placeholders, in the style that a driver takes. Strings and comments stay untouched."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from manydb.dialects.grammar import Grammar, Source
from manydb.errors import BadParameter, Unsupported

if TYPE_CHECKING:
    from manydb.statements.reading import Statement

# After these an operand follows, so that a ? or :name is a placeholder and neither an operator nor a slice.
_BEFORE_OPERAND = frozenset({
    "SELECT", "DISTINCT", "ALL", "WHERE", "AND", "OR", "XOR", "NOT", "ON", "HAVING", "BY", "LIMIT", "OFFSET",
    "IN", "LIKE", "ILIKE", "RLIKE", "REGEXP", "GLOB", "MATCH", "TO", "BETWEEN", "CASE", "WHEN", "THEN", "ELSE",
    "VALUES", "SET", "FROM", "FOR", "USING", "RETURNING", "IS", "ANY", "SOME", "INTERVAL", "ESCAPE", "FIRST",
    "NEXT", "DIV", "MOD", "ZONE", "ROWS", "RANGE", "BINARY", "EXISTS", "PLACING", "FORMAT", "OVERLAPS",
    "DEFAULT", "TOP", "EXPLAIN", "CALL",
})  # fmt: skip

Style = Literal["named", "numbered", "question", "percent"]
InList = Literal["", "bare", "bracketed"]


@dataclass(frozen=True, slots=True)
class Placeholder:
    """Where a value goes. *start* and *end* are offsets in the statement's text.

    *name* is the name of `:name`, the number of `$1` and `?1`, "" for `?` and `%s`. *certain* is False for what may be
    something else: a slice's bound, an operator. *in_list* tells that it is all that IN compares with: `IN :ids`
    ("bare") or `IN (:ids)` ("bracketed").
    """

    style: Style
    name: str
    start: int
    end: int
    certain: bool
    in_list: InList = ""

    def __str__(self) -> str:
        marks = {"named": f":{self.name}", "numbered": f"${self.name}", "question": "?", "percent": "%s"}
        return marks[self.style]


def find(source: Source, grammar: Grammar) -> tuple[Placeholder, ...]:
    """All placeholders of a statement, in order."""
    found: list[Placeholder] = []
    depth = 0  # of square brackets
    for index, token in enumerate(source.tokens):
        key = source.keys[index]
        depth += (key == "[") - (key == "]")
        if token.kind == "parameter":
            found.append(_placeholder(source, "numbered", token.text[1:], (index, index), certain=True))
        elif key == "?" or (key in grammar.placeholder_marks and key) or key == "%":
            placeholder = _marked(source, grammar, index, sliced=depth > 0)
            if placeholder:
                found.append(placeholder)
    return tuple(found)


def _marked(source: Source, grammar: Grammar, index: int, *, sliced: bool) -> Placeholder | None:
    """The placeholder that the mark at *index* begins, if it is one."""
    key, after_value = source.keys[index], _ends_value(source, index - 1)
    following = source.tokens[index + 1] if index + 1 < len(source.tokens) else None
    touching = following if following and following.start == source.tokens[index].end else None
    if key == "?":
        if touching and touching.kind == "number" and not grammar.question_is_operator:
            return _placeholder(source, "numbered", touching.text, (index, index + 1), certain=True)
        operator = grammar.question_is_operator and (after_value or source.key(index + 1) in ("|", "&", "?"))
        return _placeholder(source, "question", "", (index, index), certain=not operator)
    if touching is None or touching.kind != "word":
        return None
    if key == "%":
        is_marker = touching.text == "s" and not after_value and source.key(index + 2) != "("
        return _placeholder(source, "percent", "", (index, index + 1), certain=True) if is_marker else None
    if after_value:
        return None
    return _placeholder(source, "named", touching.text, (index, index + 1), certain=not sliced)


def _ends_value(source: Source, index: int) -> bool:
    """Does a value end with token *index*? Then an operator follows, not another value."""
    if index < 0:
        return False
    token, key = source.tokens[index], source.keys[index]
    if token.kind == "word":
        return key not in _BEFORE_OPERAND or source.is_member(index)
    return token.kind != "operator" or key in (")", "]")


def _placeholder(source: Source, style: Style, name: str, span: tuple[int, int], *, certain: bool) -> Placeholder:
    first, last = span
    in_list: InList = ""
    if source.key(first - 1) == "IN":
        in_list = "bare"
    elif source.key(first - 1) == "(" and source.key(first - 2) == "IN" and source.key(last + 1) == ")":
        in_list = "bracketed"
    return Placeholder(style, name, source.tokens[first].start, source.tokens[last].end, certain, in_list)


def bind(
    statement: "Statement", params: Mapping[str, Any] | Sequence[Any] | None, paramstyle: str
) -> tuple[str, tuple[Any, ...]]:
    """The text and arguments for a driver of SQLAlchemy's *paramstyle*: numeric_dollar, format, pyformat or qmark.

    An object fills `:name`, a list fills `$1`, else `%s`, else `?`. A list as the value of `IN :ids` becomes one
    placeholder an element; elsewhere a list is one value. Without params the text is returned as it is.
    Raises BadParameter for values without placeholder, placeholders without value, and an empty list after IN.
    """
    if params is None or len(params) == 0:
        _require_none(statement)
        return statement.sql, ()
    values = _by_name(statement, params) if isinstance(params, Mapping) else _by_position(statement, params)
    return _write(statement.sql, values, _writer(paramstyle))


def _require_none(statement: "Statement") -> None:
    waiting = dict.fromkeys(str(each) for each in statement.placeholders if each.certain)
    if waiting and statement.kind in ("read", "write"):
        raise BadParameter(f"the statement has placeholders ({', '.join(waiting)}) but no params")


def _by_name(statement: "Statement", params: Mapping[str, Any]) -> list[tuple[Placeholder, Any]]:
    named = [each for each in statement.placeholders if each.style == "named"]
    used = [(each, params[each.name]) for each in named if each.name in params]
    missing = dict.fromkeys(str(each) for each in named if each.certain and each.name not in params)
    unused = [name for name in params if name not in {each.name for each, _ in used}]
    if missing:
        raise BadParameter(f"params has no value for {', '.join(missing)}; it has {', '.join(params)}")
    if unused:
        suggestion = "write :name where the value belongs, outside quotes" if not used else "leave it out of params"
        raise BadParameter(f"params not used by the statement: {', '.join(unused)}", suggestions=[suggestion])
    others = dict.fromkeys(str(each) for each in statement.placeholders if each.style != "named" and each.certain)
    if others:
        raise BadParameter(f"an object of params fills :name only, and the statement also has {', '.join(others)}")
    return used


def _by_position(statement: "Statement", params: Sequence[Any]) -> list[tuple[Placeholder, Any]]:
    numbered = [each for each in statement.placeholders if each.style == "numbered"]
    if numbered:
        most = max(int(each.name) for each in numbered)
        if most != len(params) or any(int(each.name) < 1 for each in numbered):
            raise BadParameter(f"the statement counts to ${most}, params has {len(params)} values")
        return [(each, params[int(each.name) - 1]) for each in numbered]
    percents = [each for each in statement.placeholders if each.style == "percent"]
    questions = [each for each in statement.placeholders if each.style == "question"]
    for places in (percents, [each for each in questions if each.certain], questions):
        if len(places) == len(params):
            return list(zip(places, params, strict=True))
    named = dict.fromkeys(str(each) for each in statement.placeholders if each.style == "named" and each.certain)
    if named:
        raise BadParameter(f"the statement has {', '.join(named)}: send params as an object of these names")
    count = len(percents) or sum(each.certain for each in questions)
    raise BadParameter(f"the statement has {count} positional placeholders, params has {len(params)} values")


@dataclass(slots=True)
class _Writer:
    """How a driver writes placeholders: *mark* makes one of its number; *repeats* drivers take an argument for each."""

    mark: Callable[[int], str]
    repeats: bool = True
    doubles_percent: bool = False


def _writer(paramstyle: str) -> _Writer:
    if paramstyle == "numeric_dollar":
        return _Writer(lambda number: f"${number}", repeats=False)
    if paramstyle in ("format", "pyformat"):
        return _Writer(lambda _: "%s", doubles_percent=True)
    if paramstyle == "qmark":
        return _Writer(lambda _: "?")
    raise Unsupported(f"params are not supported for drivers of the style {paramstyle}; write the values into the SQL")


def _write(sql: str, values: Sequence[tuple[Placeholder, Any]], writer: _Writer) -> tuple[str, tuple[Any, ...]]:
    arguments: list[Any] = []
    written: dict[tuple[str, str, bool], str] = {}  # for drivers that take an argument once and repeat its number
    pieces: list[str] = []
    position = 0
    for placeholder, value in values:
        between = sql[position : placeholder.start]
        pieces.append(between.replace("%", "%%") if writer.doubles_percent else between)
        expands = bool(placeholder.in_list) and isinstance(value, (list, tuple))
        same = (placeholder.style, placeholder.name, expands)
        marks = written.get(same) if placeholder.name and not writer.repeats else None
        if marks is None:
            elements = _elements(placeholder, value) if expands else [value]
            marks = ", ".join(writer.mark(len(arguments) + number) for number in range(1, len(elements) + 1))
            arguments.extend(elements)
            written[same] = marks
        pieces.append(f"({marks})" if expands and placeholder.in_list == "bare" else _apart(sql, placeholder, marks))
        position = placeholder.end
    rest = sql[position:]
    pieces.append(rest.replace("%", "%%") if writer.doubles_percent else rest)
    return "".join(pieces), tuple(arguments)


def _apart(sql: str, placeholder: Placeholder, marks: str) -> str:
    """A blank where the marks would run into what stands around them: `LIMIT:n`, `$1` before a digit."""
    before, after = sql[placeholder.start - 1 : placeholder.start], sql[placeholder.end : placeholder.end + 1]
    left = " " if before.isalnum() or before in ("_", "$") else ""
    return left + marks + (" " if after.isalnum() else "")


def _elements(placeholder: Placeholder, value: Sequence[Any]) -> Sequence[Any]:
    if not value:
        raise BadParameter(f"the list for {placeholder} is empty, and IN needs at least one value")
    return value

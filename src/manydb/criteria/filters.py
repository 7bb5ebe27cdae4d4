"""Filters, as callers write them → conditions; what would hold for every row or for none is known beforehand."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sqlalchemy import ColumnElement, and_, not_, or_
from sqlalchemy.sql import operators

from manydb import values
from manydb.criteria.fields import Field, Subject
from manydb.dialects.comparing import EVERYTHING, NOTHING, Among, Exact, Like, Pattern, Value
from manydb.errors import BadParameter

Op = Literal["eq", "ne", "lt", "le", "gt", "ge", "in", "between", "like", "ilike", "contains", "is_null"]
OPS: tuple[Op, ...] = get_args(Op)

_DEEPEST = 20
_MOST_CONDITIONS = 200
_MOST_VALUES = 1_000
_LONGEST_PATTERN = 500


@dataclass(frozen=True, slots=True)
class Criterion:
    """A condition. *certain* is True where it holds for every row whatever that holds, False for none, else None."""

    expression: ColumnElement[Any]
    certain: bool | None = None


ALWAYS = Criterion(EVERYTHING, certain=True)
NEVER = Criterion(NOTHING, certain=False)


def read(subject: Subject, given: Any) -> Criterion:
    """The condition that a filter describes; nothing, `{}` and `[]` hold for every row.

    Raises BadParameter, UnknownColumn and Forbidden, which name the column and never the value.
    """
    return _Reader(subject).read(given, 0) if given else ALWAYS


@dataclass(slots=True)
class _Reader:
    """Reads one filter, and counts."""

    subject: Subject
    conditions: int = 0
    values: int = 0

    def read(self, given: Any, depth: int) -> Criterion:
        if depth > _DEEPEST:
            raise BadParameter(f"filter: nested more than {_DEEPEST} deep")
        if isinstance(given, list):
            return self._all(given, depth)
        if not isinstance(given, dict):
            raise _malformed()
        match given:
            case {"and": list(several), **rest} if not rest:
                return self._all(several, depth)
            case {"or": list(several), **rest} if not rest:
                return _some([self.read(each, depth + 1) for each in several])
            case {"not": dict() | list() as single, **rest} if not rest:
                return opposite(self.read(single, depth + 1))
            case {"column": name, **rest} if rest.keys() <= {"op", "value"}:
                return self._condition(self.subject.usable(name), rest)
        raise _malformed()

    def _all(self, several: Sequence[Any], depth: int) -> Criterion:
        return _all([self.read(each, depth + 1) for each in several])

    def _condition(self, field: Field, rest: Mapping[str, Any]) -> Criterion:
        self.conditions += 1
        op = rest.get("op", "eq")
        if op not in OPS:
            raise BadParameter(f"column {field.name}: op is one of {', '.join(OPS)}", column=field.name)
        if op == "is_null":
            return _is_null(field, rest.get("value", True))
        if "value" not in rest:
            raise BadParameter(f"column {field.name}: {op} needs a value", column=field.name)
        value = rest["value"]
        self.values += len(value) if isinstance(value, list) else 1
        if self.conditions > _MOST_CONDITIONS or self.values > _MOST_VALUES:
            raise BadParameter(f"filter: at most {_MOST_CONDITIONS} conditions with {_MOST_VALUES:,} values in all")
        return _compared(field, op, value)


def _malformed() -> BadParameter:
    return BadParameter(
        'filter: takes {"column", "op", "value"}, {"and": [...]}, {"or": [...]} or {"not": {...}}, nothing else beside'
    )


def _all(several: Sequence[Criterion]) -> Criterion:
    if any(each.certain is False for each in several):
        return NEVER
    open_ones = [each.expression for each in several if each.certain is None]
    return Criterion(and_(*open_ones)) if open_ones else ALWAYS


def _some(several: Sequence[Criterion]) -> Criterion:
    if any(each.certain for each in several):
        return ALWAYS
    open_ones = [each.expression for each in several if each.certain is None]
    return Criterion(or_(*open_ones)) if open_ones else NEVER


def opposite(of: Criterion) -> Criterion:
    if of.certain is not None:
        return NEVER if of.certain else ALWAYS
    return Criterion(not_(of.expression))


def _is_null(field: Field, wanted: Any) -> Criterion:
    if not isinstance(wanted, bool):
        raise BadParameter(f"column {field.name}: is_null takes true or false", column=field.name)
    found = Criterion(field.column.is_(None)) if field.described.nullable else NEVER
    return found if wanted else opposite(found)


def _compared(field: Field, op: str, value: Any) -> Criterion:
    if value is None or (isinstance(value, list) and None in value):
        raise BadParameter(f"column {field.name}: no value equals null; test for it with is_null", column=field.name)
    match op:
        case "eq":
            return Criterion(Among(field, [field.checked(value)]))
        case "ne":
            return Criterion(not_(Among(field, [field.checked(value)])))
        case "in":
            if not isinstance(value, list):
                raise BadParameter(f"column {field.name}: in takes a list", column=field.name)
            checked = [field.checked(each) for each in value]
            return Criterion(Among(field, checked)) if checked else NEVER
        case "between":
            if not isinstance(value, list) or len(value) != 2:
                raise BadParameter(f"column {field.name}: between takes [lowest, highest]", column=field.name)
            low, high = (Value(field, field.checked(each)) for each in value)
            exact = Exact(field, ordered=True)
            return Criterion(and_(exact >= low, exact <= high))
        case "like" | "ilike" | "contains":
            return Criterion(Like(field, _pattern(field, op, value), folds=op == "ilike"))
    compare = _COMPARISONS[op]
    return Criterion(compare(Exact(field, ordered=True), Value(field, field.checked(value))))


_COMPARISONS: dict[str, Callable[[Any, Any], ColumnElement[Any]]] = {
    "lt": operators.lt,
    "le": operators.le,
    "gt": operators.gt,
    "ge": operators.ge,
}


def _pattern(field: Field, op: str, given: Any) -> Pattern:
    if field.family != "text":
        raise BadParameter(
            f"column {field.name} ({field.described.type}): {op} takes a column of text", column=field.name
        )
    if not isinstance(given, str) or len(given) > _LONGEST_PATTERN:
        raise field.misfit(f"text of at most {_LONGEST_PATTERN} characters")
    text = values.scalar_text(given)
    if op == "contains":
        return ((), tuple(text), ())
    pieces: list[list[str | None]] = [[]]
    letters = iter(text)
    for letter in letters:
        if letter == "%":
            pieces.append([])
        elif letter == "\\":
            escaped = next(letters, None)
            if escaped is None:
                raise field.misfit("a pattern that does not end with a backslash, which escapes what follows")
            pieces[-1].append(escaped)
        else:
            pieces[-1].append(None if letter == "_" else letter)
    return tuple(tuple(piece) for piece in pieces)

"""How SQLite compares: moments are texts, with or without a fraction, with a T or a blank; LIKE ignores ASCII case."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler

from manydb.dialects.comparing import Double, Exact, Family, Field, Like, Pattern, Value, bound, like

_DIGITS = re.compile(r"-?\d+(\.\d+)?\Z", re.ASCII)
_SQLITE_FORMS: dict[Family, str] = {"timestamp": "0000-00-00 00:00:00.000000", "time": "00:00:00.000000"}


@compiles(Exact, "sqlite")
def _exact_sqlite(element: Exact, compiler: SQLCompiler, **kw: Any) -> str:
    text = compiler.process(element.first, **kw)
    if element.field.family in ("text", "uuid"):
        return f"({text} COLLATE BINARY)"
    return _in_full(element.field, text)


@compiles(Value, "sqlite")
def _value_sqlite(element: Value, compiler: SQLCompiler, **kw: Any) -> str:
    text = compiler.process(element.first, **kw)
    if element.field.family != "decimal":
        return _in_full(element.field, text)
    # A column of decimals may hold anything, and what is no number must not become one.
    return f"CAST({text} AS NUMERIC)" if isinstance(element.given, str) and _DIGITS.match(element.given) else text


def _in_full(field: Field, text: str) -> str:
    form = _SQLITE_FORMS.get(field.family)
    return f"(replace({text}, 'T', ' ') || substr('{form}', length({text}) + 1))" if form else text


@compiles(Like, "sqlite")
def _like_sqlite(element: Like, compiler: SQLCompiler, **kw: Any) -> str:
    found = like(element, compiler, **kw)
    if element.folds:
        return found
    text = compiler.process(element.field.column, **kw)
    tests = [found]
    for place, run, is_there in _runs(element.pattern, text):
        if run.lower() != run.upper():
            mark = compiler.process(bound(element.field, run), **kw)
            tests.append(f"{place} = {mark}" if is_there else f"instr({place}, {mark}) > 0")
    return f"({' AND '.join(tests)})"


def _runs(pattern: Pattern, text: str) -> Iterable[tuple[str, str, bool]]:
    """Each run of letters in *pattern*: the part of *text* that is it, the run, and True; or that has it, and False.

    At both ends of the text the place of a run is known. In between it is only known to be somewhere: a pattern with
    several runs between its first and last `%` may find a text that has one of them elsewhere in its own case.
    """
    head, tail = pattern[0], pattern[-1] if len(pattern) > 1 else ()
    for start, run in _together(head):
        yield f"substr({text}, {start + 1}, {len(run)})", run, True
    for start, run in _together(tail):
        yield f"substr({text}, {start - len(tail)}, {len(run)})", run, True
    inner = f"substr({text}, {len(head) + 1}, length({text}) - {len(head) + len(tail)})"
    for piece in pattern[1:-1]:
        for _, run in _together(piece):
            yield inner, run, False


def _together(piece: Sequence[str | None]) -> Iterable[tuple[int, str]]:
    """The runs of letters in a piece of a pattern, with where they begin."""
    start = 0
    for run in "".join("\0" if letter is None else letter for letter in piece).split("\0"):
        if run:
            yield start, run
        start += len(run) + 1


@compiles(Double, "sqlite")
def _double_sqlite(element: Double, compiler: SQLCompiler, **kw: Any) -> str:
    return f"CAST({compiler.process(element.first, **kw)} AS REAL)"

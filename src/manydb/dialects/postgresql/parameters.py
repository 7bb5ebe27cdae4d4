"""JSON values → what asyncpg sends for the types that a prepared statement expects."""

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from manydb import values
from manydb.dialects.postgresql import literals
from manydb.dialects.postgresql.types import Type

_INTEGER_BITS = {21: 16, 23: 32, 20: 64}
_UNSIGNED_BITS = {26: 32, 28: 32, 29: 32, 5069: 64}
_REAL = re.compile(r"[+-]?(nan|inf(inity)?|(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?)\Z", re.IGNORECASE | re.ASCII)
_TRUE = {"t", "true", "y", "yes", "on", "1"}
_FALSE = {"f", "false", "n", "no", "off", "0"}
_JSON = {114, 3802}
_TIMESTAMP = 1114


def bind(value: Any, oid: int, known: Mapping[int, Type]) -> Any:  # noqa: PLR0911 - one line a kind of type
    """ValueError or TypeError when *value* cannot be what type *oid* wants."""
    if value is None:
        return None
    if oid in _BINDERS:
        return _BINDERS[oid](value)
    if oid in _INTEGER_BITS:
        return values.whole(value, -(2 ** (_INTEGER_BITS[oid] - 1)), 2 ** (_INTEGER_BITS[oid] - 1) - 1)
    if oid in _UNSIGNED_BITS:
        return values.whole(value, 0, 2 ** _UNSIGNED_BITS[oid] - 1)
    described = known.get(oid)
    if described is None:
        return _text(value)
    if described.kind == "domain":
        return bind(value, described.base, known)
    if described.kind == "array":
        return _array(value, described, known)
    if described.kind == "composite" and not isinstance(value, str):
        return _composite(value, described, known)
    if described.name == "hstore" and isinstance(value, dict):
        return literals.to_hstore({key: None if item is None else _text(item) for key, item in value.items()})
    return _text(value)


def _text(value: Any) -> str:
    if isinstance(value, dict) and values.tagged_bytes(value) is not None:
        raise ValueError("bytes are not text")
    return values.scalar_text(value)


def _boolean(value: Any) -> bool:
    word = str(value).strip().lower()
    if isinstance(value, bool | int | str) and word in _TRUE | _FALSE:
        return word in _TRUE
    raise ValueError("not a boolean")


def _number(value: Any) -> str:
    """Text for numeric and real."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError("not a number")
    digits = str(value).strip()
    if not _REAL.match(digits):
        raise ValueError("not a number")
    return digits


def _double(value: Any) -> float:
    number = float(_number(value))
    if math.isinf(number) and "inf" not in str(value).lower():
        raise ValueError("beyond the largest double")
    return number


def _bytes(value: Any) -> bytes:
    """From {"$bytes": base64}, from hexadecimal digits after a backslash and x, or from base64 text."""
    if isinstance(value, bytes):
        return value
    tagged = values.tagged_bytes(value)
    if tagged is not None:
        return tagged
    if isinstance(value, str) and value.startswith("\\x"):
        return bytes.fromhex(value[2:])
    return values.from_base64(value)


def _json(value: Any) -> str:
    """A string that is JSON text is taken as such; any other becomes a JSON string."""
    if isinstance(value, str):
        try:
            json.loads(value)
        except ValueError:
            return values.json_text(value)
        return value
    return values.json_text(value)


def _timestamp(value: Any) -> str:
    """The server would drop the offset of a timestamp without time zone: convert to UTC, the session's zone."""
    text = _text(value)
    return values.utc_moment(text) or text


_BINDERS: dict[int, Callable[[Any], Any]] = {
    16: _boolean,
    17: _bytes,
    114: _json,
    700: _number,
    701: _double,
    _TIMESTAMP: _timestamp,
    1700: _number,
    3802: _json,
}


def _array(value: Any, described: Type, known: Mapping[int, Type]) -> list[Any]:
    """A list, or its text in JSON or in the server's own notation."""
    if isinstance(value, str):
        value = _parse_array(value, described.delimiter)
    if not isinstance(value, list):
        raise TypeError("not a list")
    element = known.get(described.element)
    # Lists within the list are further dimensions, unless an element may itself be a list.
    whole = described.element in _JSON or (element is not None and element.kind == "composite")

    def elements(items: list[Any]) -> list[Any]:
        return [
            elements(item) if isinstance(item, list) and not whole else bind(item, described.element, known)
            for item in items
        ]

    return elements(value)


def _parse_array(text: str, delimiter: str) -> Any:
    if text.lstrip().startswith(("{", "[")):
        try:
            return literals.array(text.strip(), str, delimiter)
        except ValueError:
            return json.loads(text)
    raise ValueError("not an array")


def _composite(value: Any, described: Type, known: Mapping[int, Type]) -> str:
    """An object with the attributes' names, or a list of all attributes in order."""
    if isinstance(value, list) and len(value) == len(described.parts):
        value = dict(zip((name for name, _ in described.parts), value, strict=True))
    if not isinstance(value, dict) or not value.keys() <= {name for name, _ in described.parts}:
        raise ValueError("not the attributes of the composite type")
    return literals.to_record([written(bind(value.get(name), oid, known)) for name, oid in described.parts])


def written(bound: Any) -> str | None:
    """A bound value as the server's text, for use inside a record literal."""
    if bound is None or isinstance(bound, str):
        return bound
    if isinstance(bound, bytes):
        return f"\\x{bound.hex()}"
    if isinstance(bound, list):
        return literals.to_array([_nested(item) for item in bound])
    return str(bound)


def _nested(item: Any) -> Any:
    return [_nested(part) for part in item] if isinstance(item, list) else written(item)

"""PostgreSQL's text form of arrays, records and hstore: read into Python lists and dicts, and written from them.

Grammar: https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO and rowtypes.html#ROWTYPES-IO-SYNTAX.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Decoder = Callable[[str], Any]

_BOUNDS = re.compile(r"\[[^=]*=")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_RECORD_FIELD = re.compile(r'((?:"(?:[^"\\]++|""|\\.)*+"|[^",()\\]++|\\.)*+)[,)]', re.DOTALL)
_RECORD_PART = re.compile(r'"((?:[^"\\]++|""|\\.)*+)"|([^"\\]++)|\\(.)', re.DOTALL)
_RECORD_ESCAPE = re.compile(r'\\(.)|"(")', re.DOTALL)
_HSTORE_PAIR = re.compile(r'"((?:[^"\\]++|\\.)*+)"=>(?:NULL|"((?:[^"\\]++|\\.)*+)")(?:, |\Z)', re.DOTALL)


def array(text: str, decode: Decoder, delimiter: str = ",") -> list[Any]:
    """Lists within lists of decoded elements; lower bounds are dropped. ValueError when *text* is no array."""
    element = re.compile(
        rf'\s*+(?:([{{}}])|"((?:[^"\\]++|\\.)*+)"|((?:[^"{{}}\\{delimiter}]++|\\.)++)|{delimiter})', re.DOTALL
    )
    root: list[Any] = []
    stack = [root]
    position = match.end() if (match := _BOUNDS.match(text)) else 0
    while position < len(text):
        match = element.match(text, position)
        if match is None:
            raise ValueError("not an array literal")
        position = match.end()
        brace, quoted, plain = match.groups()
        if brace == "{":
            stack[-1].append([])
            stack.append(stack[-1][-1])
        elif brace == "}":
            stack.pop()
        elif quoted is not None:
            stack[-1].append(decode(_ESCAPE.sub(r"\1", quoted)))
        elif plain is not None:
            plain = plain.strip()
            stack[-1].append(None if plain.upper() == "NULL" else decode(_ESCAPE.sub(r"\1", plain)))
        if not stack:
            raise ValueError("not an array literal")
    if len(stack) != 1 or len(root) != 1 or not isinstance(root[0], list):
        raise ValueError("not an array literal")
    return root[0]


def record(text: str) -> list[str | None]:
    """The fields' own texts, None for null; "()" is one null field. ValueError when *text* is no record."""
    if not (text.startswith("(") and text.endswith(")")):
        raise ValueError("not a record literal")
    fields: list[str | None] = []
    position = 1
    while position < len(text):
        match = _RECORD_FIELD.match(text, position)
        if match is None:
            raise ValueError("not a record literal")
        fields.append(_unquoted(match[1]) if match[1] else None)
        position = match.end()
    return fields


def _unquoted(field: str) -> str:
    if '"' not in field and "\\" not in field:
        return field
    parts = _RECORD_PART.findall(field)
    return "".join(_RECORD_ESCAPE.sub(r"\1\2", quoted) or plain or escaped for quoted, plain, escaped in parts)


def hstore(text: str) -> dict[str, str | None]:
    """ValueError when *text* is not what hstore prints."""
    pairs: dict[str, str | None] = {}
    position = 0
    while position < len(text):
        match = _HSTORE_PAIR.match(text, position)
        if match is None:
            raise ValueError("not an hstore literal")
        key, value = match.groups()
        pairs[_ESCAPE.sub(r"\1", key)] = None if value is None else _ESCAPE.sub(r"\1", value)
        position = match.end()
    return pairs


def to_hstore(pairs: Mapping[str, Any]) -> str:
    """*pairs* as hstore reads them; values are text or None."""
    return ",".join(f"{_quote(key)}=>{'NULL' if value is None else _quote(value)}" for key, value in pairs.items())


def to_array(items: Sequence[Any], delimiter: str = ",") -> str:
    """Texts and None, and lists of these, as an array literal."""
    parts = ["NULL" if item is None else to_array(item) if isinstance(item, list) else _quote(item) for item in items]
    return f"{{{delimiter.join(parts)}}}"


def to_record(fields: Sequence[str | None]) -> str:
    """Texts and None as a record literal."""
    return f"({','.join('' if field is None else _quote(field) for field in fields)})"


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'

"""The server's text of a value, read into the JSON form of docs/values.md; alike whichever driver brought it."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from manydb import values
from manydb.dialects.postgresql import literals
from manydb.dialects.postgresql.types import Type

Decoder = Callable[[str], Any]


def _boolean(text: str) -> bool:
    return text == "t"


def _integer(text: str) -> int | str:
    return values.integer(int(text))


def _real(text: str) -> float | str:
    return values.real(float(text))


def _bytes(text: str) -> dict[str, str]:
    return values.data(bytes.fromhex(text[2:])) if text.startswith("\\x") else values.data(text.encode())


def _vector(text: str) -> list[int]:
    return list(map(int, text.split()))


def hstore(text: str) -> Any:
    try:
        return literals.hstore(text)
    except ValueError:
        return text  # another type that happens to have the name


# Text that becomes something else, by the type's number; all other text stays.
DECODERS: dict[int, Decoder] = {
    16: _boolean,
    17: _bytes,
    20: _integer,
    21: _integer,
    22: _vector,
    23: _integer,
    26: _integer,
    28: _integer,
    29: _integer,
    30: _vector,
    114: values.json_value,
    700: _real,
    701: _real,
    1114: values.timestamp,
    1184: values.timestamp,
    1266: values.zoned_time,
    3802: values.jsonb_value,
    5069: _integer,
}


def decoder(oid: int, known: Mapping[int, Type]) -> Decoder:
    """The function that reads the server's text of this type; never raises for what the server writes."""
    if oid in DECODERS:
        return DECODERS[oid]
    described = known.get(oid)
    if described is None:
        return str
    if described.kind == "domain":
        return decoder(described.base, known)
    if described.kind == "array":
        return partial(literals.array, decode=decoder(described.element, known), delimiter=described.delimiter)
    if described.kind == "composite":
        return _composite(described, known)
    return hstore if described.name == "hstore" else str


def _composite(described: Type, known: Mapping[int, Type]) -> Decoder:
    names = [name for name, _ in described.parts]
    decoders = [decoder(oid, known) for _, oid in described.parts]

    def decode(text: str) -> Any:
        fields = literals.record(text) if names else []
        if len(fields) != len(names):
            return text  # altered since the statement was prepared
        read = (None if field is None else decode(field) for field, decode in zip(fields, decoders, strict=True))
        return dict(zip(names, read, strict=True))

    return decode

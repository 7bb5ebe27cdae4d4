"""Anonymous records, ROW(1, 'a'): the binary form, the only one that tells the types of the fields.

A field of a type that only the server can print (money, tsvector, the types of extensions) is text where its bytes
are printable, else {"$bytes": …}: a record never makes a query fail.
"""

import struct
from collections.abc import Callable, Mapping
from decimal import Decimal
from ipaddress import ip_interface
from typing import Any
from uuid import UUID

from manydb import values
from manydb.dialects.postgresql.types import Type

_INFINITE_DAYS = {2**31 - 1: "infinity", -(2**31): "-infinity"}
_INFINITE_MICROSECONDS = {2**63 - 1: "infinity", -(2**63): "-infinity"}
_RECORD = 2249


class _Reader:
    """Takes big-endian integers and counted fields from a message."""

    def __init__(self, message: bytes) -> None:
        self._message = message
        self._position = 0

    def integers(self, layout: str) -> tuple[int, ...]:
        fields = struct.Struct(f">{layout}")
        self._position += fields.size
        return fields.unpack_from(self._message, self._position - fields.size)

    def field(self) -> bytes | None:
        (size,) = self.integers("i")
        if size < 0:
            return None
        self._position += size
        return self._message[self._position - size : self._position]


def decode(message: bytes, known: Mapping[int, Type]) -> list[Any]:
    """The fields in order; *known* describes types that are not built in."""
    reader = _Reader(message)
    (count,) = reader.integers("i")
    return [field(reader.integers("I")[0], reader.field(), known) for _ in range(count)]


def field(oid: int, data: bytes | None, known: Mapping[int, Type]) -> Any:
    """One value of type *oid*."""
    if data is None:
        return None
    try:
        return _value(oid, data, known)
    except (ValueError, struct.error):
        return values.data(data)


def _value(oid: int, data: bytes, known: Mapping[int, Type]) -> Any:  # noqa: PLR0911 - one line a kind of type
    if oid in _SCALARS:
        return _SCALARS[oid](data)
    if oid == _RECORD:
        return decode(data, known)
    if oid in _ARRAYS:
        return _array(data, known)
    described = known.get(oid)
    if described is None:
        return _printable(data)
    if described.kind == "domain":
        return _value(described.base, data, known)
    if described.kind == "array":
        return _array(data, known)
    if described.kind == "composite":
        return dict(zip((name for name, _ in described.parts), decode(data, known), strict=True))
    return _printable(data)


def _array(data: bytes, known: Mapping[int, Type]) -> list[Any]:
    reader = _Reader(data)
    dimensions, _, element = reader.integers("iiI")
    sizes = [reader.integers("ii")[0] for _ in range(dimensions)]

    def nested(depth: int) -> list[Any]:
        if depth == dimensions - 1:
            return [field(element, reader.field(), known) for _ in range(sizes[depth])]
        return [nested(depth + 1) for _ in range(sizes[depth])]

    return nested(0) if dimensions else []


def _printable(data: bytes) -> Any:
    text = data.decode()
    return text if text.isprintable() else values.data(data)


def _integer(layout: str) -> Callable[[bytes], int | str]:
    return lambda data: values.integer(struct.unpack(f">{layout}", data)[0])


def _date(data: bytes) -> str:
    (day,) = struct.unpack(">i", data)
    return _INFINITE_DAYS.get(day) or values.date_of_day(day)


def _moment(offset: str) -> Callable[[bytes], str]:
    def decode_moment(data: bytes) -> str:
        (microseconds,) = struct.unpack(">q", data)
        return _INFINITE_MICROSECONDS.get(microseconds) or values.moment(microseconds, offset)

    return decode_moment


def _interval(data: bytes) -> str:
    microseconds, days, months = struct.unpack(">qii", data)
    return values.interval(months, days, microseconds)


def _zoned_time(data: bytes) -> str:
    microseconds, west = struct.unpack(">qi", data)
    minutes, seconds = divmod(abs(west), 60)
    offset = f"{'-' if west > 0 else '+'}{minutes // 60:02d}:{minutes % 60:02d}"
    return values.clock_time(microseconds) + offset + (f":{seconds:02d}" if seconds else "")


def _numeric(data: bytes) -> str:
    """Digits of base 10,000, the first worth 10,000 to the power of *weight*."""
    count, weight, sign, scale = struct.unpack_from(">HhHH", data)
    special = {0xC000: "NaN", 0xD000: "Infinity", 0xF000: "-Infinity"}
    if sign in special:
        return special[sign]
    digits = "".join(f"{digit:04d}" for digit in struct.unpack_from(f">{count}H", data, 8)) or "0"
    value = Decimal((0, tuple(map(int, digits)), 4 * (weight + 1 - count) if count else 0))
    whole, _, fraction = f"{value:f}".partition(".")
    fraction = fraction.ljust(scale, "0")[:scale]
    return f"{'-' if sign else ''}{whole.lstrip('0') or '0'}{'.' if scale else ''}{fraction}"


def _bits(data: bytes) -> str:
    (size,) = struct.unpack_from(">i", data)
    return "".join(f"{byte:08b}" for byte in data[4:])[:size]


def _network(data: bytes) -> str:
    """Family, prefix length, whether it is a cidr, address length, address."""
    address = ip_interface((data[4:], data[1]))
    return str(address) if data[2] or data[1] != address.max_prefixlen else str(address.ip)


def _lsn(data: bytes) -> str:
    return f"{int.from_bytes(data[:4]):X}/{int.from_bytes(data[4:]):X}"


_SCALARS: dict[int, Callable[[bytes], Any]] = {
    16: lambda data: data != b"\0",
    17: values.data,
    18: values.text,
    19: values.text,
    20: _integer("q"),
    21: _integer("h"),
    23: _integer("i"),
    25: values.text,
    26: _integer("I"),
    28: _integer("I"),
    114: lambda data: values.json_value(data.decode()),
    142: values.text,
    650: _network,
    700: lambda data: values.single(struct.unpack(">f", data)[0]),
    701: lambda data: values.real(struct.unpack(">d", data)[0]),
    705: values.text,
    829: lambda data: data.hex(":"),
    869: _network,
    1042: values.text,
    1043: values.text,
    1082: _date,
    1083: lambda data: values.clock_time(struct.unpack(">q", data)[0]),
    1114: _moment(""),
    1184: _moment("+00:00"),
    1186: _interval,
    1266: _zoned_time,
    1560: _bits,
    1562: _bits,
    1700: _numeric,
    2950: lambda data: str(UUID(bytes=data)),
    3220: _lsn,
    3802: lambda data: values.jsonb_value(data[1:].decode()),
}
# The arrays of those.
_ARRAYS = {
    *(143, 199, 651, 1000, 1001, 1002, 1003, 1005, 1007, 1009, 1010, 1014, 1015, 1016, 1021, 1022, 1028, 1040, 1041),
    *(1115, 1182, 1183, 1185, 1187, 1231, 1270, 1561, 1563, 2287, 2951, 3221, 3807),
}

"""The one JSON form of database values (docs/values.md), and the way back from JSON to what a statement binds.

Pure functions on single values or on whole columns; nothing here knows a driver. What they return can be handed to
orjson as it is: str, int within ±(2^53-1), finite float, bool, None, and lists and objects of these.
"""

import base64
import binascii
import datetime as dt
import json
import math
import re
import struct
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any
from uuid import UUID

import orjson

SAFE_INTEGER = 2**53 - 1  # what every JSON reader holds exactly (RFC 8259, section 6)
BYTES = "$bytes"
RAW_JSON = "$json"

# orjson refuses to write values nested 254 levels deep; the reply around a value takes a few of them.
_JSON_DEPTH = 200
_RISKY_NUMBER = re.compile(r"[0-9.]{16}|[0-9][eE]|-0")
_ZONED = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|z|[+-]\d\d(:?\d\d)?)\Z", re.ASCII)


# ---- database value → JSON ------------------------------------------------------------------------------------------


def integer(value: int) -> int | str:
    """A JSON number, or the digits as text beyond ±(2^53-1)."""
    return value if -SAFE_INTEGER <= value <= SAFE_INTEGER else str(value)


def real(value: float) -> float | str:
    """A JSON number, or "NaN", "Infinity", "-Infinity"."""
    if math.isfinite(value):
        return value
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def single(value: float) -> float | str:
    """Undo the widening of a 32-bit float: 0.1 again instead of 0.10000000149011612."""
    if not math.isfinite(value):
        return real(value)
    for digits in range(6, 9):
        shorter = float(f"{value:.{digits}g}")
        # The largest floats round up past what 32 bits hold; the 9 digits below always work.
        if abs(shorter) < 3.4028234e38 and struct.unpack("<f", struct.pack("<f", shorter))[0] == value:
            return shorter
    return float(f"{value:.9g}")


def decimal(value: Decimal) -> str:
    """Plain notation with the scale kept: "1.10", "0.0000001", "NaN", "Infinity"."""
    return f"{value:f}"


def data(value: bytes | bytearray | memoryview) -> dict[str, str]:
    """Bytes as {"$bytes": base64}."""
    return {BYTES: base64.b64encode(value).decode("ascii")}


def text(value: bytes) -> str | dict[str, str]:
    """Text as a server sent it: a string, or {"$bytes": …} where it is not UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return data(value)


def timestamp(value: str) -> str:
    """Write "2025-01-05 10:00:00+00" as "2025-01-05T10:00:00+00:00"; infinity and " BC" stay."""
    day, space, rest = value.partition(" ")
    if not space or rest == "BC":
        return value
    return f"{day}T{zoned_time(rest)}"


def zoned_time(value: str) -> str:
    """Write "10:00:00+02" as "10:00:00+02:00"; a time without offset is returned as it is."""
    clock, era, _ = value.partition(" BC")
    offset = clock[-3:]
    return f"{clock}:00{era}" if offset[0] in "+-" else value


def json_value(raw: str) -> Any:
    """The JSON value itself, or {"$json": raw} where reading it would lose something.

    Lost would be: numbers that a double does not hold, all but one of equal keys, the difference between JSON null
    and SQL NULL, and between an object that a table holds and our own tags. Nesting beyond what can be written again
    counts as well.
    """
    try:
        value = orjson.loads(raw)
        if _is_tag(value) or value is None or not _is_shallow(raw) or not _is_exact(raw):
            return {RAW_JSON: raw}
    except ValueError:
        return {RAW_JSON: raw}
    return value


def jsonb_value(raw: str) -> Any:
    """Like json_value, for servers that have already removed equal keys: numbers are looked at only where risky."""
    try:
        value = orjson.loads(raw)
        if _is_tag(value) or value is None or not _is_shallow(raw):
            return {RAW_JSON: raw}
        if _RISKY_NUMBER.search(raw) and not _is_exact(raw):
            return {RAW_JSON: raw}
    except ValueError:
        return {RAW_JSON: raw}
    return value


def _is_tag(value: Any) -> bool:
    return isinstance(value, dict) and len(value) == 1 and next(iter(value)) in {BYTES, RAW_JSON}


def _is_shallow(raw: str) -> bool:
    if raw.count("[") + raw.count("{") < _JSON_DEPTH:
        return True
    depth = deepest = 0
    for character in re.sub(r'"(?:[^"\\]|\\.)*"', "", raw):
        depth += (character in "[{") - (character in "]}")
        deepest = max(deepest, depth)
    return deepest < _JSON_DEPTH


class _LossyJsonError(ValueError):
    pass


def _exact_integer(digits: str) -> int:
    value = int(digits) if len(digits) < 18 else SAFE_INTEGER + 1
    if not -SAFE_INTEGER <= value <= SAFE_INTEGER or digits == "-0":
        raise _LossyJsonError
    return value


def _exact_real(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value) or Decimal(digits) != Decimal(repr(value)):
        raise _LossyJsonError
    return value


def _distinct_keys(pairs: list[tuple[str, Any]]) -> None:
    if len({key for key, _ in pairs}) != len(pairs):
        raise _LossyJsonError


# Decodes only to be asked whether it can: the values come from orjson, which is several times faster.
_CHECKER = json.JSONDecoder(parse_int=_exact_integer, parse_float=_exact_real, object_pairs_hook=_distinct_keys)


def _is_exact(raw: str) -> bool:
    try:
        _CHECKER.decode(raw)
    except _LossyJsonError:
        return False
    return True


def plain(value: Any) -> Any:  # noqa: C901, PLR0911 - one line a type
    """Any value of any driver, by its Python type; what has no better form becomes its text."""
    match value:
        case None | bool():
            return value
        case str():
            return value if _is_unicode(value) else data(value.encode("utf-8", "surrogatepass"))
        case int():
            return integer(value)
        case float():
            return real(value)
        case Decimal():
            return decimal(value)
        case bytes() | bytearray() | memoryview():
            return data(value)
        case dt.date() | dt.time():  # a datetime is a date
            return value.isoformat()
        case dt.timedelta():
            return interval(0, value.days, value.seconds * 1_000_000 + value.microseconds)
        case UUID():
            return str(value)
        case Mapping():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [plain(item) for item in value]
        case _:
            return str(value)


def _is_unicode(value: str) -> bool:
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


# ---- whole columns --------------------------------------------------------------------------------------------------


def integers(column: Sequence[int | None]) -> Sequence[Any]:
    """64-bit integers; the column itself when every value fits a JSON number."""
    try:
        if min(column, default=0) >= -SAFE_INTEGER and max(column, default=0) <= SAFE_INTEGER:  # type: ignore[type-var, operator]  # None: below
            return column
    except TypeError:
        pass  # a null is in it
    return [value if value is None or -SAFE_INTEGER <= value <= SAFE_INTEGER else str(value) for value in column]


def reals(column: Sequence[float | None]) -> Sequence[Any]:
    """64-bit floats; the column itself when every value is finite."""
    try:
        if math.isfinite(sum(column)):  # type: ignore[arg-type]  # None: below
            return column
    except TypeError:
        pass  # a null is in it
    return [value if value is None else real(value) for value in column]


def numbers(column: Sequence[float | None]) -> Sequence[Any]:
    """Integers and floats in any order; the column itself when every value fits a JSON number."""
    try:
        if min(column, default=0) >= -SAFE_INTEGER and max(column, default=0) <= SAFE_INTEGER:  # type: ignore[type-var, operator]  # None: below
            return column
    except TypeError:
        pass  # a null is in it
    return [value if value is None or -SAFE_INTEGER <= value <= SAFE_INTEGER else plain(value) for value in column]


def mixed(column: Sequence[Any]) -> Sequence[Any]:
    """Values of any type."""
    return [plain(value) for value in column]


def rows(records: Sequence[Sequence[Any]], plan: Mapping[int, Any]) -> list[Sequence[Any]]:
    """*records* with the columns of *plan* (index → function of a column) converted."""
    if not plan or not records:
        return [tuple(record) for record in records]
    columns: list[Sequence[Any]] = list(zip(*records, strict=True))
    for index, convert in plan.items():
        columns[index] = convert(columns[index])
    return list(zip(*columns, strict=True))


# ---- from the integers of binary protocols --------------------------------------------------------------------------

_CYCLE_DAYS = 146_097  # of 400 Gregorian years
_DAY = 86_400_000_000


def date_of_day(day: int) -> str:
    """ISO date of a day counted from 2000-01-01; years before 1 as "0044-03-15 BC", years after 9999 in full."""
    cycles, rest = divmod(day, _CYCLE_DAYS)
    inside = dt.date(2000, 1, 1) + dt.timedelta(days=rest)
    year = inside.year + 400 * cycles
    era = "" if year > 0 else " BC"
    return f"{year if year > 0 else 1 - year:04d}-{inside:%m-%d}{era}"


def moment(microseconds: int, offset: str = "") -> str:
    """ISO timestamp of microseconds counted from 2000-01-01T00:00; *offset* is written before " BC"."""
    day, clock = divmod(microseconds, _DAY)
    date, era, _ = date_of_day(day).partition(" BC")
    return f"{date}T{clock_time(clock)}{offset}{era}"


def clock_time(microseconds: int) -> str:
    """Time of day, with as many decimals as it has: "10:00:00", "10:00:00.5", "24:00:00"."""
    seconds, fraction = divmod(microseconds, 1_000_000)
    minutes, second = divmod(seconds, 60)
    clock = f"{minutes // 60:02d}:{minutes % 60:02d}:{second:02d}"
    return f"{clock}.{fraction:06d}".rstrip("0") if fraction else clock


def interval(months: int, days: int, microseconds: int) -> str:
    """ISO 8601 duration; the three parts have signs of their own: P1Y2M-3DT4H5M6.5S."""
    years, months = _split(months, 12)
    minutes, rest = _split(microseconds, 60_000_000)
    hours, minutes = _split(minutes, 60)
    seconds = f"{Decimal(rest).scaleb(-6).normalize():f}" if rest else "0"
    date = "".join(f"{number}{unit}" for number, unit in ((years, "Y"), (months, "M"), (days, "D")) if number)
    time = "".join(f"{number}{unit}" for number, unit in ((hours, "H"), (minutes, "M")) if number)
    time += f"{seconds}S" if rest else ""
    return f"P{date}T{time}" if time else f"P{date}" if date else "PT0S"


def _split(number: int, by: int) -> tuple[int, int]:
    """Division towards zero, so that both parts have the sign of the whole."""
    quotient, rest = divmod(abs(number), by)
    return (quotient, rest) if number >= 0 else (-quotient, -rest)


# ---- JSON → bind value ----------------------------------------------------------------------------------------------


def tagged_bytes(value: Any) -> bytes | None:
    """The bytes of {"$bytes": base64}, None for every other value; ValueError when the base64 is damaged."""
    if isinstance(value, dict) and value.keys() == {BYTES}:
        return from_base64(value[BYTES])
    return None


def from_base64(encoded: Any) -> bytes:
    """ValueError when *encoded* is not base64 text."""
    if not isinstance(encoded, str):
        raise ValueError("base64 is text")  # noqa: TRY004 - one error for everything that is not base64
    try:
        return base64.b64decode(encoded, validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error


def json_text(value: Any) -> str:
    """JSON text of a JSON value; {"$json": raw} is its raw text."""
    if isinstance(value, dict) and value.keys() == {RAW_JSON} and isinstance(value[RAW_JSON], str):
        return str(value[RAW_JSON])
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def utc_moment(value: str) -> str | None:
    """An ISO timestamp with Z or an offset as "YYYY-MM-DD HH:MM:SS[.ffffff]" in UTC; None for every other text."""
    if not _ZONED.match(value):
        return None
    try:
        instant = dt.datetime.fromisoformat(value.upper()).astimezone(dt.UTC)
    except (ValueError, OverflowError):
        return None
    return instant.replace(tzinfo=None).isoformat(" ")


def whole(value: Any, low: int, high: int) -> int:
    """An integer given as 5, 5.0 or "5"; ValueError outside *low* … *high* or for anything else."""
    if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,20}", value.strip(), re.ASCII):
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError("not an integer in range")
    return value


def scalar_text(value: Any) -> str:
    """What a text parameter gets: text as it is, everything else as JSON text. ValueError: not valid Unicode."""
    result = value if isinstance(value, str) else json_text(value)
    if not _is_unicode(result):
        raise ValueError("lone surrogate")
    return result

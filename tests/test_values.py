"""The canonical JSON form, one value at a time; the databases' own values are in dialects/test_execution.py."""

import datetime as dt
import struct
from decimal import Decimal
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manydb import values

SAFE = 2**53 - 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (SAFE, SAFE),
        (SAFE + 1, str(SAFE + 1)),
        (-SAFE - 1, str(-SAFE - 1)),
        (float("nan"), "NaN"),
        (float("-inf"), "-Infinity"),
        (Decimal("1.10"), "1.10"),
        (Decimal("1E-7"), "0.0000001"),
        (Decimal("1E+3"), "1000"),
        (b"\x00\xff", {"$bytes": "AP8="}),
        (memoryview(b""), {"$bytes": ""}),
        (dt.date(2025, 1, 31), "2025-01-31"),
        (dt.datetime(2025, 1, 5, 10, tzinfo=dt.UTC), "2025-01-05T10:00:00+00:00"),
        (dt.time(10, 0), "10:00:00"),
        (dt.timedelta(days=-1, hours=1), "P-1DT1H"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        ([1, [2**60]], [1, [str(2**60)]]),
        ({1: Decimal("0.10")}, {"1": "0.10"}),
    ],
)
def test_python_values_have_one_json_form(value: Any, expected: Any) -> None:
    assert values.plain(value) == expected


def test_text_with_a_lone_surrogate_becomes_bytes_that_can_be_written() -> None:
    assert orjson.dumps(values.plain("a\ud800")) == b'{"$bytes":"YeCgAA=="}'.replace(b"YeCgAA==", b"Ye2ggA==")


@pytest.mark.parametrize(
    "raw",
    [
        "12345678901234567890",
        '{"a": 9007199254740993}',
        "[1e400]",
        "[0.1000000000000000055511151231257827]",
        '{"a": 1, "a": 2}',
        '{"b": {"a": 1, "a": 2}}',
        "null",
        "-0",
        '"\\ud800"',
        '{"$bytes": "AA=="}',
        '{"$json": "1"}',
        "[" * 300 + "]" * 300,
    ],
)
def test_json_that_cannot_be_kept_is_handed_over_raw(raw: str) -> None:
    assert values.json_value(raw) == {"$json": raw}


@pytest.mark.parametrize(
    "raw", ['{"a": [1, 0.1, "x", null, true]}', "[1.10]", "1e20", '"\\u00e9"', "[]", "[" * 150 + "]" * 150]
)
def test_json_that_can_be_kept_is_the_value_itself(raw: str) -> None:
    assert values.json_value(raw) == orjson.loads(raw)
    assert values.jsonb_value(raw) == orjson.loads(raw)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        st.lists,
    )
)
def test_json_is_never_changed_on_its_way(value: Any) -> None:
    raw = values.json_text([value])
    found = values.json_value(raw)
    assert found in ([value], {"$json": raw})
    assert values.jsonb_value(raw) == found


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        ("2025-01-05 10:00:00", "2025-01-05T10:00:00"),
        ("2025-01-05 08:00:00+00", "2025-01-05T08:00:00+00:00"),
        ("2025-01-05 08:00:00.5+05:30", "2025-01-05T08:00:00.5+05:30"),
        ("0044-03-15 12:00:00+00 BC", "0044-03-15T12:00:00+00:00 BC"),
        ("0044-03-15 12:00:00 BC", "0044-03-15T12:00:00 BC"),
        ("-infinity", "-infinity"),
    ],
)
def test_timestamps_of_a_server_become_iso_8601(server: str, expected: str) -> None:
    assert values.timestamp(server) == expected


@pytest.mark.parametrize(
    ("day", "expected"),
    [
        (0, "2000-01-01"),
        (-730_119, "0001-01-01"),
        (-730_120, "0001-12-31 BC"),
        (2_921_940, "10000-01-01"),
        (9_132, "2025-01-01"),
    ],
)
def test_days_are_counted_beyond_what_python_dates_hold(day: int, expected: str) -> None:
    assert values.date_of_day(day) == expected


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ((0, 0, 0), "PT0S"),
        ((14, 3, 14_706_789_000), "P1Y2M3DT4H5M6.789S"),
        ((-10, -3, -14_706_789_000), "P-10M-3DT-4H-5M-6.789S"),
        ((0, 0, 86_400_000_000), "PT24H"),
        ((0, 1, 0), "P1D"),
        ((0, 0, -500_000), "PT-0.5S"),
    ],
)
def test_intervals_are_iso_durations_with_days_and_hours_apart(parts: tuple[int, int, int], expected: str) -> None:
    assert values.interval(*parts) == expected


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_single_floats_are_short_and_exact(value: float) -> None:
    short = values.single(value)
    assert isinstance(short, float)
    assert struct.pack("<f", short) == struct.pack("<f", value)
    assert len(repr(short)) <= len(repr(value))


@given(st.lists(st.none() | st.integers(-(2**63), 2**64)))
def test_columns_of_integers_are_converted_like_single_ones(column: list[int | None]) -> None:
    assert list(values.integers(column)) == [values.plain(value) for value in column]
    assert list(values.numbers(column)) == [values.plain(value) for value in column]


@given(st.lists(st.none() | st.floats()))
def test_columns_of_floats_are_converted_like_single_ones(column: list[float | None]) -> None:
    assert list(values.reals(column)) == [values.plain(value) for value in column]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2025-01-05T10:00:00Z", "2025-01-05 10:00:00"),
        ("2025-01-05T10:00:00.123456+02:00", "2025-01-05 08:00:00.123456"),
        ("2025-01-05 10:00-0530", "2025-01-05 15:30:00"),
        ("2025-01-05T10:00:00", None),
        ("2025-02-30T10:00:00Z", None),
        ("at 2025-01-05T10:00:00Z", None),
    ],
)
def test_only_complete_instants_are_moved_to_utc(value: str, expected: str | None) -> None:
    assert values.utc_moment(value) == expected


@pytest.mark.parametrize("value", ["x", True, 2.5, 2**31, None, [], "1 2"])
def test_what_is_no_integer_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="integer"):
        values.whole(value, -(2**31), 2**31 - 1)

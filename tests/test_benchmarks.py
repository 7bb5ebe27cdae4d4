"""The benchmarks' own arithmetic, and the proxy that counts round trips; how fast anything is, is not tested."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from benchmarks import comparing, proxy
from benchmarks.__main__ import QUICK
from benchmarks.clients import CallFailedError, PipeClient
from benchmarks.comparing import Measure, Move
from benchmarks.drivers import DRIVERS
from benchmarks.lab import MANYDB, piped
from benchmarks.measuring import Sample, Timed, taking_turns
from benchmarks.proxy import PROTOCOLS, Turn
from benchmarks.reporting import Figure, Unit
from sqlalchemy import make_url

# -- samples ---------------------------------------------------------------------------------------------------------


def test_a_sample_tells_its_middle_and_where_the_middle_half_lies() -> None:
    sample = Sample((5.0, 1.0, 3.0, 2.0, 4.0))

    assert sample.median == 3
    assert sample.middle == (2, 4)


def test_what_was_measured_once_does_not_waver() -> None:
    assert Sample((7.0,)).middle == (7, 7)


@pytest.mark.parametrize(("percent", "expected"), [(50, 50), (99, 99), (100, 100), (1, 1)])
def test_a_percentile_is_what_so_many_of_a_hundred_do_not_exceed(percent: int, expected: float) -> None:
    assert Sample(tuple(float(number) for number in range(100, 0, -1))).percentile(percent) == expected


def test_ratios_are_taken_round_by_round() -> None:
    # The second round was slow for both, which their ratio does not show.
    assert Sample((2.0, 20.0)).over(Sample((1.0, 10.0))).each == (2, 2)


async def test_each_work_has_as_many_turns_as_there_are_rounds() -> None:
    turns: list[str] = []

    def work(name: str) -> Callable[[], asyncio.Future[None]]:
        def run() -> asyncio.Future[None]:
            turns.append(name)
            done = asyncio.get_running_loop().create_future()
            done.set_result(None)
            return done

        return run

    found = await taking_turns({"a": Timed(work("a")), "b": Timed(work("b"), times=3)}, rounds=4)

    assert {name: len(sample.each) for name, sample in found.items()} == {"a": 4, "b": 4}
    assert turns.count("a") == 5  # with the first round, which does not count
    assert turns.count("b") == 15


async def test_short_work_is_done_several_times_and_its_time_is_the_average() -> None:
    now = 0.0

    async def work() -> None:
        nonlocal now
        now += 0.002

    found = await taking_turns({"a": Timed(work, times=5)}, rounds=2, clock=lambda: now)

    assert found["a"].each == pytest.approx((2.0, 2.0))


# -- comparing -------------------------------------------------------------------------------------------------------


def figure(*each: float, what: str = "SELECT 1", unit: Unit = "x") -> Figure:
    return Figure("sqlite", what, Sample(each), unit)


def moves(before: Figure, now: Figure) -> list[Move]:
    found = comparing.measures({"calls": [before]}), comparing.measures({"calls": [now]})
    return [*comparing.moves(*found)]


def test_a_ratio_that_has_left_its_spread_has_moved() -> None:
    (move,) = moves(figure(1.9, 2.0, 2.1), figure(2.9, 3.0, 3.1))

    assert move.is_rise
    assert str(move) == "risen: calls, sqlite: SELECT 1: 2x (1.95 to 2.05) before, 3x (2.95 to 3.05) now"


def test_a_ratio_within_what_it_wavered_has_not_moved() -> None:
    assert not moves(figure(1.0, 2.0, 4.0, 5.0), figure(2.5, 3.8, 3.9, 4.5))


def test_a_small_move_is_none_however_still_both_runs_were() -> None:
    assert not moves(figure(2.0, 2.0, 2.0), figure(2.4, 2.4, 2.4))
    assert not moves(figure(2.0, 2.0, 2.0), figure(1.6, 1.6, 1.6))


def test_one_round_trip_more_is_a_move() -> None:
    (move,) = moves(figure(3.0, 3.0, unit="trips"), figure(4.0, 4.0, unit="trips"))

    assert str(move) == "risen: calls, sqlite: SELECT 1: 3 trips before, 4 trips now"


def test_milliseconds_are_not_compared() -> None:
    assert not moves(figure(1.0, unit="ms"), figure(9.0, unit="ms"))


def test_what_has_risen_furthest_comes_first() -> None:
    before = {"calls": [figure(1.0, what="a"), figure(1.0, what="b"), figure(1.0, what="c")]}
    now = {"calls": [figure(0.5, what="a"), figure(2.0, what="b"), figure(3.0, what="c")]}

    moved = comparing.moves(comparing.measures(before), comparing.measures(now))

    assert [move.key[2] for move in moved] == ["c", "b", "a"]


def test_a_move_counts_when_it_is_there_once_more() -> None:
    def move(what: str, now: float) -> Move:
        return Move(("calls", "sqlite", what), Measure("x", 2, 2, 2), Measure("x", now, now, now))

    first = [move("stays", 4), move("turns", 4), move("goes", 4)]
    second = [move("stays", 5), move("turns", 1), move("comes", 4)]

    assert comparing.confirmed(first, second) == [move("stays", 5)]


def test_several_runs_are_counted_as_one() -> None:
    pooled = comparing.pooled([{"calls": [figure(1.0, 2.0)]}, {"calls": [figure(3.0)]}])

    assert pooled["calls"][0].sample.each == (1, 2, 3)


def test_a_baseline_is_read_as_it_was_saved(tmp_path: Path) -> None:
    found = {"calls": [figure(1.0, 2.0, 4.0), figure(9.0, unit="ms", what="SELECT 1, driver")]}
    file = tmp_path / "baseline.json"
    comparing.save(file, "two cores", found)

    assert comparing.load(file) == ("two cores", {("calls", "sqlite", "SELECT 1"): Measure("x", 2, 1.5, 3)})


def test_the_stored_baseline_can_be_read() -> None:
    machine, measures = comparing.load(Path(comparing.__file__).with_name("baseline.json"))

    assert machine
    assert {name for name, _, _ in measures} == {*QUICK}
    assert all(measure.low <= measure.median <= measure.high for measure in measures.values())


# -- round trips -----------------------------------------------------------------------------------------------------


def test_turns_after_each_other_are_as_many_trips() -> None:
    assert proxy.trips([Turn([], 0.0, 1.0), Turn([], 1.0, 2.0), Turn([], 2.5, 3.0)]) == 3


def test_turns_at_the_same_time_are_one_trip() -> None:
    assert proxy.trips([Turn([], 0.0, 1.0), Turn([], 0.1, 1.1), Turn([], 1.2, 2.0)]) == 2


def test_what_is_never_answered_is_no_trip() -> None:
    assert proxy.trips([Turn(["Terminate"], 0.0)]) == 0


def message(kind: bytes, body: bytes) -> bytes:
    return kind + (len(body) + 4).to_bytes(4) + body


def test_postgresql_messages_are_named_with_their_sql() -> None:
    sent = bytearray(
        message(b"", (196_608).to_bytes(4) + b"user\0me\0\0")
        + message(b"P", b"name\0SELECT  1\n+ 1\0\0\0")
        + message(b"S", b"")
        + message(b"Q", b"ROLLBACK\0")
        + b"B\0\0"
    )

    assert [*PROTOCOLS["postgresql"].messages(sent)] == ["Startup", "Parse SELECT 1 + 1", "Sync", "Query ROLLBACK"]
    assert sent == b"B\0\0"  # the rest of it has not come


def test_mysql_messages_are_named_with_their_sql() -> None:
    def packet(number: int, body: bytes) -> bytes:
        return len(body).to_bytes(3, "little") + bytes([number]) + body

    sent = bytearray(packet(1, b"\x85\xa6") + packet(0, b"\x03SELECT 1") + packet(0, b"\x1f") + packet(0, b"\x0e")[:-1])

    assert [*PROTOCOLS["mysql"].messages(sent)] == ["Login", "Query SELECT 1", "ResetConnection"]
    assert len(sent) == 4


async def test_the_proxy_counts_the_round_trips_of_postgresql(postgresql_url: str) -> None:
    async with proxy.between(make_url(postgresql_url)) as (line, far), DRIVERS["postgresql"].connect(far) as fetch:
        opening = [str(turn) for turn in line.take()]
        assert opening[0] == "(connects)"
        assert "Startup" in opening  # where the driver does not ask for TLS first, it comes second

        assert (await fetch("SELECT $1::int", 7))[0][0] == 7
        turns = line.take()

    # The driver describes what it has not seen before it runs it.
    assert [turn.messages[0] for turn in turns] == ["Parse SELECT $1::int", "Bind"]
    assert proxy.trips(turns) == 2


async def test_the_proxy_counts_the_round_trips_of_mysql(mysql_url: str) -> None:
    async with proxy.between(make_url(mysql_url)) as (line, far), DRIVERS["mysql"].connect(far) as fetch:
        assert [str(turn) for turn in line.take()][:3] == ["(connects)", "(waits for the greeting)", "Login"]

        assert await fetch("SELECT %s", 7) == ((7,),)
        turns = line.take()

    assert [str(turn) for turn in turns] == ["Query SELECT 7"]
    assert proxy.trips(turns) == 1


async def test_a_trip_takes_as_long_as_it_was_told(postgresql_url: str) -> None:
    away = 0.03
    async with (
        proxy.between(make_url(postgresql_url), away) as (line, far),
        DRIVERS["postgresql"].connect(far) as fetch,
    ):
        line.take()
        await fetch("SELECT 1")
        turns = line.take()

    assert len(turns) == 2
    assert all(turn.answered is not None and turn.answered - turn.asked >= away for turn in turns)


async def test_connections_at_once_take_one_trip_together(postgresql_url: str) -> None:
    connect = DRIVERS["postgresql"].connect
    async with (
        proxy.between(make_url(postgresql_url), 0.05) as (line, far),
        connect(far) as one,
        connect(far) as other,
    ):
        line.take()
        await asyncio.gather(one("SELECT 1"), other("SELECT 2"))
        turns = line.take()

    assert len(turns) == 4
    assert proxy.trips(turns) == 2


# -- clients ---------------------------------------------------------------------------------------------------------


async def test_the_cheap_client_asks_what_others_ask(sqlite_url: str) -> None:
    async with piped(MANYDB, connections={"db": {"url": sqlite_url}}) as server:
        client: PipeClient = server.client
        answers = await asyncio.gather(
            *(client.text("execute_query", sql=f"SELECT {number} AS n") for number in range(20))
        )
        assert [f'"rows":[[{number}]]' in answer for number, answer in enumerate(answers)] == [True] * 20

        with pytest.raises(CallFailedError, match="READ_ONLY"):
            await client.text("execute_query", sql="DROP TABLE t")

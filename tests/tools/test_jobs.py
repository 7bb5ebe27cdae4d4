"""Jobs: they outlive the call that submitted them, take turns, and end in the database with whatever they belong to."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastmcp import Client
from fastmcp.server.auth.providers.jwt import StaticTokenVerifier
from fastmcp.utilities.tests import asgi_server

from manydb import dialects, reads
from manydb.callers import NOBODY, PROCESS, Caller
from manydb.connections import Registration
from manydb.engines import Pool
from manydb.errors import Expired, TooMany
from manydb.gateway import Gateway
from manydb.jobs import Job, Jobs
from manydb.leases import Target
from manydb.server import build_server
from manydb.settings import Settings
from tests.observers import ENDLESS, Observer, eventually
from tests.tools import Desk, serving

NUMBERS = "SELECT n, label FROM numbers ORDER BY n"
STOPS_WITHIN = 1.0
A, B = Caller("session", "a"), Caller("session", "b")


@asynccontextmanager
async def working(
    url: str, *, local: bool = False, connections: tuple[str, ...] = ("db",), **settings: Any
) -> AsyncGenerator[tuple[Gateway, Jobs]]:
    """The jobs of a gateway without clients: the test says who is asking."""
    settings = {"connections": {name: {"url": url} for name in connections}} | settings
    async with Gateway.open(Settings.model_validate(settings), local=local) as gateway:
        yield gateway, Jobs(gateway)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


# ---- one job --------------------------------------------------------------------------------------------------------


async def test_a_job_outlives_its_call_and_hands_over_its_rows(mode: str, file_url: str) -> None:
    async with serving(mode, tools=["core", "jobs"], url=file_url) as desk:
        submitted = await desk.ask("submit_query", sql=NUMBERS, row_cap=3)
        assert submitted["job_id"].startswith("j_")
        assert submitted["state"] in {"queued", "running"}
        job = await desk.ask("get_job", job_id=submitted["job_id"], wait_seconds=10)
        page = job["result"]
        assert (job["state"], page["rows"], page["truncated"]) == (
            "done",
            [[n, f"label {n}"] for n in (1, 2, 3)],
            "max_rows",
        )
        rest = await desk.ask("fetch_rows", result_id=page["result_id"], row_cap=1)
        assert rest["rows"] == [[4, "label 4"]]
        assert await desk.ask("get_job", job_id=submitted["job_id"]) == job


async def test_values_reach_a_job(mode: str, file_url: str) -> None:
    async with serving(mode, tools=["core", "jobs"], url=file_url) as desk:
        submitted = await desk.ask("submit_query", query="SELECT label FROM numbers WHERE n = :n", params={"n": 7})
        job = await desk.ask("get_job", job_id=submitted["job_id"], wait_seconds=10)
        assert job["result"]["rows"] == [["label 7"]]


async def test_a_failed_job_keeps_the_error_that_execute_query_would_have_given(mode: str, database_url: str) -> None:
    async with serving(mode, tools=["core", "jobs"], url=database_url) as desk:
        submitted = await desk.ask("submit_query", sql="SELECT missing FROM nowhere")
        job = await desk.ask("get_job", job_id=submitted["job_id"], wait_seconds=10)
        assert job["state"] == "failed"
        assert job["error"] == await desk.refusal("execute_query", sql="SELECT missing FROM nowhere")


async def test_what_is_no_read_never_becomes_a_job(mode: str, file_url: str) -> None:
    async with serving(mode, tools=["core", "jobs", "operations"], url=file_url) as desk:
        assert (await desk.refusal("submit_query", sql="DELETE FROM numbers"))["code"] == "READ_ONLY"
        assert (await desk.refusal("submit_query", sql="SELECT 1", connection="x"))["code"] == "UNKNOWN_CONNECTION"
        assert "jobs" not in (await desk.ask("get_session_info")).get("holds", {})
        (entry,) = (await desk.ask("get_query_history"))["statements"]
        assert entry["outcome"] == "READ_ONLY"


async def test_an_id_that_nobody_gave_is_an_error(mode: str, file_url: str) -> None:
    async with serving(mode, tools=["jobs"], url=file_url) as desk:
        for tool in ("get_job", "cancel_job"):
            error = await desk.refusal(tool, job_id="j_guess")
            assert (error["code"], error["message"]) == ("EXPIRED", "there is no job 'j_guess'; submit it again")


async def test_a_job_may_take_longer_than_a_call(mode: str, file_url: str) -> None:
    limits = {"timeout_seconds": 0.1, "max_timeout_seconds": 0.1}
    async with serving(mode, tools=["core", "jobs"], url=file_url, job_timeout_seconds=0.6, **limits) as desk:
        started = time.monotonic()
        assert (await desk.refusal("execute_query", sql=ENDLESS, timeout_seconds=5))["code"] == "TIMEOUT"
        assert time.monotonic() - started < 0.5
        for asked in ({}, {"timeout_seconds": 50}):
            submitted = await desk.ask("submit_query", sql=ENDLESS, **asked)
            assert submitted["timeout_seconds"] == 0.6
            job = await desk.ask("get_job", job_id=submitted["job_id"], wait_seconds=10)
            assert (job["state"], job["error"]["code"]) == ("failed", "TIMEOUT")
            assert 550 < job["elapsed_ms"] < 3_000


async def test_a_look_at_a_running_job_tells_how_long_it_runs(mode: str, file_url: str) -> None:
    async with serving(mode, tools=["jobs"], url=file_url) as desk:
        submitted = await desk.ask("submit_query", sql=ENDLESS)
        job = await desk.ask("get_job", job_id=submitted["job_id"], wait_seconds=0.2)
        assert (job["state"], job["timeout_seconds"]) == ("running", 3600)
        assert job["elapsed_ms"] >= 150


# ---- ends -----------------------------------------------------------------------------------------------------------


async def test_a_cancelled_job_ends_in_the_database(mode: str, database_url: str) -> None:
    observer = Observer.of(database_url)
    async with serving(mode, tools=["core", "jobs"], url=database_url) as desk:
        submitted = await desk.ask("submit_query", sql=ENDLESS)
        await eventually(observer.is_busy)
        cancelled = time.monotonic()
        assert await desk.ask("cancel_job", job_id=submitted["job_id"]) == submitted_as(submitted, "cancelled")
        await eventually(observer.is_quiet, cancelled + STOPS_WITHIN - time.monotonic())
        job = await desk.ask("get_job", job_id=submitted["job_id"])
        assert (job["state"], "result" in job, "error" in job) == ("cancelled", False, False)
        assert await desk.rows("SELECT 1 AS one") == [[1]]


def submitted_as(submitted: dict[str, Any], state: str) -> dict[str, Any]:
    return {"job_id": submitted["job_id"], "state": state}


async def test_a_job_that_waits_can_be_cancelled_and_never_runs(mode: str, file_url: str) -> None:
    async with serving(mode, tools=["jobs", "operations"], url=file_url, job_workers=1) as desk:
        first = await desk.ask("submit_query", sql=ENDLESS)
        second = await desk.ask("submit_query", sql="SELECT 2")
        third = await desk.ask("submit_query", sql="SELECT 3")
        assert (second["state"], third["state"], third["ahead"]) == ("queued", "queued", 1)
        assert await desk.ask("cancel_job", job_id=second["job_id"]) == submitted_as(second, "cancelled")
        assert await desk.ask("cancel_job", job_id=first["job_id"]) == submitted_as(first, "cancelled")
        assert (await desk.ask("get_job", job_id=third["job_id"], wait_seconds=10))["result"]["rows"] == [[3]]
        ran = [(each["sql"], each["outcome"]) for each in (await desk.ask("get_query_history"))["statements"]]
        assert ran == [("SELECT 3", "ok"), (ENDLESS, "CANCELLED")]


async def test_a_job_that_has_ended_stays_as_it_is_when_it_is_cancelled(mode: str, file_url: str) -> None:
    async with serving(mode, tools=["jobs"], url=file_url) as desk:
        submitted = await desk.ask("submit_query", sql="SELECT 1")
        await desk.ask("get_job", job_id=submitted["job_id"], wait_seconds=10)
        assert await desk.ask("cancel_job", job_id=submitted["job_id"]) == submitted_as(submitted, "done")
        assert (await desk.ask("get_job", job_id=submitted["job_id"]))["result"]["rows"] == [[1]]


async def test_giving_up_the_wait_for_a_job_does_not_end_it(mode: str, postgresql_url: str) -> None:
    observer = Observer.of(postgresql_url)
    async with serving(mode, tools=["jobs"], url=postgresql_url) as desk:
        submitted = await desk.ask("submit_query", sql=ENDLESS)
        waiting = asyncio.create_task(desk.ask("get_job", job_id=submitted["job_id"], wait_seconds=30))
        await eventually(observer.is_busy)
        waiting.cancel()
        await asyncio.wait({waiting})
        assert (await desk.ask("get_job", job_id=submitted["job_id"]))["state"] == "running"
        assert await observer.is_busy()


async def test_nothing_runs_once_the_server_has_closed(mode: str, database_url: str) -> None:
    observer = Observer.of(database_url)
    async with serving(mode, tools=["jobs"], url=database_url, job_workers=2) as desk:
        for _ in range(4):
            await desk.ask("submit_query", sql=ENDLESS)
        await eventually(observer.is_busy)
    await eventually(observer.is_quiet, STOPS_WITHIN)
    await eventually(observer.is_left_alone)


async def test_jobs_end_with_their_caller_and_with_no_other(database_url: str) -> None:
    observer = Observer.of(database_url)
    async with working(database_url) as (gateway, jobs):
        mine = [await jobs.submit(A, "db", ENDLESS) for _ in range(2)]
        _, others = await jobs.submit(B, "db", ENDLESS)
        await eventually(observer.is_busy)
        await gateway.release(A)
        assert [job.state for _, job in mine] == ["cancelled", "cancelled"]
        assert others.state == "running"
        assert (jobs.of(A), len(jobs.of(B)), gateway.history.of(A)) == ([], 1, [])
        with pytest.raises(Expired, match="was released"):
            jobs.get(A, mine[0][0])
        await gateway.release(B)
        await eventually(observer.is_quiet, STOPS_WITHIN)


async def test_a_job_ends_with_its_connection(database_url: str, file_url: str) -> None:
    observer = Observer.of(database_url)
    async with working(file_url, job_workers=2) as (gateway, jobs):
        register(gateway, A, "mine", database_url)
        _, running = await jobs.submit(A, "mine", ENDLESS)
        _, waiting = await jobs.submit(A, "mine", ENDLESS)
        assert (running.state, waiting.state) == ("running", "queued")
        await eventually(observer.is_busy)
        await gateway.connections.remove(A, "mine")
        async with asyncio.timeout(3):
            await running.over.wait()
            await waiting.over.wait()
        await eventually(observer.is_quiet, STOPS_WITHIN)
        told = ("cancelled", "its connection was removed")
        assert ((running.state, running.reason), (waiting.state, waiting.reason)) == (told, told)


def register(gateway: Gateway, owner: Caller, name: str, url: str) -> None:
    dialect, parsed = dialects.parse(url)
    server = next(iter(gateway.connections))
    gateway.connections.register(
        owner,
        Registration(
            name, Target(dialect, parsed), "read_only", server.policy, "", server.limits, Pool(4, 1000, 1000), owner
        ),
    )


# ---- turns ----------------------------------------------------------------------------------------------------------


async def started_in_order(jobs: list[Job]) -> list[int]:
    """The places of *jobs*, in the order in which they ran."""
    async with asyncio.timeout(10):
        for job in jobs:
            await job.over.wait()
    return sorted(range(len(jobs)), key=lambda place: jobs[place].started or 0)


async def test_callers_take_turns_however_many_jobs_one_of_them_has(file_url: str) -> None:
    async with working(file_url, job_workers=1) as (_, jobs):
        first, _ = await jobs.submit(A, "db", ENDLESS)
        queued = [(await jobs.submit(A, "db", f"SELECT {n}"))[1] for n in range(4)]
        queued += [(await jobs.submit(B, "db", f"SELECT {n}"))[1] for n in range(2)]
        await jobs.cancel(A, first)
        assert await started_in_order(queued) == [0, 4, 1, 5, 2, 3]


async def test_no_caller_keeps_all_workers_from_the_others(file_url: str) -> None:
    async with working(file_url, job_workers=3) as (_, jobs):
        mine = [(await jobs.submit(A, "db", ENDLESS))[1] for _ in range(3)]
        assert [job.state for job in mine] == ["running", "running", "queued"]
        job_id, _ = await jobs.submit(B, "db", "SELECT 1 AS one")
        assert (await jobs.wait(B, job_id, 10)).state == "done"


async def test_the_only_client_of_a_server_may_use_all_workers(file_url: str) -> None:
    async with working(file_url, local=True, job_workers=3) as (_, jobs):
        mine = [(await jobs.submit(PROCESS, "db", ENDLESS))[1] for _ in range(4)]
        assert [job.state for job in mine] == ["running"] * 3 + ["queued"]


async def test_jobs_leave_connections_to_others_and_do_not_hold_up_other_databases(
    postgresql_url: str, file_url: str
) -> None:
    connections = {"busy": {"url": postgresql_url, "pool_size": 3}, "free": {"url": file_url}}
    settings = Settings.model_validate({"connections": connections, "job_workers": 3})
    async with Gateway.open(settings) as gateway:
        jobs = Jobs(gateway)
        mine = [(await jobs.submit(PROCESS, "busy", ENDLESS))[1] for _ in range(3)]
        assert [job.state for job in mine] == ["running", "queued", "queued"]
        job_id, _ = await jobs.submit(PROCESS, "free", "SELECT 1 AS one")
        assert (await jobs.wait(PROCESS, job_id, 10)).state == "done"
        calls = [reads.execute(gateway, PROCESS, "busy", "SELECT 1 AS one") for _ in range(4)]
        assert [page.rows for page in await asyncio.gather(*calls)] == [[(1,)]] * 4


# ---- bounds ---------------------------------------------------------------------------------------------------------


async def test_a_caller_has_so_many_jobs_and_those_it_has_looked_at_make_room(mode: str, file_url: str) -> None:
    async with serving(mode, tools=["jobs"], url=file_url, max_jobs=2) as desk:
        ids = [(await desk.ask("submit_query", sql=f"SELECT {n}"))["job_id"] for n in (1, 2)]
        error = await desk.refusal("submit_query", sql="SELECT 3")
        assert (error["code"], error["retry"]) == ("TOO_MANY", "later")
        await desk.ask("get_job", job_id=ids[1], wait_seconds=10)
        await desk.ask("submit_query", sql="SELECT 3")
        assert "made room" in (await desk.refusal("get_job", job_id=ids[1]))["message"]
        assert (await desk.ask("get_job", job_id=ids[0], wait_seconds=10))["result"]["rows"] == [[1]]


async def test_only_so_many_jobs_wait(mode: str, file_url: str) -> None:
    async with serving(mode, tools=["jobs", "operations"], url=file_url, job_workers=1, job_queue=2) as desk:
        for _ in range(3):
            await desk.ask("submit_query", sql=ENDLESS)
        error = await desk.refusal("submit_query", sql="SELECT 1")
        assert (error["code"], error["message"]) == ("TOO_MANY", "too many jobs wait already; try again later")
        assert len((await desk.ask("get_session_info"))["holds"]["jobs"]) == 3


async def test_callers_nobody_knows_leave_half_of_the_queue_to_the_others(file_url: str) -> None:
    async with working(file_url, job_workers=1, job_queue=4) as (_, jobs):
        for _ in range(3):
            await jobs.submit(NOBODY, "db", ENDLESS)
        with pytest.raises(TooMany):
            await jobs.submit(NOBODY, "db", ENDLESS)
        for _ in range(2):
            await jobs.submit(A, "db", ENDLESS)


async def test_what_nobody_asks_for_is_dropped_in_time_and_until_then_keeps_its_rows(file_url: str) -> None:
    clock = Clock()
    async with working(file_url, job_ttl=1_000, result_ttl=300) as (gateway, jobs):
        jobs.clock = gateway.results.clock = clock
        job_id, job = await jobs.submit(A, "db", NUMBERS, row_cap=1)
        async with asyncio.timeout(10):
            await job.over.wait()
        for _ in range(4):
            clock.now += 240
            await gateway.sweep()
        page = jobs.get(A, job_id).page
        assert page is not None
        assert (await reads.fetch(gateway, A, str(page.result_id), row_cap=2)).rows == [(2, "label 2"), (3, "label 3")]
        clock.now += 999
        assert jobs.of(A) == [(job_id, job, 1)]
        clock.now += 2
        with pytest.raises(Expired, match="nobody asked for it for 1000 s"):
            jobs.get(A, job_id)
        await gateway.sweep()
        assert len(jobs) == 0
        with pytest.raises(Expired, match="nobody asked for it for 1000 s"):
            jobs.get(A, job_id)


async def test_a_job_that_runs_never_expires(file_url: str) -> None:
    clock = Clock()
    async with working(file_url, job_ttl=10) as (gateway, jobs):
        jobs.clock = clock
        job_id, _ = await jobs.submit(A, "db", ENDLESS)
        clock.now = 3_000
        await gateway.sweep()
        assert jobs.get(A, job_id).state == "running"


async def test_what_has_ended_holds_on_to_neither_statement_nor_rows(file_url: str) -> None:
    async with working(file_url) as (_, jobs):
        job_id, _ = await jobs.submit(A, "db", "SELECT n, :x AS x FROM numbers", {"x": "bound"}, row_cap=2)
        job = await jobs.wait(A, job_id, 10)
        assert (job.sql, job.params, job.task) == ("", None, None)
        assert job.page is not None
        assert (len(job.page.rows), job.page.result.rows) == (2, [])


# ---- two clients ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def two_clients(kind: str, url: str, **settings: Any) -> AsyncGenerator[tuple[Desk, Desk]]:
    """Two clients of one server over HTTP, told apart by their logins, by their sessions, or by nothing."""
    server = build_server(Settings.model_validate({"connections": {"db": {"url": url}}} | settings))
    if "principal" in kind:
        server.auth = StaticTokenVerifier({name: {"client_id": name, "scopes": []} for name in ("a", "b")})
    mode = "legacy" if kind in {"session", "old principal"} else "auto"
    async with (
        asgi_server(server) as http,
        Client(http.transport(auth="a" if server.auth else None), mode=mode) as a,
        Client(http.transport(auth="b" if server.auth else None), mode=mode) as b,
    ):
        yield Desk(a), Desk(b)


@pytest.mark.parametrize("kind", ["principal", "old principal", "session"])
async def test_another_clients_job_does_not_exist(kind: str, file_url: str) -> None:
    async with two_clients(kind, file_url, tools=["core", "jobs", "operations"]) as (mine, other):
        job_id = (await mine.ask("submit_query", sql=ENDLESS))["job_id"]
        for tool in ("get_job", "cancel_job"):
            error = await other.refusal(tool, job_id=job_id)
            assert error["message"].replace(job_id, "j_guess") == "there is no job 'j_guess'; submit it again"
        assert "holds" not in await other.ask("get_session_info")
        assert (await mine.ask("get_job", job_id=job_id))["state"] == "running"
        done = (await mine.ask("submit_query", sql=NUMBERS))["job_id"]
        page = (await mine.ask("get_job", job_id=done, wait_seconds=10))["result"]
        assert (await other.refusal("fetch_rows", result_id=page["result_id"]))["code"] == "EXPIRED"
        assert (await mine.ask("fetch_rows", result_id=page["result_id"]))["rows"]
        assert len((await mine.ask("get_session_info"))["holds"]["jobs"]) == 2


async def test_the_id_alone_leads_to_the_job_of_a_caller_nobody_knows(file_url: str) -> None:
    async with two_clients("nobody", file_url, tools=["core", "jobs", "operations"]) as (mine, other):
        job_id = (await mine.ask("submit_query", sql=NUMBERS))["job_id"]
        for desk in (mine, other):
            page = (await desk.ask("get_job", job_id=job_id, wait_seconds=10))["result"]
            assert (await desk.ask("fetch_rows", result_id=page["result_id"]))["rows"][0][0] == 101
            assert "holds" not in await desk.ask("get_session_info")


# ---- MCP tasks ------------------------------------------------------------------------------------------------------


async def test_a_long_query_becomes_a_task_of_clients_that_speak_tasks(postgresql_url: str) -> None:
    tasks = pytest.importorskip("fastmcp_tasks", reason="manydb[tasks] is not installed")
    observer = Observer.of(postgresql_url)
    async with serving(tools=["core", "jobs", "operations"], url=postgresql_url) as desk:
        task = await tasks.call_tool_task(desk.client, "execute_query", {"sql": ENDLESS})
        assert (await task.status()).status == "working"
        (job,) = (await desk.ask("get_session_info"))["holds"]["jobs"]
        assert job["id"] == task.task_id
        cancelled = time.monotonic()
        await task.cancel()
        await eventually(observer.is_quiet, cancelled + STOPS_WITHIN - time.monotonic())
        assert (await task.status()).status == "cancelled"


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_task_answers_as_the_query_would(mode: str, postgresql_url: str) -> None:
    pytest.importorskip("fastmcp_tasks", reason="manydb[tasks] is not installed")
    async with serving(mode, tools=["core", "jobs", "operations"], url=postgresql_url) as desk:
        assert await desk.rows("SELECT 1 AS one") == [[1]]
        assert (await desk.refusal("execute_query", sql="SELECT x"))["code"] == "UNKNOWN_COLUMN"
        assert (await desk.refusal("execute_query", sql="DROP TABLE x"))["code"] == "READ_ONLY"
        assert (await desk.refusal("execute_query", sql=1, nothing=2))["code"] == "BAD_PARAMETER"
        assert "holds" not in await desk.ask("get_session_info")
        error = await desk.refusal("execute_query", sql=ENDLESS, timeout_seconds=1.3)
        assert error["code"] == "TIMEOUT"
        markdown = await desk.text("execute_query", query="SELECT 1 AS one", format="markdown")
        assert markdown.startswith("| one |")


async def test_giving_up_a_query_before_it_is_a_task_ends_it(postgresql_url: str) -> None:
    pytest.importorskip("fastmcp_tasks", reason="manydb[tasks] is not installed")
    observer = Observer.of(postgresql_url)
    async with serving(tools=["core", "jobs", "operations"], url=postgresql_url) as desk:
        call = asyncio.create_task(desk.client.call_tool("execute_query", {"sql": ENDLESS}))
        await eventually(observer.is_busy)
        call.cancel()
        await asyncio.wait({call})
        await eventually(observer.is_quiet, STOPS_WITHIN)
        assert "holds" not in await desk.ask("get_session_info")


async def test_a_query_does_not_wait_for_a_worker_to_become_a_task(postgresql_url: str) -> None:
    pytest.importorskip("fastmcp_tasks", reason="manydb[tasks] is not installed")
    async with serving(tools=["core", "jobs"], url=postgresql_url, job_workers=1) as desk:
        await desk.ask("submit_query", sql=ENDLESS)
        assert await desk.rows("SELECT 1 AS one") == [[1]]


@pytest.mark.parametrize("kind", ["principal", "nobody"])
async def test_a_task_is_its_callers_alone(kind: str, file_url: str) -> None:
    tasks = pytest.importorskip("fastmcp_tasks", reason="manydb[tasks] is not installed")
    async with two_clients(kind, file_url, tools=["core", "jobs"]) as (mine, other):
        task = await tasks.call_tool_task(mine.client, "execute_query", {"sql": ENDLESS})
        found, text = await other._call("get_job", {"job_id": task.task_id})
        if kind == "principal":
            assert (found, json.loads(text)["code"]) == (True, "EXPIRED")
        else:
            assert json.loads(text)["state"] == "running"
        await task.cancel()
        assert (await task.status()).status == "cancelled"

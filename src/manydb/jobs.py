"""Jobs: statements that read and outlive the call that submitted them. Few run at once, and callers take turns."""

import asyncio
import logging
import time
import traceback
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, ClassVar, Literal

import anyio

from manydb import reads
from manydb.callers import Caller
from manydb.connections import Registration
from manydb.errors import Expired, Internal, ManydbError, TooMany, UnknownConnection
from manydb.gateway import Gateway
from manydb.handles import Handles
from manydb.query import Page
from manydb.settings import Format

_log = logging.getLogger(__name__)

State = Literal["queued", "running", "done", "failed", "cancelled"]

_MOST_JOBS = 1_000
"""Jobs of all callers, running or kept; each keeps a page of rows."""
_STOP_SECONDS = 5.0
"""Longer than a statement takes to be stopped."""


@dataclass(eq=False, slots=True)
class Job:
    """A statement and how far it is. It ends with a *page*, an *error* (as clients see it), or cancelled."""

    owner: Caller
    registration: Registration
    sql: str
    params: Any = field(repr=False)
    row_cap: int
    seconds: float
    """How long its statement may take."""
    format: Format
    clock: Callable[[], float] = field(repr=False)
    state: State = "queued"
    page: Page | None = field(default=None, repr=False)
    error: dict[str, Any] | None = None
    reason: str = ""
    """Why it was cancelled, where its owner did not do it."""
    over: asyncio.Event = field(default_factory=asyncio.Event, repr=False)
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    submitted: float = field(init=False)
    started: float | None = None
    ended: float | None = None
    looked: float | None = None
    """When somebody last asked, since it ended."""
    task: asyncio.Task[Page] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.submitted = self.clock()

    @property
    def elapsed(self) -> float:
        """Seconds that it has run, or ran."""
        return 0.0 if self.started is None else (self.clock() if self.ended is None else self.ended) - self.started

    @property
    def waited(self) -> float:
        """Seconds until it began, or was given up."""
        begun = self.started if self.started is not None else self.ended
        return (self.clock() if begun is None else begun) - self.submitted

    def end(self, state: State, *, page: Page | None = None, error: ManydbError | None = None) -> None:
        self.state, self.ended = state, self.clock()
        # What lies beyond the page is kept elsewhere, in bounds; nor is an exception, which holds on to its frames.
        self.page = page and replace(page, result=replace(page.result, rows=[]))
        self.error = error.as_dict() if error else None
        self.sql, self.params = "", None
        self.over.set()


class Jobs:
    """All jobs of a server, on workers of its own: tasks that no request's end reaches.

    A job ends with what it needs: its caller, its connection, the gateway. At most a third of a database's connections
    (and at least one) run jobs. *clock* counts seconds.
    """

    noun: ClassVar[str] = "job"

    def __init__(self, gateway: Gateway, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._gateway = gateway
        self._settings = gateway.settings
        # How long a job is kept depends on whether it has ended, so handles of their own never expire.
        self._jobs = Handles[Job](
            "j",
            self.noun,
            "submit it again",
            idle_ttl=float("inf"),
            per_owner=self._settings.max_jobs,
            total=_MOST_JOBS,
            end=self._stop,
            mark=self._settings.mark,
        )
        self._waiting: OrderedDict[Caller, deque[Job]] = OrderedDict()
        self._running: set[Job] = set()
        gateway.holdings.add(self)

    # -- verbs -------------------------------------------------------------------------------------------------------

    async def submit(
        self,
        caller: Caller,
        connection: str | None,
        sql: str,
        params: Any = None,
        *,
        row_cap: int | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> tuple[str, Job]:
        """Run *sql* when its turn comes, for at most *timeout* seconds (`job_timeout_seconds`); its id, and the job.

        What is no read is refused now. Raises TooMany where *caller* has as many jobs as may be, and none of them has
        ended and been looked at; and where too many wait.
        """
        registration = self._gateway.connections.get(caller, connection)
        try:
            await reads.readable(self._gateway, registration, sql)
        except ManydbError:
            with self._gateway.recorded(caller, registration, sql):
                raise
        await self._make_room(caller)
        most = self._settings.job_timeout_seconds
        job = self._job(caller, registration, sql, params, row_cap, min(timeout or most, most))
        return self._add(job), job

    async def begin(
        self,
        caller: Caller,
        connection: str | None,
        sql: str,
        params: Any = None,
        *,
        row_cap: int | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
        format: Format = "json",  # noqa: A002
    ) -> tuple[str, Job] | None:
        """Run *sql* at once, for as long as a call may take; None where it would have to wait. Raises TooMany."""
        registration = self._gateway.connections.get(caller, connection)
        await self._make_room(caller)
        if not self._may_start(caller, registration):
            return None
        seconds = self._gateway.seconds(registration, timeout)
        job = self._job(caller, registration, sql, params, row_cap, seconds, format)
        return self._add(job), job

    def get(self, caller: Caller, job_id: str) -> Job:
        """The job, looked at now. Raises Expired: unknown, another caller's and old ones get one kind of answer."""
        job = self._jobs.get(caller, job_id)
        if self._left(job) <= 0:
            raise Expired(f"the job {job_id!r} {self._too_old()}; submit it again")
        if job.over.is_set():
            job.looked = self.clock()
        return job

    async def wait(self, caller: Caller, job_id: str, seconds: float) -> Job:
        """The job once it has ended, or after *seconds*. Raises Expired."""
        job = self.get(caller, job_id)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await job.over.wait()
        return self.get(caller, job_id)

    async def cancel(self, caller: Caller, job_id: str) -> Job:
        """Stop the job, and its statement in the database; one that has ended stays as it is. Raises Expired."""
        await self._stop(self.get(caller, job_id))
        return self.get(caller, job_id)

    async def forget(self, job_id: str) -> None:
        """End and drop the job: nobody will ask for it."""
        await self._jobs.remove(job_id, "has been answered")

    def ahead(self, job: Job) -> int:
        """How many jobs of its owner go before a job that waits."""
        return self._waiting[job.owner].index(job) if job.state == "queued" else 0

    # -- what callers hold -------------------------------------------------------------------------------------------

    def of(self, owner: Caller) -> list[tuple[str, Job, float]]:
        """What *owner* submitted: id, job, and the seconds left if nobody asks for it."""
        return [(job_id, job, max(0.0, self._left(job))) for job_id, job, _ in self._jobs.of(owner)]

    async def release(self, owner: Caller) -> None:
        await self._jobs.release(owner)

    async def sweep(self) -> None:
        """Drop what nobody asked for in time; end what lost its connection; keep alive what belongs to the others."""
        orphans = []
        for job_id, job in self._jobs.everything():
            if self._left(job) <= 0:
                await self._jobs.remove(job_id, self._too_old())
            elif job.over.is_set():
                self._keep_rows(job)
            elif not self._is_connected(job):
                orphans.append(job)
        # All at once, or those that wait would begin when one that runs is stopped.
        await asyncio.gather(*(self._stop(job, "its connection was removed") for job in orphans))

    async def aclose(self) -> None:
        await self._jobs.aclose()

    def __len__(self) -> int:
        return len(self._jobs)

    def _left(self, job: Job) -> float:
        """Seconds; of a job that has not ended, until it must have."""
        if job.ended is None:
            return self._settings.job_ttl + max(0.0, job.seconds - job.elapsed)
        return self._settings.job_ttl - (self.clock() - (job.ended if job.looked is None else job.looked))

    def _too_old(self) -> str:
        return f"ended, and nobody asked for it for {self._settings.job_ttl:g} s"

    def _keep_rows(self, job: Job) -> None:
        """The rows beyond the page live as long as the job, unless newer results need their place."""
        if job.page is None or job.page.result_id is None:
            return
        try:
            self._gateway.results.get(job.owner if job.owner.is_known else None, job.page.result_id)
        except Expired:
            job.page = job.page.kept_as(None)

    def _is_connected(self, job: Job) -> bool:
        """Whether its connection is still there, which a job that has not ended makes use of."""
        try:
            return self._gateway.connections.get(job.owner, job.registration.name) is job.registration
        except UnknownConnection:
            return False

    # -- running -----------------------------------------------------------------------------------------------------

    def _job(
        self,
        caller: Caller,
        registration: Registration,
        sql: str,
        params: Any,
        row_cap: int | None,
        seconds: float,
        name: Format = "json",
    ) -> Job:
        rows = reads.cap(self._settings, registration, row_cap)
        return Job(caller, registration, sql, params, rows, seconds, name, self.clock)

    async def _make_room(self, owner: Caller) -> None:
        """Where *owner* has as many jobs as may be, drop the oldest that has ended and been looked at."""
        try:
            self._jobs.require_room(owner)
        except TooMany:
            for job_id, job in self._jobs.everything():
                if job.owner == owner and job.looked is not None:
                    await self._jobs.remove(job_id, "made room for another")
                    return
            raise

    def _add(self, job: Job) -> str:
        """Let *job* run, or wait; its id. Nothing is awaited, so that no other job comes between. Raises TooMany."""
        self._jobs.require_room(job.owner)
        self._waiting.setdefault(job.owner, deque()).append(job)
        self._start()
        if job.state == "queued":
            waiting = {owner: len(queue) for owner, queue in self._waiting.items()}
            most = self._settings.job_queue
            # Callers that cannot be told apart share half of the places.
            if sum(waiting.values()) > most or (not job.owner.is_known and waiting[job.owner] > (most + 1) // 2):
                self._give_up(job)
                raise TooMany("too many jobs wait already; try again later")
        return self._jobs.add(job.owner, job)

    def _start(self) -> None:
        """Let those run whose turn it is: of the caller that runs least, and waits longest, the first."""
        while job := self._next():
            self._waiting.move_to_end(job.owner)
            self._give_up(job)
            job.state, job.started = "running", self.clock()
            self._running.add(job)
            # In a context of its own: a request's must not live as long as its job.
            job.task = asyncio.create_task(self._read(job), context=Context())
            job.task.add_done_callback(partial(self._ended, job))

    def _next(self) -> Job | None:
        running = Counter(job.owner for job in self._running)
        for caller in sorted(self._waiting, key=running.__getitem__):
            for job in self._waiting[caller]:
                if self._may_start(caller, job.registration):
                    return job
        return None

    def _may_start(self, caller: Caller, registration: Registration) -> bool:
        """Whether a worker is free; where there are several clients, nobody takes the last one from the others."""
        workers = self._settings.job_workers
        share = workers if self._gateway.local else max(1, workers - 1)
        there = sum(job.registration.target == registration.target for job in self._running)
        return (
            len(self._running) < workers
            and sum(job.owner == caller for job in self._running) < share
            and there < max(1, registration.pool.size // 3)
        )

    async def _read(self, job: Job) -> Page:
        gateway, registration = self._gateway, job.registration
        async with gateway.on(job.owner, registration.name) as place:
            result = await reads.run(
                gateway, job.owner, place, job.sql, job.params, row_cap=job.row_cap, timeout=job.seconds
            )
        budget = registration.limits.byte_budget
        page = reads.cut(self._settings, result, row_cap=job.row_cap, byte_budget=budget, name=job.format)
        return reads.keep(gateway, job.owner, page)

    def _ended(self, job: Job, task: asyncio.Task[Page]) -> None:
        self._running.discard(job)
        if task.cancelled():
            job.end("cancelled")
        elif (error := task.exception()) is None:
            job.end("done", page=task.result())
        elif isinstance(error, ManydbError):
            job.end("failed", error=error)
        else:
            # Frames only: messages of other people's exceptions may hold values, and values stay out of logs.
            frames = "".join(traceback.format_tb(error.__traceback__))
            _log.error("a job failed with %s\n%s", type(error).__qualname__, frames)
            job.end("failed", error=Internal(f"manydb failed ({type(error).__name__}); its log has the details"))
        job.task = None
        self._start()

    async def _stop(self, job: Job, reason: str = "") -> None:
        """End *job*, in bounded time; nothing of it runs afterwards."""
        if job.over.is_set():
            return
        job.reason = reason
        if job.task is None:
            self._give_up(job)
            job.end("cancelled")
            return
        with anyio.CancelScope(shield=True):
            # Once is enough, unless what the task waited for came at the same moment.
            while job.task is not None:
                job.task.cancel()
                await asyncio.wait({job.task}, timeout=_STOP_SECONDS)

    def _give_up(self, job: Job) -> None:
        """*job* waits no more."""
        queue = self._waiting[job.owner]
        queue.remove(job)
        if not queue:
            del self._waiting[job.owner]

"""Callers' own connections: admitted by the operator's policy, tried step by step, and kept where all worked."""

import asyncio
import re
import ssl
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import anyio
from sqlalchemy import URL, event, inspect
from sqlalchemy.ext.asyncio import AsyncConnection

from manydb.admission import Admission, AdmissionPolicy
from manydb.callers import Caller
from manydb.connections import Registration
from manydb.dialects.powers import Powers
from manydb.errors import BadParameter, Forbidden, ManydbError, TlsFailed, Unreachable
from manydb.gateway import Gateway
from manydb.leases import Lease
from manydb.policy import Policy
from manydb.settings import Access

T = TypeVar("T")

_ASKING_SECONDS = 10.0
_CLOSING_SECONDS = 1.0
_ROUND_TRIPS = 3
_SCHEME = re.compile(r"[a-z0-9_+]+")
_HOST = re.compile(r"[A-Za-z0-9._:-]+")
_FIELDS = ("driver", "host", "port", "user", "database")


@dataclass(frozen=True, slots=True)
class Given:
    """How a caller names a database: a URL, or its parts; a password may stand beside either."""

    url: str | None = field(default=None, repr=False)
    driver: str | None = None
    host: str | None = None
    port: int | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    database: str | None = None

    def text(self) -> str:
        """The URL, without a password that stands beside it. Raises BadParameter."""
        parts = [name for name in _FIELDS if getattr(self, name) is not None]
        if self.url is not None:
            if parts:
                raise BadParameter(f"give url, or the fields, not both; url leaves out {', '.join(parts)}")
            return self.url
        if self.driver is None or self.database is None:
            raise BadParameter("give url, or driver and database, with host and user where it is a server")
        if not _SCHEME.fullmatch(self.driver):
            raise BadParameter("driver is a URL's scheme, such as postgresql, mysql or sqlite")
        if self.host is not None and not _HOST.fullmatch(self.host):
            raise BadParameter("host is a name or an address, without port")
        if self.host is not None and not self.user:
            raise BadParameter("user is missing")
        made = URL.create(self.driver, self.user, None, self.host, self.port, self.database)
        return made.render_as_string(hide_password=False)


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a trial; *ms* is None where the driver does not tell it from the step after it."""

    step: str
    ok: bool
    ms: float | None = None
    detail: str = ""

    def as_dict(self) -> dict[str, Any]:
        told = {"step": self.step, "ok": self.ok, "ms": self.ms, "detail": self.detail}
        return {key: value for key, value in told.items() if value not in {None, ""}}


@dataclass(slots=True)
class Trial:
    """How far a connection came: its steps, up to the first that failed with *error*."""

    steps: list[Step] = field(default_factory=list)
    error: ManydbError | None = None
    version: str = ""
    powers: Powers | None = None

    def require(self) -> None:
        """Raises the error that the trial met; its message and its detail *step* say where."""
        if self.error is not None:
            step = self.steps[-1].step
            self.error.message = f"{step}: {self.error.message}"
            self.error.details = {**self.error.details, "step": step}
            raise self.error

    def passed(self, step: str, seconds: float | None, detail: str = "") -> None:
        self.steps.append(Step(step, ok=True, ms=_milliseconds(seconds), detail=detail))

    def failed(self, step: str, seconds: float, error: ManydbError) -> None:
        self.error = error
        self.steps.append(Step(step, ok=False, ms=_milliseconds(seconds), detail=error.message))

    @contextmanager
    def step(self, name: str, error: Callable[[Exception], ManydbError]) -> Generator[list[str]]:
        """Time what is done inside; the texts put into the list are its detail. Raises Stopped where it fails."""
        started, details = time.perf_counter(), list[str]()
        try:
            yield details
        except _Stopped:
            raise
        except Exception as exc:  # whatever a driver raises: it is the step that failed
            mine = exc if isinstance(exc, ManydbError) else error(exc)
            self.failed(name, time.perf_counter() - started, mine)
            raise _Stopped from exc
        self.passed(name, time.perf_counter() - started, "; ".join(details))


class _Stopped(Exception):  # noqa: N818 - ends a trial whose error is told already
    pass


@dataclass(frozen=True, slots=True)
class Registrations:
    """What callers do with connections of their own. *policy* is None where nobody may register."""

    gateway: Gateway
    policy: AdmissionPolicy | None

    def admit(self, given: Given) -> Admission:
        """The database that *given* names, if the policy lets callers register it. Raises BadParameter or Forbidden."""
        if self.policy is None:
            raise Forbidden("this server lets nobody register connections; its operator can set registration = true")
        admission = self.policy.admit(given.text())
        if given.password is None:
            return admission
        if admission.file is not None:
            raise BadParameter("a database file has no password")
        if admission.url.password is not None:
            raise BadParameter("the url has a password already; leave password out")
        return admission.with_password(given.password)

    def prepare(
        self, caller: Caller, name: str, admission: Admission, access: Access, description: str
    ) -> Registration:
        """What `register` would keep. Raises BadParameter, Forbidden and TooMany."""
        most = self.gateway.settings.registration_access
        if not Policy(most).offers(access):
            raise Forbidden(f"the most access that this server lets you register with is {most}")
        return self.gateway.connections.prepare(caller, name, admission, access, description)

    async def register(self, caller: Caller, registration: Registration) -> Trial:
        """Try the prepared *registration* and keep it for *caller*. Raises what the trial met; then nothing is kept."""
        async with self._passing(registration):
            trial = await self.test(registration)
            trial.require()
            self.gateway.connections.register(caller, registration)
        return trial

    async def remove(self, caller: Caller, name: str) -> Registration:
        """Forget *caller*'s own connection. Raises UnknownConnection, and BadParameter for the server's own."""
        return await self.gateway.connections.remove(caller, name)

    async def test_unregistered(self, caller: Caller, admission: Admission) -> Trial:
        """Try a database without keeping anything of it."""
        candidate = self.gateway.connections.candidate(caller, "test", admission)
        async with self._passing(candidate):
            return await self.test(candidate)

    async def test(self, registration: Registration) -> Trial:
        """Dial the database anew, log in, and ask it what it is, until a step fails; that is in the trial."""
        trial = Trial()
        # Of its own: level-triggered cancellation, as MCP requests have it, would reach the driver's closing too.
        with suppress(_Stopped):
            await _apart(self._try(trial, registration))
        return trial

    async def _try(self, trial: Trial, registration: Registration) -> None:
        target, dialect = registration.target, registration.dialect

        def error(exc: Exception) -> ManydbError:
            return dialect.connect_error(exc, target.told)

        if target.url.host:
            with trial.step("dns", error) as details:
                details.extend(await self._addresses(registration))
        is_server = target.url.host or dialect.default_port
        began = time.perf_counter()
        try:
            async with self.gateway.engines.lease(target, "read_only", registration.pool) as lease:
                if is_server:
                    await _dial(trial, lease)
                else:
                    trial.passed("file", time.perf_counter() - began)
                    with trial.step("open", error):
                        await _open(lease)
        except (Unreachable, TlsFailed) as exc:  # the engine could not be made: no such file, or no such certificate
            trial.failed("tls" if is_server else "file", time.perf_counter() - began, exc)
            raise _Stopped from exc
        await self._ask(trial, registration)

    async def _addresses(self, registration: Registration) -> list[str]:
        """Where the host is, checked; told of what the caller itself named only."""
        target = registration.target
        if target.admission is not None:
            return [str(address) for address in await target.admission.policy.resolve(target.url)]
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self.gateway.settings.connect_timeout):
            await loop.getaddrinfo(target.url.host, target.url.port)
        return []

    async def _ask(self, trial: Trial, registration: Registration) -> None:
        """The rest as a query would have it: through the gateway, in a transaction that only reads."""
        dialect = registration.dialect

        async def ask(on: AsyncConnection) -> None:
            with trial.step("version", dialect.error) as details:
                trial.version = await dialect.server_version(on)
                details.append(trial.version)
            with trial.step("privileges", dialect.error) as details:
                trial.powers = await dialect.powers(on)
                if trial.powers is not None:
                    details.append(", ".join(trial.powers.reasons) or said(trial.powers))
            times = []
            with trial.step("latency", dialect.error):
                for _ in range(_ROUND_TRIPS):
                    started = time.perf_counter()
                    await on.exec_driver_sql("SELECT 1")
                    times.append(time.perf_counter() - started)
            # The best of a few: the first one may wait for what only first ones wait for.
            trial.steps[-1] = Step("latency", ok=True, ms=_milliseconds(min(times)))

        began = time.perf_counter()
        try:
            await self.gateway.read(registration, ask, timeout=_ASKING_SECONDS)
        except ManydbError as exc:
            if trial.error is None:  # before, between or after the steps: the connection, or the time
                trial.failed("version", time.perf_counter() - began, exc)
            raise _Stopped from exc

    @asynccontextmanager
    async def _passing(self, registration: Registration) -> AsyncGenerator[None]:
        """Leave no engine to what is not kept."""
        try:
            yield
        finally:
            if not self.gateway.connections.is_needed(registration.target):
                self.gateway.engines.retire(registration.target)
                self.gateway.catalogs.invalidate(registration.target)


def said(powers: Powers) -> str:
    """Whether the database itself would stop a write, which is the strongest wall there is."""
    return "superuser" if powers.superuser else "could write" if powers.can_write else "reads only"


# -- dialling --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Dialling:
    """What is seen of a driver that reaches a server, speaks TLS with it and logs in, all in one call."""

    started: float = field(default_factory=time.perf_counter)
    handshake: float | None = None
    """When it began, and when it was done."""
    encrypted: float | None = None
    connected: float | None = None
    protocol: str = "not encrypted"

    def connecting(self, _dialect: Any, _record: Any, _args: Any, parameters: dict[str, Any]) -> None:
        self.started = time.perf_counter()
        if "sslmode" in parameters:
            self.protocol = ""  # libpq does it by itself, and shows nobody
        if isinstance(context := parameters.get("ssl"), ssl.SSLContext):
            context.sslobject_class = _watched(self)

    def was_connected(self, _dbapi: Any, _record: Any) -> None:
        self.connected = time.perf_counter()

    def tell(self, trial: Trial, error: ManydbError | None) -> None:
        """Add the steps that it came to."""
        now = self.connected or time.perf_counter()
        failed = "" if error is None else self._failed_in(error)
        if failed != "tcp":
            # Without TLS nobody sees where dialling ends and logging in begins.
            trial.passed("tcp", self.handshake and self.handshake - self.started)
        if failed not in {"tcp", "tls"}:
            trial.passed("tls", self.encrypted and self.encrypted - (self.handshake or 0), self.protocol)
        since = self.encrypted or (self.handshake if failed == "tls" else None) or self.started
        if error is None:
            trial.passed("auth", now - since)
        else:
            trial.failed(failed, now - since, error)

    def _failed_in(self, error: ManydbError) -> str:
        if isinstance(error, TlsFailed):
            return "tls"
        # What has a code was said by the server.
        return "tcp" if isinstance(error, Unreachable) and not error.details and self.handshake is None else "auth"


def _watched(dialling: _Dialling) -> type[ssl.SSLObject]:
    class Watched(ssl.SSLObject):
        def do_handshake(self) -> None:
            dialling.handshake = dialling.handshake or time.perf_counter()
            super().do_handshake()  # raises until all of it has come
            dialling.encrypted = time.perf_counter()
            dialling.protocol = self.version() or ""

    return Watched


async def _dial(trial: Trial, lease: Lease) -> None:
    """Make a connection beside the pool, which may have some that work already. Raises _Stopped."""
    dialling = _Dialling()
    engine = lease.side()
    # Before the guard, which answers the event, and before SQLAlchemy's own questions to a new database.
    event.listen(engine.sync_engine, "do_connect", dialling.connecting, insert=True)
    event.listen(engine.sync_engine, "first_connect", dialling.was_connected, insert=True)
    try:
        async with engine.connect():
            dialling.tell(trial, None)
    except Forbidden as exc:  # the name leads elsewhere than a moment ago
        trial.steps.clear()
        trial.failed("dns", time.perf_counter() - dialling.started, exc)
        raise _Stopped from exc
    except Exception as exc:  # whatever a driver raises while connecting
        error = exc if isinstance(exc, ManydbError) else lease.dialect.connect_error(exc, lease.target.told)
        dialling.tell(trial, error)
        raise _Stopped from exc
    finally:
        await engine.dispose()


async def _open(lease: Lease) -> None:
    """Make a connection to a file, and read what tables there are: opening alone reads nothing."""
    engine = lease.side()
    try:
        async with engine.connect() as connection:
            await connection.run_sync(lambda sync: inspect(sync).get_table_names())
    finally:
        await engine.dispose()


async def _apart(work: Coroutine[Any, Any, T]) -> T:
    """Do *work* in a task of its own, which closes what it opened although we are cancelled."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.wait({task}, timeout=_CLOSING_SECONDS)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        raise


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)

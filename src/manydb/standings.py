"""What is known of each connection: whether it answers, which server it is, what its login could do."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from weakref import WeakKeyDictionary

from sqlalchemy.ext.asyncio import AsyncConnection

from manydb.connections import Registration
from manydb.dialects.powers import Powers
from manydb.errors import ManydbError
from manydb.leases import Health

_WAIT_SECONDS = 1.0
"""How long a list waits for databases not heard of yet; the slower ones are told as unknown."""
_AGAIN_SECONDS = 10.0


@dataclass(slots=True)
class Standing:
    """Of one connection; None is what nobody has asked yet."""

    health: Health | None = None
    version: str | None = None
    powers: Powers | None = None


Read = Callable[[Registration, Callable[[AsyncConnection], Awaitable[Standing]]], Awaitable[Standing]]


@dataclass
class Standings:
    """Standings of registrations, as long as these live. *read* does work on one, and tells `heard` how it went."""

    read: Read
    clock: Callable[[], float] = time.monotonic
    _known: WeakKeyDictionary[Registration, Standing] = field(default_factory=WeakKeyDictionary)
    _probes: WeakKeyDictionary[Registration, asyncio.Task[None]] = field(default_factory=WeakKeyDictionary)

    def heard(self, registration: Registration, error: ManydbError | None = None) -> None:
        """Remember that the database answered, or what kept it from answering."""
        health = Health(self.clock(), error)
        if known := self._known.get(registration):
            known.health = health
        else:
            self._known[registration] = Standing(health)

    async def check(self, registration: Registration) -> Standing:
        """Ask the database now. Raises Unreachable, AuthFailed or TlsFailed."""

        async def ask(on: AsyncConnection) -> Standing:
            dialect = registration.dialect
            return Standing(None, await dialect.server_version(on), await dialect.powers(on))

        told = await self.read(registration, ask)
        standing = replace(told, health=Health(self.clock()))
        self._known[registration] = standing
        return standing

    async def of(self, registrations: Iterable[Registration]) -> list[tuple[Registration, Standing]]:
        """What is known of each; who is not heard of yet, or was unreachable, is asked, for a second at most."""
        each = list(registrations)
        probes = [self._probe(registration) for registration in each if self._is_uncertain(registration)]
        if probes:
            await asyncio.wait(probes, timeout=_WAIT_SECONDS)
        return [(registration, self._known.get(registration, Standing())) for registration in each]

    async def aclose(self) -> None:
        for probe in self._probes.values():
            probe.cancel()
        await asyncio.gather(*self._probes.values(), return_exceptions=True)

    def _is_uncertain(self, registration: Registration) -> bool:
        known = self._known.get(registration, Standing())
        if known.health is None or (known.health.error is None and known.version is None):
            return True
        return known.health.error is not None and self.clock() - known.health.checked_at > _AGAIN_SECONDS

    def _probe(self, registration: Registration) -> asyncio.Task[None]:
        async def probe() -> None:
            with suppress(ManydbError):  # what went wrong is remembered as the connection's health
                await self.check(registration)

        running = self._probes.get(registration)
        if running is None or running.done():
            running = self._probes[registration] = asyncio.create_task(probe())
        return running

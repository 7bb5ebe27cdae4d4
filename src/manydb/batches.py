"""Batches: several reads of one call side by side, each with a page or an error; no more than a pool can spare."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

from manydb import reads
from manydb.callers import Caller
from manydb.connections import Registration
from manydb.errors import BadParameter, ManydbError
from manydb.gateway import Gateway
from manydb.leases import Target
from manydb.query import Page, QueryResult


@dataclass(frozen=True, slots=True)
class Query:
    """One read of a batch."""

    sql: str
    connection: str | None = None
    params: Any = field(default=None, repr=False)
    row_cap: int | None = None


@dataclass(frozen=True, slots=True)
class _Answer:
    registration: Registration
    result: QueryResult
    row_cap: int


class Batches:
    """All batches of a server. Together they take half of a database's connections at most, and at least one."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._turns = WeakValueDictionary[Target, asyncio.Semaphore]()

    async def run(
        self,
        caller: Caller,
        queries: Sequence[Query],
        *,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> list[Page | ManydbError]:
        """The first page, or the error, of each of *queries*, in their order; *timeout* is for each of them.

        The rows of all pages together fit the byte budget. Cancelling ends every statement that still runs. Raises
        BadParameter for a batch that is empty or too long.
        """
        most = self._gateway.settings.max_batch
        if not 1 <= len(queries) <= most:
            raise BadParameter(f"a batch has 1 to {most} queries; {len(queries)} were given")
        mine: dict[Target, asyncio.Semaphore] = {}
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._answer(caller, query, timeout, mine)) for query in queries]
        return self._cut(caller, [task.result() for task in tasks])

    async def _answer(
        self,
        caller: Caller,
        asked: Query,
        timeout: float | None,  # noqa: ASYNC109
        mine: dict[Target, asyncio.Semaphore],
    ) -> _Answer | ManydbError:
        gateway = self._gateway
        try:
            registration = gateway.connections.get(caller, asked.connection)
            row_cap = reads.cap(gateway.settings, registration, asked.row_cap)
            target, most = registration.target, max(1, registration.pool.size // 2)
            # The batch's own turn comes first: a long batch must not queue up in front of a short one.
            turn = self._turns.get(target) or self._turns.setdefault(target, asyncio.Semaphore(most))
            async with (
                mine.setdefault(target, asyncio.Semaphore(most)),
                turn,
                gateway.on(caller, registration.name) as at,
            ):
                result = await reads.run(
                    gateway,
                    caller,
                    at,
                    asked.sql,
                    asked.params,
                    row_cap=row_cap,
                    timeout=gateway.seconds(registration, timeout),
                )
        except ManydbError as exc:
            return exc
        return _Answer(registration, result, row_cap)

    def _cut(self, caller: Caller, answers: Sequence[_Answer | ManydbError]) -> list[Page | ManydbError]:
        """*answers* as pages that fit the byte budget together."""
        settings = self._gateway.settings

        def cut(answer: _Answer, budget: int) -> Page:
            return reads.cut(settings, answer.result, row_cap=answer.row_cap, byte_budget=budget)

        wholes = [
            cut(each, each.registration.limits.byte_budget) if isinstance(each, _Answer) else None for each in answers
        ]
        shares = shared([whole.size if whole else 0 for whole in wholes], settings.byte_budget)
        found: list[Page | ManydbError] = []
        for answer, whole, share in zip(answers, wholes, shares, strict=True):
            if isinstance(answer, ManydbError):
                found.append(answer)
            else:
                page = whole if whole and whole.size <= share else cut(answer, share)
                found.append(reads.keep(self._gateway, caller, page))
        return found


def shared(wanted: Sequence[int], budget: int) -> list[int]:
    """*budget* among those who want so much each: who wants little gets it, the others get alike."""
    shares = [0] * len(wanted)
    by_size = sorted(range(len(wanted)), key=wanted.__getitem__)
    for served, index in enumerate(by_size):
        shares[index] = min(wanted[index], budget // (len(wanted) - served))
        budget -= shares[index]
    return shares

"""A bank behind the gateway: clients that transfer, cancel, and lose their connections; and its books afterwards."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self

from fastmcp import Client, FastMCP

from manydb.server import build_server
from manydb.settings import Settings
from tests.observers import Observer, eventually
from tests.tools import MODES

ACCOUNTS = 40
START = 1_000
EXPECTED = {
    "CONFLICT", "POOL_BUSY", "TIMEOUT", "UNREACHABLE", "OUTCOME_UNKNOWN", "EXPIRED", "CANCELLED", "TOO_MANY",
}  # fmt: skip
"""What a client may be told; anything else is a mistake of ours."""
_IDLE_SECONDS = 1.5
_STALE_SECONDS = 0.15
_OPEN = {
    "postgresql": "SELECT count(*) FROM pg_stat_activity WHERE datname = :name AND xact_start IS NOT NULL "
    "AND pid <> pg_backend_pid()",
    "mysql": "SELECT count(*) FROM information_schema.innodb_trx t JOIN information_schema.processlist p "
    "ON p.id = t.trx_mysql_thread_id WHERE p.db = :name AND p.id <> connection_id()",
    "sqlite": "BEGIN EXCLUSIVE",
}


class Refused(Exception):  # noqa: N818 - what a client was told
    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass
class Bank:
    """Use `Bank.of`. *seed* decides what the clients try; what comes of it is the scheduler's."""

    observer: Observer
    seed: int
    acknowledged: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    """Transfers that were never to be committed: rolled back, or refused before their commit."""
    counted: Counter[int] = field(default_factory=Counter)
    doubtful: Counter[int] = field(default_factory=Counter)
    """By client, counts that were acknowledged, and those of which nobody told the outcome."""
    told: Counter[str] = field(default_factory=Counter)

    @classmethod
    async def of(cls, url: str, seed: int) -> Self:
        """A bank in the empty database of *url*."""
        observer = Observer.of(url)
        engine = " ENGINE=InnoDB" if observer.backend == "mysql" else ""
        await observer.run(f"CREATE TABLE accounts (id integer PRIMARY KEY, balance integer NOT NULL){engine}")
        await observer.run(
            "CREATE TABLE ledger (id varchar(40) PRIMARY KEY, source integer NOT NULL, target integer NOT NULL, "
            f"amount integer NOT NULL){engine}"
        )
        await observer.run(f"CREATE TABLE counters (id integer PRIMARY KEY, n integer NOT NULL){engine}")
        values = ", ".join(f"({number}, {START})" for number in range(ACCOUNTS))
        await observer.run(f"INSERT INTO accounts VALUES {values}")
        return cls(observer, seed)

    async def run(self, clients: int, seconds: float) -> None:
        """Let *clients* work for *seconds*; afterwards nothing may be left open. Raises AssertionError."""
        for number in range(clients):
            await self.observer.run(f"INSERT INTO counters VALUES ({number}, 0)")
        url = self.observer.url.render_as_string(hide_password=False)
        settings = Settings.model_validate(
            {
                "connections": {"bank": {"url": url, "access": "read_write", "pool_size": 4 * clients}},
                "tools": ["core", "write"],
                "max_transactions": 2 * clients,
                "transaction_idle_ttl": _IDLE_SECONDS,
                "pool_timeout": 2,
            }
        )
        server = build_server(settings)
        until = asyncio.get_running_loop().time() + seconds
        async with AsyncExitStack() as stack:
            tellers = [
                await stack.enter_async_context(self._teller(server, number, MODES[number % 2]))
                for number in range(clients)
            ]
            trouble = asyncio.create_task(self._trouble())
            await asyncio.gather(*(teller.work(until) for teller in tellers))
            trouble.cancel()
            await asyncio.gather(trouble, return_exceptions=True)
            # What clients left open goes by itself, while the server lives.
            await eventually(self._nothing_is_open, _IDLE_SECONDS + 5)
        await self.check()

    @asynccontextmanager
    async def _teller(self, server: FastMCP[Any], number: int, mode: str) -> AsyncGenerator["Teller"]:
        async with Client(server, mode=mode) as client:
            yield Teller(self, number, client, random.Random(f"{self.seed} {number}"))

    async def _trouble(self) -> None:
        """Kill database connections now and then."""
        chance = random.Random(f"{self.seed} trouble")
        while self.observer.backend != "sqlite":
            await asyncio.sleep(chance.uniform(0.3, 0.9))
            await self._kill_one(chance)

    async def _kill_one(self, chance: random.Random) -> None:
        name = self.observer.url.database
        if self.observer.backend == "postgresql":
            sessions = "SELECT pid FROM pg_stat_activity WHERE datname = :name AND pid <> pg_backend_pid()"
            kill = "SELECT pg_terminate_backend({})"
        else:
            sessions = "SELECT id FROM information_schema.processlist WHERE db = :name AND id <> connection_id()"
            kill = "KILL {}"
        found = [row[0] for row in await self.observer.run(sessions, name=name)]
        if found:
            try:
                await self.observer.run(kill.format(chance.choice(found)))
            except Exception:  # noqa: BLE001 - it had gone by itself
                return

    async def _nothing_is_open(self) -> bool:
        backend = self.observer.backend
        if backend == "mysql":
            # InnoDB repeats its last answer to whoever asks again within a tenth of a second.
            await asyncio.sleep(_STALE_SECONDS)
        if backend != "sqlite":
            ((count,),) = await self.observer.run(_OPEN[backend], name=self.observer.url.database)
            return bool(count == 0)
        try:
            await self.observer.run(_OPEN[backend])
        except Exception:  # noqa: BLE001 - it is locked
            return False
        return True

    async def check(self) -> None:
        """The books: the sum is what it was, every transfer was applied once or not at all, and as it was told."""
        balances = dict(await self.observer.run("SELECT id, balance FROM accounts"))
        ledger = await self.observer.run("SELECT id, source, target, amount FROM ledger")
        assert sum(balances.values()) == ACCOUNTS * START
        expected = dict.fromkeys(range(ACCOUNTS), START)
        for _, source, target, amount in ledger:
            expected[source] -= amount
            expected[target] += amount
        assert balances == expected
        booked = {row[0] for row in ledger}
        assert self.acknowledged <= booked
        assert not self.refused & booked
        for number, count in await self.observer.run("SELECT id, n FROM counters"):
            assert self.counted[number] <= count <= self.counted[number] + self.doubtful[number]
        assert set(self.told) <= EXPECTED | {"ok"}, self.told


@dataclass
class Teller:
    """One client."""

    bank: Bank
    number: int
    client: Client[Any]
    chance: random.Random
    transfers: int = 0

    async def work(self, until: float) -> None:
        ways: Sequence[Callable[[], Awaitable[None]]] = [self.transfer] * 5 + [self.count] * 2 + [self.look]
        while asyncio.get_running_loop().time() < until:
            try:
                await self.chance.choice(ways)()
            except Refused as exc:
                self.bank.told[exc.code] += 1
                if exc.code not in EXPECTED:
                    raise
            except TimeoutError:
                self.bank.told["CANCELLED"] += 1

    async def ask(self, tool: str, *, hurry: bool = False, **arguments: Any) -> dict[str, Any]:
        """The reply; in a *hurry*, the call is now and then cancelled while it runs. Raises Refused, TimeoutError."""
        patience = self.chance.uniform(0.0005, 0.02) if hurry and self.chance.random() < 0.1 else 15.0
        async with asyncio.timeout(patience):
            result = await self.client.call_tool(tool, arguments, raise_on_error=False)
        text = result.content[0].text  # type: ignore[union-attr]  # every tool answers with one text
        reply: dict[str, Any] = json.loads(text)
        if result.is_error:
            raise Refused(reply["code"], text)
        self.bank.told["ok"] += 1
        return reply

    async def transfer(self) -> None:
        self.transfers += 1
        name = f"{self.number}-{self.transfers}"
        source, target = self.chance.sample(range(ACCOUNTS), 2)
        amount = self.chance.randint(1, 50)
        isolation = self.chance.choice([None, "read committed", "repeatable read", "serializable"])
        is_committing, opened = False, ""
        try:
            opened = (await self.ask("begin_transaction", hurry=True, isolation=isolation))["transaction_id"]
            await self._move(opened, name, source, target, amount)
            end = self.chance.random()
            if end < 0.03:
                self.bank.refused.add(name)
                return  # and never comes back to it
            if end < 0.1:
                self.bank.refused.add(name)
                await self.ask("rollback_transaction", transaction_id=opened)
                return
            is_committing = True
            await self.ask("commit_transaction", hurry=True, transaction_id=opened)
            self.bank.acknowledged.add(name)
        except (Refused, TimeoutError) as exc:
            # A commit whose answer is missing may have lasted; one that was refused has not.
            if not is_committing or (isinstance(exc, Refused) and exc.code != "OUTCOME_UNKNOWN"):
                self.bank.refused.add(name)
            if opened and not is_committing and self.chance.random() < 0.9:
                await self._give_up(opened)
            raise

    async def _give_up(self, opened: str) -> None:
        try:
            await self.ask("rollback_transaction", transaction_id=opened)
        except Refused as exc:
            if exc.code != "EXPIRED":  # it may have ended by itself
                raise

    async def _move(self, opened: str, name: str, source: int, target: int, amount: int) -> None:
        entry = {"id": name, "source": source, "target": target, "amount": amount}
        await self.ask(
            "execute_statement",
            sql="INSERT INTO ledger VALUES (:id, :source, :target, :amount)",
            params=entry,
            transaction_id=opened,
        )
        if self.chance.random() < 0.2:
            # Twice would be wrong: undone down to a savepoint.
            kept = (await self.ask("begin_transaction", transaction_id=opened))["savepoint"]
            await self._add(opened, source, -amount)
            await self.ask("rollback_transaction", transaction_id=opened, savepoint=kept)
        await self._add(opened, source, -amount, hurry=True)
        if self.chance.random() < 0.04:
            await self.ask(
                "preview_statement",
                sql="UPDATE accounts SET balance = balance + 1 WHERE id >= 0",
                transaction_id=opened,
            )
        await self._add(opened, target, amount)

    async def _add(self, opened: str, account: int, amount: int, *, hurry: bool = False) -> None:
        done = await self.ask(
            "execute_statement",
            hurry=hurry,
            sql="UPDATE accounts SET balance = balance + :amount WHERE id = :id",
            params={"amount": amount, "id": account},
            transaction_id=opened,
        )
        assert done["affected"] == 1

    async def count(self) -> None:
        """One write of its own, previewed and confirmed now and then."""
        sql, params = "UPDATE counters SET n = n + 1 WHERE id = :id", {"id": self.number}
        confirm: dict[str, str] = {}
        if self.chance.random() < 0.5:
            seen = await self.ask("preview_statement", sql=sql, params=params)
            assert seen["affected"] == 1
            confirm = {"confirm": seen["confirm"]}
        try:
            await self.ask("execute_statement", hurry=True, sql=sql, params=params, **confirm)
        except TimeoutError:
            self.bank.doubtful[self.number] += 1
            raise
        except Refused as exc:
            self.bank.doubtful[self.number] += exc.code == "OUTCOME_UNKNOWN"
            raise
        self.bank.counted[self.number] += 1

    async def look(self) -> None:
        """The sum, which is the same at every moment."""
        reply = await self.ask("execute_query", hurry=True, sql="SELECT sum(balance) FROM accounts")
        assert int(reply["rows"][0][0]) == ACCOUNTS * START

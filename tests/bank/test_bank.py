"""The bank, for a few seconds on each database; `python -m tests.bank` lets it run for longer."""

from tests.bank.bank import Bank

CLIENTS = 16
SECONDS = 3.0


async def test_sixteen_clients_lose_no_money_and_leave_nothing_open(database_url: str) -> None:
    seed = 20
    bank = await Bank.of(database_url, seed)
    print(f"\nseed {seed}")  # noqa: T201
    await bank.run(CLIENTS, SECONDS)
    print(dict(bank.told), f"{len(bank.acknowledged)} transfers")  # noqa: T201
    assert bank.acknowledged

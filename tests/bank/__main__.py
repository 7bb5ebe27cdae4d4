"""`python -m tests.bank --seconds 20`: the bank on each database, with what its clients were told."""

import argparse
import asyncio
import os
import secrets

from tests.bank.bank import Bank
from tests.conftest import Databases
from tests.servers import BACKENDS


async def main(clients: int, seconds: float, seed: int) -> None:
    async with Databases(os.environ) as databases:
        for backend in BACKENDS:
            async with databases.temporary(backend) as url:
                bank = await Bank.of(url, seed)
                await bank.run(clients, seconds)
                told = ", ".join(f"{count} {code}" for code, count in bank.told.most_common())
                print(f"{backend}: {len(bank.acknowledged)} transfers, {sum(bank.counted.values())} counts; {told}")  # noqa: T201


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--clients", type=int, default=16)
parser.add_argument("--seconds", type=float, default=20)
parser.add_argument("--seed", type=int, default=secrets.randbelow(10_000))
given = parser.parse_args()
print(f"seed {given.seed}")  # noqa: T201
asyncio.run(main(given.clients, given.seconds, given.seed))

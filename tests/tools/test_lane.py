"""What the tools promise, asked through the fast lane: the tests of other modules, whose servers stand behind a stream.

Over the stream calls of the core tools are taken by the lane; in memory, as those modules ask, FastMCP sees them all.
"""

from collections.abc import AsyncGenerator

import pytest

from tests import test_secrets
from tests.lanes import through
from tests.test_secrets import *  # noqa: F403 - the tests
from tests.tools import Desk, test_open_transactions, test_queries, test_server
from tests.tools.test_open_transactions import *  # noqa: F403
from tests.tools.test_queries import *  # noqa: F403
from tests.tools.test_server import *  # noqa: F403

# It sends half a character, which is no JSON over a stream.
del test_bound_values_stay_out_of_what_a_database_says_about_them  # noqa: F821 - it was imported


@pytest.fixture(autouse=True)
def streams(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (test_secrets, test_open_transactions, test_queries, test_server):
        monkeypatch.setattr(module, "serving", through)


@pytest.fixture
async def desk(file_url: str, mode: str) -> AsyncGenerator[Desk]:
    async with through(mode, url=file_url) as desk:
        yield desk

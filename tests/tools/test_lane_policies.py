"""Masks and hidden tables, asked for through the fast lane; see test_lane."""

import pytest

from tests.lanes import through
from tests.tools import test_policies
from tests.tools.test_policies import *  # noqa: F403 - the tests


@pytest.fixture(autouse=True)
def streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_policies, "serving", through)

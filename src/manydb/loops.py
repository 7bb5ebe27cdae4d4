"""The event loop that everything runs in: uvloop's, where it is installed (`manydb[fast]`), else asyncio's."""

import asyncio
import os
from collections.abc import Callable, Coroutine
from importlib.util import find_spec
from typing import Any, TypeVar

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """As `asyncio.run`."""
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    # uvloop aborts the process where a standard file is closed.
    if find_spec("uvloop") and all(map(_is_open, range(3))):
        import uvloop  # noqa: PLC0415

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(work)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True

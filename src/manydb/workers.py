"""Several processes behind one port: the one above accepts connections, and workers take turns to serve them.

Workers are started anew, not forked, for they have threads and event loops, and are replaced when they end. Each has
its own engines, pools and caches, and holds what it hands out: see the relay. Sharing the listening socket would be
simpler, but then a worker that is awake takes connections before the others wake, and keeps them.
"""

import asyncio
import gc
import itertools
import logging
import multiprocessing
import signal
import socket
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from manydb import listening, logs
from manydb.errors import Internal, ManydbError, SettingsError
from manydb.listening import Handed
from manydb.settings import Settings

_log = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_STOP_SECONDS = 1.5
"""How long workers may take to end; within 2 s nothing is left of them."""
_FIRST_WAIT_SECONDS = 0.1
_LONGEST_WAIT_SECONDS = 10.0
_STEADY_SECONDS = 60.0
"""A worker that ends sooner doubles the wait for the next."""


async def serve(settings: Settings) -> None:
    """Serve over HTTP with `settings.workers` processes, until a signal comes. Raises SettingsError and Internal."""
    if sys.platform == "win32":
        raise SettingsError(f"{settings.place('workers')}: Windows hands no sockets on; one process serves there")
    listening.require_private_address(settings)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, stop.set)
    with ExitStack() as stack:
        sockets = [stack.enter_context(each) for each in listening.sockets(settings.host, settings.port)]
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="manydb_")))  # for nobody but its owner
        paths = [str(folder / str(number)) for number in range(settings.workers)]
        private = [stack.enter_context(listening.private_socket(path)) for path in paths]
        async with _working([_Worker(settings, *each, paths) for each in enumerate(private)]) as workers:
            if not await _before(stop, asyncio.gather(*(worker.starts() for worker in workers))):
                return
            with _shared_out(sockets, workers):
                listening.say(settings, sockets)
                await _before(stop, asyncio.gather(*(worker.stays() for worker in workers)))


@contextmanager
def _shared_out(sockets: Sequence[socket.socket], workers: Sequence["_Worker"]) -> Iterator[None]:
    """Hand every connection that comes to the worker whose turn it is, of those that serve."""
    loop = asyncio.get_running_loop()
    turns = itertools.cycle(workers)

    def accept(listener: socket.socket) -> None:
        with suppress(OSError), listener.accept()[0] as connection:  # the client may have left already
            any(worker.takes(connection) for worker in itertools.islice(turns, len(workers)))

    for each in sockets:
        each.settimeout(0)
        loop.add_reader(each, accept, each)
    try:
        yield
    finally:
        for each in sockets:
            loop.remove_reader(each)


async def _before(stop: asyncio.Event, work: "asyncio.Future[Any]") -> bool:
    """Whether *work* was done before *stop*, which ends it; raises what it raises."""
    stopped: asyncio.Future[Any] = asyncio.ensure_future(stop.wait())
    await asyncio.wait({stopped, work}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if work.done():
        await work
        return True
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    return False


@asynccontextmanager
async def _working(workers: list["_Worker"]) -> AsyncGenerator[list["_Worker"]]:
    """All of them started, and ended in the end."""
    try:
        for worker in workers:
            worker.start()
        yield workers
    finally:
        for worker in workers:
            worker.process.terminate()
        await asyncio.wait([asyncio.ensure_future(worker.ended()) for worker in workers], timeout=_STOP_SECONDS)
        for worker in workers:
            worker.close()


@dataclass(eq=False)
class _Worker:
    settings: Settings
    number: int
    private: socket.socket
    """Where the other workers reach it; all of these are at *paths*."""
    paths: Sequence[str]
    clock: Callable[[], float] = time.monotonic
    process: SpawnProcess = field(init=False)
    _serves: bool = False
    _end: socket.socket = field(init=False)
    """What connections are handed through."""
    _words: Connection = field(init=False)
    """What the process says of its start: an empty word where it serves, else why not."""

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._words, word = context.Pipe(duplex=False)
        self._end, end = socket.socketpair()
        self._end.settimeout(0)
        arguments = (self.settings, self.number, end, self.private, self.paths, word)
        # A daemon, so that an end that nobody foresaw does not leave it behind.
        self.process = context.Process(target=work, args=arguments, name=f"manydb-{self.number}", daemon=True)
        with end, word:
            self.process.start()

    async def starts(self) -> None:
        """Return when it serves. Raises why it does not: SettingsError, or Internal."""
        await _readable(self._words.fileno())
        try:
            why = self._words.recv()
        except EOFError:
            code = await self.ended()
            raise Internal(f"worker {self.number} ended with {code} before it served") from None
        if why:
            raise SettingsError(why)
        self._serves = True

    def takes(self, connection: socket.socket) -> bool:
        """Whether it serves *connection* from now on."""
        return self._serves and listening.hand(connection, self._end)

    async def ended(self) -> int:
        """Its exit code, once there is one."""
        await _readable(self.process.sentinel)
        self._serves = False
        self.process.join()
        return self.process.exitcode or 0

    async def stays(self) -> None:
        """Put another in its place whenever it ends."""
        wait = _FIRST_WAIT_SECONDS
        while True:
            started = self.clock()
            code = await self.ended()
            wait = _FIRST_WAIT_SECONDS if self.clock() - started > _STEADY_SECONDS else wait
            told = "worker %d ended with %d, and what it held is lost; another takes its place in %.1f s"
            _log.error(told, self.number, code, wait)
            await asyncio.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT_SECONDS)
            self.close()
            self.start()
            with suppress(ManydbError):  # it has ended then
                await self.starts()

    def close(self) -> None:
        """Leave nothing of it."""
        self.process.kill()
        self.process.join()
        self.process.close()
        self._words.close()
        self._end.close()


async def _readable(file: int) -> None:
    loop, there = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(file, there.set)
    try:
        await there.wait()
    finally:
        loop.remove_reader(file)


# -- in the new process ----------------------------------------------------------------------------------------------


def work(
    settings: Settings, number: int, end: socket.socket, private: socket.socket, paths: Sequence[str], word: Connection
) -> None:
    """Serve what comes through *end*, until a signal comes or the process above is gone; see `_Worker`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal, which sends it to all: the one above sends SIGTERM
    gc.disable()  # importing makes no garbage
    logs.to_stderr(settings)
    from manydb import relay, transports  # noqa: PLC0415 - the process above needs neither, nor the second they take
    from manydb.server import build_server  # noqa: PLC0415

    gone: int = multiprocessing.parent_process().sentinel  # type: ignore[union-attr]  # there is one
    own = settings.marked(relay.mark(number))
    try:
        server = build_server(own, local=False)
        gc.freeze()
        gc.enable()
        sockets = [Handed(fileno=end.detach()), private]
        ready = partial(word.send, "")
        # In asyncio's own loop: uvloop would accept connections by itself, and not as `Handed` does.
        asyncio.run(transports.serve_share(server, own, sockets, number, paths, ready, gone))
    except ManydbError as exc:
        word.send(exc.message)
        sys.exit(1)

"""Links that can fail: TCP proxies on this machine that cut, delay and garble what goes through them.

What a real link does to bytes, its ends must be able to notice, or no program could stand it. So bytes are garbled only
where they are checked: MQTT's run under TLS, and JSON-RPC's are overwritten with bytes that no JSON text can hold.
PostgreSQL's protocol is plain text here (in production it runs under TLS) and has no checksum: garbled bytes would be
values that nobody wrote, and the fault would be the test's. So its links are cut, also in the middle of a message, and
delayed, but never garbled.

The tests' proxy (`tests.support.trouble.postgres_proxy`) knows PostgreSQL's protocol, and fails at a chosen request.
"""

import asyncio
import contextlib
import random
import threading
from collections.abc import Iterable, Iterator
from typing import Final, Literal

CHUNK_BYTES: Final = 65_536
NEVER_JSON: Final = b"\xff" * 8  # not UTF-8, so in no JSON text
TIMEOUT_S: Final = 10.0

Trouble = Literal["cut", "torn", "silent", "garbled"]
"""cut: all connections are dropped, and new ones too. torn: each connection goes on until its next chunk, of which half
arrives, and is dropped then. silent: bytes stop, connections stay. garbled: a stretch of some chunks is overwritten."""


class Links:
    """All proxies of one process, on a thread of their own. A context manager."""

    def __init__(self) -> None:
        """No links yet."""
        self._links: list[Link] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="links", daemon=True)
        self._thread.start()

    def add(self, target_port: int, *, garbage: bytes = NEVER_JSON, chance: random.Random | None = None) -> "Link":
        """A link to a port of this machine; `garbage` is what overwrites bytes when it garbles."""
        link = Link(target_port, loop=self._loop, garbage=garbage, chance=chance or random.Random())  # noqa: S311
        link.port = asyncio.run_coroutine_threadsafe(link.listen(), self._loop).result(TIMEOUT_S)
        self._links.append(link)
        return link

    def close(self) -> None:
        """Drop every connection and end the thread."""
        asyncio.run_coroutine_threadsafe(_end(self._links), self._loop).result(TIMEOUT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(TIMEOUT_S)
        self._loop.close()


async def _end(links: Iterable["Link"]) -> None:
    for link in links:
        link.deafen()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.sleep(0)  # dropped connections are closed by the loop's next round


class Link:
    """One proxy. Its `port` is where to connect; what it does to bytes may be changed at any time, from any thread."""

    def __init__(
        self, target_port: int, *, loop: asyncio.AbstractEventLoop, garbage: bytes, chance: random.Random
    ) -> None:
        """Made by `Links.add`."""
        self.port = 0
        self._target_port = target_port
        self._failovers = 0
        self._loop = loop
        self._garbage = garbage
        self._chance = chance
        self._trouble: Trouble | None = None
        self._delay_s = 0.0
        self._ended = asyncio.Event()
        self._open: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def listen(self) -> int:
        """Accept connections; the port."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def deafen(self) -> None:
        """Accept no more connections. On the loop's thread."""
        if self._server is not None:
            self._server.close()

    @contextlib.contextmanager
    def trouble(self, trouble: Trouble) -> Iterator[None]:
        """Let it fail in this way for the length of a block; of two blocks at once, the later decides."""
        self._loop.call_soon_threadsafe(self._set, trouble)
        try:
            yield
        finally:
            self._loop.call_soon_threadsafe(self._set, None)

    def fail_over(self, target_port: int) -> None:
        """Let new connections lead to another port. Those that are open fall silent for good: nobody is told."""
        asyncio.run_coroutine_threadsafe(self._fail_over(target_port), self._loop).result(TIMEOUT_S)

    async def _fail_over(self, target_port: int) -> None:
        self._failovers += 1
        self._target_port = target_port

    @contextlib.contextmanager
    def slow(self, delay_s: float) -> Iterator[None]:
        """Hold up every chunk, in both directions, for the length of a block."""
        self._delay_s = delay_s
        try:
            yield
        finally:
            self._delay_s = 0.0

    def _set(self, trouble: Trouble | None) -> None:
        self._trouble = trouble
        self._ended.set()
        self._ended = asyncio.Event()
        if trouble == "cut":
            for writer in list(self._open):
                writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        ends = [writer]
        try:
            if self._trouble == "cut":
                return
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
            ends.append(far_writer)
            self._open.add(far_writer)
            before = self._failovers
            await asyncio.gather(self._carry(reader, far_writer, before), self._carry(far_reader, writer, before))
        except OSError:
            pass  # the target is away, or an end has gone: so is the connection
        finally:
            for end in ends:
                self._open.discard(end)
                end.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, failovers: int) -> None:
        """Carry bytes one way until that end says no more. Raises OSError when the connection is dropped."""
        while True:
            chunk = await reader.read(CHUNK_BYTES)
            if self._failovers > failovers:
                await asyncio.Event().wait()  # even of its end nobody hears
            if not chunk:
                break
            if self._delay_s:
                await asyncio.sleep(self._delay_s)
            while self._trouble == "silent":
                await self._ended.wait()
            if self._trouble == "garbled" and self._chance.random() < 0.5:  # noqa: PLR2004
                chunk = self._garble(chunk)
            if self._trouble == "torn":
                writer.write(chunk[: len(chunk) // 2])
                await writer.drain()
                raise ConnectionResetError
            writer.write(chunk)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

    def _garble(self, chunk: bytes) -> bytes:
        start = self._chance.randrange(len(chunk))
        return chunk[:start] + self._garbage[: len(chunk) - start] + chunk[start + len(self._garbage) :]

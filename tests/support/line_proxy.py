"""A TCP line that can be cut or held up at any moment, in a thread of its own."""

import asyncio
import threading
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

_CHUNK: Final = 65536
_SECONDS: Final = 10.0


class LineProxy:
    """Passes bytes between its own port and ``host:port``; several clients at once.

    Args:
        host: Where the server is.
        port: Its port.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="line-proxy")
        self._writers: set[asyncio.StreamWriter] = set()
        self._flowing = asyncio.Event()
        self._server: asyncio.Server
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(_SECONDS)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_SECONDS)
        self._loop.close()

    def cut(self) -> None:
        """Break every line, as a router that loses its table does; new ones may be made."""
        self._loop.call_soon_threadsafe(self._cut)

    def hold(self) -> None:
        """Pass nothing on until :meth:`release`; lines stay open."""
        self._loop.call_soon_threadsafe(self._flowing.clear)

    def release(self) -> None:
        """Pass on what was held, and go on."""
        self._loop.call_soon_threadsafe(self._flowing.set)

    async def _open(self) -> None:
        self._flowing.set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        self._server.close()
        self._flowing.set()
        self._cut()
        mine = asyncio.current_task()
        await asyncio.gather(
            *(task for task in asyncio.all_tasks() if task is not mine), return_exceptions=True
        )

    def _cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            from_server, to_server = await asyncio.open_connection(*self._target)
        except OSError:  # the server is away: so are we
            writer.transport.abort()
            return
        ends = {writer, to_server}
        self._writers |= ends
        try:
            await asyncio.gather(self._pass(reader, to_server), self._pass(from_server, writer))
        finally:
            self._writers -= ends

    async def _pass(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while chunk := await source.read(_CHUNK):
                await self._flowing.wait()
                target.write(chunk)
                await target.drain()
        target.transport.abort() if target.is_closing() else target.close()

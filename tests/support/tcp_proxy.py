"""A TCP line that can be cut between a request and its answer."""

import asyncio
from types import TracebackType
from typing import Self


class CuttingProxy:
    """Passes bytes on to ``host:port``, until it is told where to cut.

    After ``cut_after(request)`` the next chunk from a client that holds those bytes is still passed
    on; when the server has answered, the line is cut instead of passing the answer back.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._request: bytes | None = None
        self._server: asyncio.Server | None = None
        self._lines: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        for line in self._lines:
            line.close()
        await self._server.wait_closed()

    @property
    def port(self) -> int:
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def has_cut(self) -> bool:
        return self._request is None

    def cut_after(self, request: bytes) -> None:
        self._request = request

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection(*self._target)
        lines = {writer, to_server}
        self._lines |= lines
        cutting = asyncio.Event()

        async def requests() -> None:
            while chunk := await reader.read(65536):
                if self._request is not None and self._request in chunk:
                    self._request = None
                    cutting.set()
                to_server.write(chunk)

        async def answers() -> None:
            while chunk := await from_server.read(65536):
                if cutting.is_set():
                    return
                writer.write(chunk)

        tasks = [asyncio.create_task(requests()), asyncio.create_task(answers())]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for line in lines:
            line.close()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._lines -= lines

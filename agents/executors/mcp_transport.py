"""Ways to an MCP server that note whether a call has left this process.

The MCP client tells a caller that the connection is closed, but not whether that was before or
after its request went out, which decides whether an effect may be tried again. And it ends every
call of a connection when one request cannot be sent. So requests are watched where they go out: in
the writer of a process' standard input, in the transport of HTTP. Both run in the context of the
call that a request belongs to, which :data:`CURRENT` carries.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import httpx2
import structlog
from mcp import StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CONNECTION_CLOSED

from agents.runtime.catalogue import McpEndpoint, McpProcess
from agents.runtime.context import Services
from agents.runtime.revealed import KNOWN

_CONNECT_SECONDS: Final = 5.0
_READ_SECONDS: Final = 300.0
_NEVER_SENT: Final = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
_LONGEST_LINE: Final = 2000

_log = structlog.get_logger(__name__)


@dataclass
class Sending:
    """What is known of a call on its way out."""

    was_sent: bool = False


CURRENT: Final[ContextVar[Sending | None]] = ContextVar("mcp_sending", default=None)
"""The call in whose context something is sent."""


@asynccontextmanager
async def open_transport(
    name: str, declared: McpProcess | McpEndpoint, services: Services
) -> AsyncIterator[tuple[Any, Any]]:
    """The streams to an MCP server, for the MCP client; secrets are filled in.

    Raises:
        NoSecretError: A secret that the connection names is nowhere.
        OSError: The process cannot be started.
    """
    async with AsyncExitStack() as stack:
        if isinstance(declared, McpEndpoint):
            headers = {
                header: await services.fill_in(text) for header, text in declared.headers.items()
            }
            client = await stack.enter_async_context(
                httpx2.AsyncClient(
                    transport=_WatchedTransport(trust_env=False),
                    headers=headers,
                    timeout=httpx2.Timeout(_READ_SECONDS, connect=_CONNECT_SECONDS),
                    trust_env=False,
                )
            )
            url = await services.fill_in(declared.url)
            yield await stack.enter_async_context(streamable_http_client(url, http_client=client))
            return
        program, *arguments = [await services.fill_in(text) for text in declared.command]
        parameters = StdioServerParameters(
            command=program,
            args=arguments,
            env={key: await services.fill_in(text) for key, text in declared.env.items()},
        )
        errlog = await stack.enter_async_context(_logged(name))
        read, write = await stack.enter_async_context(stdio_client(parameters, errlog=errlog))
        yield read, _WatchedWriter(write)


class _WatchedTransport(httpx2.AsyncHTTPTransport):
    """HTTP that answers for a server that cannot be reached, instead of ending all calls."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        sending = CURRENT.get()
        if sending is None:
            return await super().handle_async_request(request)
        was_sent, sending.was_sent = sending.was_sent, True
        try:
            return await super().handle_async_request(request)
        except _NEVER_SENT as error:
            sending.was_sent = was_sent
            return _failure(request, error)
        except httpx2.HTTPError as error:
            return _failure(request, error)


def _failure(request: httpx2.Request, error: httpx2.HTTPError) -> httpx2.Response:
    said = KNOWN.text(f"{type(error).__name__}: {error}")
    answer = {
        "jsonrpc": "2.0",
        "id": None,
        "error": {"code": CONNECTION_CLOSED, "message": said},
    }
    return httpx2.Response(503, json=answer, request=request)


class _WatchedWriter:
    """The stream of messages to a process."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    async def send(self, item: Any, /) -> None:
        """Pass a message on; from then on it may have arrived."""
        if (sending := CURRENT.get()) is not None:
            sending.was_sent = True
        await self._inner.send(item)

    async def aclose(self) -> None:
        """Close the stream."""
        await self._inner.aclose()

    async def __aenter__(self) -> Self:
        await self._inner.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        left: bool | None = await self._inner.__aexit__(kind, error, trace)
        return left


@asynccontextmanager
async def _logged(name: str) -> AsyncIterator[Any]:
    """A file for what a process writes to its standard error; its lines become lines of our log."""
    reading, writing = os.pipe()
    reader = asyncio.StreamReader(limit=2**16)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(reading, "rb")
    )

    async def say() -> None:
        while True:
            try:
                line = await reader.readline()
            except ValueError:  # a line beyond the limit; the reader has dropped it
                continue
            if not line:
                return
            text = line.decode(errors="replace").rstrip()
            _log.debug("mcp_server_said", server=name, line=KNOWN.text(text)[:_LONGEST_LINE])

    saying = asyncio.create_task(say(), name=f"mcp-stderr-{name}")
    try:
        with os.fdopen(writing, "w") as file:
            yield file
    finally:
        transport.close()
        saying.cancel()

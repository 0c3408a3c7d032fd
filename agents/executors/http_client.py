"""One HTTP request, with limits, and with every way it can fail named by what it means.

What httpx raises becomes an error of the tree: nothing was sent (``NotSentError``), it was refused
(``TransientError``, ``PermanentError``), or nobody knows (``OutcomeUnknownError``).
"""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

import httpx

from agents.executors.http_messages import Redirect, Request, Response, redirected
from agents.executors.network_guard import GuardedTransport, NetworkGuard
from agents.runtime.context import Context, Services
from agents.runtime.errors import (
    ErrorCode,
    NotSentError,
    OutcomeUnknownError,
    PermanentError,
    TransientError,
)
from agents.runtime.outcomes import UnusableAnswerError, sayable
from agents.runtime.revealed import KNOWN
from agents.runtime.running import without_effect

MAX_RESPONSE: Final = 1024 * 1024
"""Bytes of a response's body, decompressed, that are read at most."""

_MAX_QUOTE: Final = 300
_CONNECT_TIMEOUT: Final = 5.0
_IDLE_CONNECTION: Final = 15.0
_PER_HOST: Final = 20
_DELAY_SECONDS: Final = re.compile(r"\d{1,9}", re.ASCII)

_NOT_SENT: Final = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
)
_NEVER_SENDABLE: Final = (httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.InvalidURL)


class HttpClient:
    """Sends requests, to each host through its circuit breaker and at most so many at a time.

    The queue before the connections is ours, and first come, first served: that of httpx hands an
    idle connection to every waiting request at once, at a cost that grows with the square of their
    number, so that some wait for as long as their step may take without having been sent.
    """

    def __init__(self, client: httpx.AsyncClient, guard: NetworkGuard) -> None:
        self._client = client
        self._guard = guard
        self._gates: dict[str, asyncio.Semaphore] = {}

    async def send(self, request: Request, ctx: Context) -> Response:
        """Send ``request`` and read its answer, and that of where it redirects to.

        Raises:
            BreakerOpenError: The host is left alone for a while; nothing was sent.
            NotSentError: No connection to the host came free in time.
            ForbiddenHostError: The host, or one that it redirects to, must not be reached.
            MillstreamError: As :func:`send`.
        """
        answer = await self._send(request, ctx)
        while isinstance(answer, Redirect):
            request = redirected(request, answer.location, self._guard)
            try:
                answer = await self._send(request, ctx)
            except asyncio.CancelledError as error:
                # This request may not have been sent, but the first one was answered.
                raise asyncio.CancelledError from error
        return answer

    async def _send(self, request: Request, ctx: Context) -> Response | Redirect:
        parts = urlsplit(request.url)
        host = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        gate = self._gates.setdefault(host, asyncio.Semaphore(_PER_HOST))
        try:
            with without_effect():
                async with asyncio.timeout(connect_timeout(request)):
                    await gate.acquire()
        except TimeoutError:
            raise NotSentError(
                f"{request.target}: {_PER_HOST} calls to {host} are under way, and none has ended"
            ) from None
        try:
            breaker = ctx.services.breakers.of(KNOWN.text(host))
            return await breaker.call(lambda: send(self._client, request, now=ctx.now()))
        finally:
            gate.release()


@asynccontextmanager
async def open_client(services: Services) -> AsyncIterator[HttpClient]:
    """A pool of connections to hosts that the catalogue lets calls reach."""
    hosts = services.catalogue.private_hosts
    guard = NetworkGuard(hosts, await services.values(list(hosts)))
    # Who asks has passed a gate, so the pool itself needs no bound.
    limits = httpx.Limits(max_connections=None, keepalive_expiry=_IDLE_CONNECTION)
    transport = GuardedTransport(guard, limits)
    async with httpx.AsyncClient(transport=transport, trust_env=False) as client:
        yield HttpClient(client, guard)


def connect_timeout(request: Request) -> float:
    """Seconds that a request may wait for a place or a connection, which leaves time to send it."""
    return min(_CONNECT_TIMEOUT, request.timeout / 2)


async def send(
    client: httpx.AsyncClient, request: Request, *, now: datetime
) -> Response | Redirect:
    """Send ``request`` and read its answer, which is a redirect only where the request follows one.

    Args:
        client: See :func:`open_client`.
        request: What to send.
        now: The moment, against which a ``Retry-After`` date is read.

    Raises:
        NotSentError: No connection came about.
        TransientError: The answer was 429 or 503, with what ``Retry-After`` says.
        OutcomeUnknownError: The connection broke or fell silent after sending, or a gateway gave
            up on the service behind it (502, 504).
        PermanentError: Any other unexpected status, or the request cannot be sent at all.
        UnusableAnswerError: The answer was expected but is too large or garbled.
    """
    target = request.target
    connecting = connect_timeout(request)
    timeout = httpx.Timeout(request.timeout, connect=connecting, pool=connecting)
    try:
        outgoing = client.build_request(
            request.method,
            request.url,
            headers=dict(request.headers),
            content=request.body,
            timeout=timeout,
        )
        response = await client.send(outgoing, stream=True)
    except _NOT_SENT as error:
        raise NotSentError(f"{target}: {_say(error)}") from error
    except (*_NEVER_SENDABLE, UnicodeError) as error:
        raise PermanentError(
            f"{target} cannot be sent: {_say(error)}", code="invalid_parameters"
        ) from error
    except httpx.HTTPError as error:
        raise OutcomeUnknownError(f"{target}: {_say(error)} after it was sent") from error
    try:
        if request.is_expected(response.status_code):
            return Response(response.status_code, await _read_all(response, target))
        if request.redirects and (location := _location(response)) is not None:
            return Redirect(location)
        quote = await _read_quote(response)
    finally:
        await response.aclose()
    raise _refusal(response, f"{target} was answered with {response.status_code}{quote}", now)


def _location(response: httpx.Response) -> str | None:
    """Where a redirect leads, if the answer is one."""
    return response.headers["location"] if response.has_redirect_location else None


def retry_after(value: str | None, *, now: datetime) -> float | None:
    """Seconds that a ``Retry-After`` field asks for, in either form of RFC 9110, section 10.2.3.

    ``None`` where there is no such field, or it says nothing that can be read.
    """
    if value is None:
        return None
    if _DELAY_SECONDS.fullmatch(value.strip()):
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max((moment - now).total_seconds(), 0.0)


async def _read_all(response: httpx.Response, target: str) -> bytes:
    body = bytearray()
    try:
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > MAX_RESPONSE:
                raise UnusableAnswerError(
                    f"{target} was answered with more than {MAX_RESPONSE} bytes",
                    code="message_too_large",
                )
    except httpx.HTTPError as error:
        raise UnusableAnswerError(
            f"{target} was answered with {response.status_code}, but then: {_say(error)}",
            code="transient",
        ) from error
    return bytes(body)


async def _read_quote(response: httpx.Response) -> str:
    """The beginning of a refusal's body as it ends a sentence; the status counts without it."""
    body = bytearray()
    try:
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > _MAX_QUOTE * 4:
                break
    except httpx.HTTPError as error:
        return f" ({_say(error)} in the middle of it)"
    text = KNOWN.text(body.decode(errors="replace")).strip()
    return f": {' '.join(sayable(text).split())[:_MAX_QUOTE]}" if text else ""


def _refusal(
    response: httpx.Response, reason: str, now: datetime
) -> PermanentError | TransientError | OutcomeUnknownError:
    match response.status_code:
        case HTTPStatus.TOO_MANY_REQUESTS | HTTPStatus.SERVICE_UNAVAILABLE:
            asked = retry_after(response.headers.get("Retry-After"), now=now)
            limited = response.status_code == HTTPStatus.TOO_MANY_REQUESTS
            code: ErrorCode = "rate_limited" if limited else "unexpected_status"
            return TransientError(reason, retry_after=asked, code=code)
        case HTTPStatus.BAD_GATEWAY | HTTPStatus.GATEWAY_TIMEOUT:
            return OutcomeUnknownError(reason, code="unexpected_status")
        case _:
            return PermanentError(reason, code="unexpected_status")


def _say(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__

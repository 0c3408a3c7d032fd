"""The port that an orchestrator and Prometheus look at: ``/livez``, ``/readyz``, ``/metrics``.

``/livez`` says whether the process should be left alone: who can answer has a living event loop,
and the watchdog has found nothing that hangs. ``/readyz`` says whether the process does its work,
and which check fails if it does not (paths as Kubernetes' own components have them).
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web

from agents.runtime.errors import ConfigurationError
from agents.runtime.metrics import Metrics
from agents.runtime.redaction import redacted

Check = Callable[[], Awaitable[str | None]]
"""Returns what is wrong, in a few words, or ``None``."""

_PING_SECONDS: Final = 1.0
_STOP_SECONDS: Final = 1.0


class Ping:
    """Asks a server for a sign of life, and waits for no more than a moment.

    A question that is not answered in time stays the only one: a server that hangs is not asked
    again and again. It is not cancelled either, as the driver would wait for that answer, too.

    Args:
        ask: Returns when the server has answered; raises where it cannot be asked.
        timeout: Seconds to wait.
    """

    def __init__(self, ask: Callable[[], Awaitable[None]], timeout: float = _PING_SECONDS) -> None:
        self._ask = ask
        self._timeout = timeout
        self._asking: asyncio.Task[None] | None = None

    async def __call__(self) -> str | None:
        """What is wrong, or ``None``."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._wait_for_answer(), name="ping")
        done, _ = await asyncio.wait([self._asking], timeout=self._timeout)
        if not done:
            return f"no answer within {self._timeout:g} s"
        error = self._asking.exception()
        return None if error is None else str(error) or type(error).__name__

    async def _wait_for_answer(self) -> None:
        await self._ask()


@asynccontextmanager
async def serving(
    host: str, port: int, *, metrics: Metrics, live: Check, ready: Mapping[str, Check]
) -> AsyncIterator[int]:
    """Answer on ``host:port`` until the block is left; yields the port.

    Args:
        host: The address to listen on.
        port: 0 for a free one.
        metrics: What ``/metrics`` shows.
        live: What ``/livez`` asks.
        ready: What ``/readyz`` asks, by name; may change meanwhile.

    Raises:
        ConfigurationError: The port cannot be had.
    """
    # Not before somebody wants it: it takes a tenth of a second to load.
    from agents.runtime import exposition  # noqa: PLC0415 - as above

    async def livez(_request: web.Request) -> web.Response:
        return _answer({"live": await live()})

    async def readyz(_request: web.Request) -> web.Response:
        checks = dict(ready)  # more may come while these are asked
        problems = await asyncio.gather(*(check() for check in checks.values()))
        return _answer(dict(zip(checks, problems, strict=True)))

    async def all_metrics(_request: web.Request) -> web.Response:
        body = exposition.exposition(metrics)
        return web.Response(body=body, headers={"Content-Type": exposition.CONTENT_TYPE})

    app = web.Application()
    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", all_metrics)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_STOP_SECONDS)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise ConfigurationError(
                f"the health port {host}:{port} cannot be opened: {error.strerror or error}"
            ) from error
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def _answer(problems: Mapping[str, str | None]) -> web.Response:
    wrong = any(problem is not None for problem in problems.values())
    body = {
        "status": "unavailable" if wrong else "ok",
        "checks": {name: redacted(problem or "ok") for name, problem in problems.items()},
    }
    return web.json_response(body, status=503 if wrong else 200)

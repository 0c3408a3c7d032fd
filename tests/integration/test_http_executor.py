"""The executor ``http`` against the playground, and against servers that behave badly."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from pydantic import JsonValue, ValidationError
from support.clocks import RecordingClock
from support.playgrounds import RunningPlayground, running_playground
from support.steps import Rig, action
from support.waiting import eventually

from agents.executors import SETTINGS_MODELS, http
from agents.executors.http_client import _PER_HOST, MAX_RESPONSE, retry_after
from agents.runtime.catalogue import load_catalogue
from agents.runtime.clock import SystemClock
from agents.runtime.settings import ROOT, Settings
from ops.local import free_port
from schemas import StepResult

pytestmark = pytest.mark.integration

CATALOGUE = load_catalogue(ROOT / "actions.yaml", SETTINGS_MODELS)
CHECKOUT = {"service": "checkout", "environment": "staging"}


@pytest.fixture(scope="module")
def _shared() -> Iterator[RunningPlayground]:
    with running_playground() as running:
        yield running


@pytest.fixture
def playground(_shared: RunningPlayground) -> RunningPlayground:
    """One for all tests of the file, so they look at differences and keys only."""
    return _shared


def rig_at(url: str, action_id: str, **changes: Any) -> Rig:
    """An action of the shipped catalogue, with the playground at ``url``."""
    spec = CATALOGUE.action(action_id).model_copy(update=changes)
    return Rig((spec,), settings=Settings(playground_url=url), clock=RecordingClock())


async def run(rig: Rig, parameters: dict[str, JsonValue] | None = None) -> StepResult:
    assignment = await rig.approved(CHECKOUT if parameters is None else parameters)
    async with rig.hosted(http.call) as handler:
        return await assignment.run(handler)


def ending(result: StepResult) -> tuple[str, str, bool]:
    assert result.failure is not None
    return result.status, result.failure.code, result.failure.retriable


def sleeps(rig: Rig) -> list[int]:
    assert isinstance(rig.clock, RecordingClock)
    return [int(seconds) for seconds in rig.clock.sleeps]


def effects_since(playground: RunningPlayground, seen: int) -> list[dict[str, Any]]:
    calls: list[dict[str, Any]] = playground.get("/calls")["calls"]
    return calls[seen:]


def count(playground: RunningPlayground) -> int:
    return len(playground.get("/calls")["calls"])


# --- the shipped catalogue does its work


async def test_reads_the_outputs_that_the_action_names(playground: RunningPlayground) -> None:
    result = await run(rig_at(playground.url, "service.status"))
    assert result.status == "success"
    assert result.output == {
        name: playground.service("staging", "checkout")[name]
        for name in ("version", "health", "replicas")
    }


async def test_changes_what_it_is_told_to_once(playground: RunningPlayground) -> None:
    seen = count(playground)
    rig = rig_at(playground.url, "service.deploy")
    assignment = await rig.approved({**CHECKOUT, "version": "7.7.7"})
    async with rig.hosted(http.call) as handler:
        first = await assignment.run(handler)
        again = await assignment.run(handler)
    assert first == again
    assert (
        first.output["version"] == playground.service("staging", "checkout")["version"] == "7.7.7"
    )
    (call,) = effects_since(playground, seen)
    assert call["idempotency_key"]


async def test_a_number_goes_out_as_a_number(playground: RunningPlayground) -> None:
    result = await run(rig_at(playground.url, "service.scale"), {**CHECKOUT, "replicas": 4})
    assert (result.status, result.output["replicas"]) == ("success", 4)


async def test_an_answer_without_a_body_is_fine_where_no_output_is_named(
    playground: RunningPlayground,
) -> None:
    target: dict[str, JsonValue] = {"service": "search", "environment": "development"}
    result = await run(rig_at(playground.url, "service.delete"), target)
    assert (result.status, result.output) == ("success", {})
    gone = await run(rig_at(playground.url, "service.status"), target)
    assert ending(gone) == ("failed", "unexpected_status", False)
    assert gone.failure is not None
    assert "no service 'search'" in gone.failure.reason


# --- and when it goes wrong


async def test_a_service_that_is_away_for_a_moment_is_asked_again(
    playground: RunningPlayground,
) -> None:
    playground.fail_next(count=2)
    rig = rig_at(playground.url, "service.status")
    assert (await run(rig)).status == "success"
    assert sleeps(rig) == [1, 2]


async def test_retry_after_is_honoured(playground: RunningPlayground) -> None:
    playground.fail_next(status=429, retry_after=5)
    rig = rig_at(playground.url, "service.status")
    assert (await run(rig)).status == "success"
    assert sleeps(rig)[0] in {5, 6}


@pytest.mark.parametrize(("status", "code"), [(429, "rate_limited"), (503, "unexpected_status")])
async def test_an_effect_that_is_refused_is_left_to_the_router_to_repeat(
    playground: RunningPlayground, status: int, code: str
) -> None:
    seen = count(playground)
    playground.fail_next(status=status, retry_after=9)
    result = await run(rig_at(playground.url, "service.restart"))
    assert ending(result) == ("failed", code, True)
    assert result.failure is not None
    assert result.failure.retry_after == 9
    assert [call["took_effect"] for call in effects_since(playground, seen)] == [False]


@pytest.mark.parametrize("status", [400, 404, 409, 500])
async def test_other_refusals_are_final_and_quote_the_answer(
    playground: RunningPlayground, status: int
) -> None:
    playground.fail_next(status=status)
    result = await run(rig_at(playground.url, "service.restart"))
    assert ending(result) == ("failed", "unexpected_status", False)
    assert result.failure is not None
    assert f"{status}" in result.failure.reason
    assert "told to fail" in result.failure.reason


@pytest.mark.parametrize("status", [502, 504])
async def test_a_gateway_that_gave_up_leaves_an_effect_unknown(
    playground: RunningPlayground, status: int
) -> None:
    playground.fail_next(status=status)
    result = await run(rig_at(playground.url, "service.restart"))
    assert ending(result) == ("unknown", "unexpected_status", False)
    playground.fail_next(status=status)
    assert (await run(rig_at(playground.url, "service.status"))).status == "success"


async def test_a_connection_cut_after_sending_leaves_an_effect_unknown_and_done_once(
    playground: RunningPlayground,
) -> None:
    seen = count(playground)
    playground.fail_next(kind="cut", count=1)
    result = await run(rig_at(playground.url, "service.deploy"), {**CHECKOUT, "version": "8.0.0"})
    assert ending(result) == ("unknown", "effect_unknown", False)
    assert playground.service("staging", "checkout")["version"] == "8.0.0"
    assert len(effects_since(playground, seen)) == 1


async def test_a_connection_cut_is_tried_again_where_that_is_harmless(
    playground: RunningPlayground,
) -> None:
    seen = count(playground)
    playground.fail_next(kind="cut", count=2)
    result = await run(rig_at(playground.url, "service.scale"), {**CHECKOUT, "replicas": 3})
    assert result.status == "success"
    calls = effects_since(playground, seen)
    assert len(calls) == 3
    assert len({call["idempotency_key"] for call in calls}) == 1


async def test_an_answer_that_comes_too_late_leaves_an_effect_unknown(
    playground: RunningPlayground,
) -> None:
    playground.fail_next(kind="slow", delay=30)
    rig = rig_at(playground.url, "service.restart", timeout=0.3)
    assert ending(await run(rig)) == ("unknown", "timeout", False)


async def test_a_cancel_leaves_what_was_sent_unknown_and_what_was_not_undone() -> None:
    asked: list[bytes] = []

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        await reader.read()
        writer.close()

    async with await asyncio.start_server(hear, "127.0.0.1", 0) as server:
        address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        rig = rig_at(address, "service.restart", timeout=600)
        async with rig.hosted(http.call) as handler:
            sent = [await rig.approved(CHECKOUT) for _ in range(_PER_HOST)]
            results = [asyncio.create_task(each.run(handler)) for each in sent]
            await eventually(lambda: len(asked) == _PER_HOST, "all places are taken")
            waiting = await rig.approved(CHECKOUT)
            results.append(asyncio.create_task(waiting.run(handler)))
            await waiting.cancel()
            assert ending(await results.pop()) == ("failed", "cancelled", False)
            for each in sent:
                await each.cancel()
            endings = {ending(result) for result in await asyncio.gather(*results)}
    assert endings == {("unknown", "cancelled", False)}
    assert len(asked) == _PER_HOST


async def test_nobody_listening_means_not_sent_even_for_an_effect() -> None:
    rig = rig_at(f"http://127.0.0.1:{free_port()}", "service.restart")
    result = await run(rig)
    assert ending(result) == ("failed", "not_sent", True)
    assert sleeps(rig) == [1, 2]


async def test_a_service_that_comes_up_meanwhile_is_reached() -> None:
    port = free_port()
    rig = rig_at(f"http://127.0.0.1:{port}", "service.restart")
    rig.clock = SystemClock()
    assignment = await rig.approved(CHECKOUT)
    async with rig.hosted(http.call) as handler:
        task = asyncio.create_task(assignment.run(handler))
        with running_playground("--port", str(port)) as late:
            result = await task
            assert (result.status, late.effects()) == ("success", [1])


# --- servers that behave badly


@asynccontextmanager
async def answering(raw: bytes) -> AsyncIterator[str]:
    """The address of a server that answers every request with these bytes, and then hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(raw)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has heard enough
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        yield f"http://{host}:{port}"


def reply(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


STATUS = b'{"version": "1", "health": "healthy", "replicas": 2}'


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (reply(b"<html>"), "invalid_message"),
        (reply(b'{"version": "1"}'), "invalid_message"),
        (reply(b"[]"), "invalid_message"),
        (reply(b'{"version": NaN}'), "invalid_message"),
        (reply(b"\xff\xfe{}"), "invalid_message"),
        (reply(b"x" * (MAX_RESPONSE + 1)), "message_too_large"),
        (
            reply(gzip.compress(b"x" * (20 * MAX_RESPONSE)), "Content-Encoding: gzip"),
            "message_too_large",
        ),
        (reply(b"no gzip", "Content-Encoding: gzip"), "transient"),
        (reply(STATUS)[:-10], "transient"),
    ],
    ids=str.split("html lacking list nan bytes large gzip_bomb garbled cut_in_the_body"),
)
async def test_an_answer_that_cannot_be_used(raw: bytes, code: str) -> None:
    async with answering(raw) as url:
        assert ending(await run(rig_at(url, "service.status"))) == ("failed", code, False)
        # The service did what it was asked, so an effect must not look as if it had not.
        assert ending(await run(rig_at(url, "service.restart"))) == ("unknown", code, False)


async def test_a_redirect_is_not_followed(playground: RunningPlayground) -> None:
    seen = count(playground)
    location = f"Location: {playground.url}/environments/staging/services/checkout/restart"
    async with answering(reply(b"", location, status="307 Temporary Redirect")) as url:
        result = await run(rig_at(url, "service.restart"))
    assert ending(result) == ("failed", "unexpected_status", False)
    assert effects_since(playground, seen) == []


async def test_what_is_no_http_leaves_an_effect_unknown() -> None:
    async with answering(b"220 mail.example.org ESMTP\r\n") as url:
        assert ending(await run(rig_at(url, "service.restart"))) == (
            "unknown",
            "effect_unknown",
            False,
        )


async def test_a_refusal_is_quoted_without_control_characters_and_not_at_length() -> None:
    body = b"\x1b[31mno\x00\r\n" + b"x" * 100_000
    async with answering(reply(body, status="400 Bad Request")) as url:
        result = await run(rig_at(url, "service.restart"))
    assert result.failure is not None
    assert result.failure.reason.isprintable()
    assert "no x" in result.failure.reason
    assert len(result.failure.reason) < 500


async def test_an_unusual_status_is_a_refusal() -> None:
    async with answering(reply(b"", status="799 What")) as url:
        assert ending(await run(rig_at(url, "service.restart"))) == (
            "failed",
            "unexpected_status",
            False,
        )


# --- what is sent


@asynccontextmanager
async def listening(requests: list[bytes]) -> AsyncIterator[str]:
    """The address of a server that keeps the head and body of each request."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = [line for line in head.lower().split(b"\r\n") if b"content-length" in line]
        body = await reader.readexactly(int(length[0].split(b":")[1])) if length else b""
        requests.append(head + body)
        writer.write(reply(b'{"list": [{"n": 1}, {"n": 2}], "one": {"x": null}}'))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        yield f"http://{host}:{port}"


def custom(address: str, parameters: dict[str, Any], **settings: Any) -> Rig:
    spec = action(
        executor="http",
        parameters=parameters,
        settings={"method": "POST", "url": "${settings.playground_url}/x", **settings},
        outputs=tuple(settings.get("outputs", ())),
    )
    return Rig((spec,), settings=Settings(playground_url=address), clock=RecordingClock())


async def test_a_parameter_stays_inside_its_segment_header_and_body() -> None:
    requests: list[bytes] = []
    evil = 'a/../b?c=d#e&f"{x}${settings.playground_url}'
    async with listening(requests) as url:
        rig = custom(
            url,
            {"p": "string"},
            url="${settings.playground_url}/a/{p}/b?q={p}",
            headers={"X-Note": "note {p}", "Content-Type": "application/vnd.test+json"},
            body={"text": "{p}", "more": ["<{p}>", 1, None]},
        )
        assert (await run(rig, {"p": evil})).status == "success"
    head, _, body = requests[0].decode().partition("\r\n\r\n")
    quoted = "a%2F..%2Fb%3Fc%3Dd%23e%26f%22%7Bx%7D%24%7Bsettings.playground_url%7D"
    assert head.split("\r\n")[0] == f"POST /a/{quoted}/b?q={quoted} HTTP/1.1"
    assert f"x-note: note {evil}" in head
    assert head.count("application/vnd.test+json") == 1
    assert "application/json" in head  # what it accepts
    assert json.loads(body) == {"text": evil, "more": [f"<{evil}>", 1, None]}


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "\x00", "ä", "日本"])
async def test_a_parameter_that_no_header_can_hold_is_refused(value: str) -> None:
    requests: list[bytes] = []
    async with listening(requests) as url:
        rig = custom(url, {"p": "string"}, headers={"X-Note": "{p}"})
        assert ending(await run(rig, {"p": value})) == ("failed", "invalid_parameters", False)
    assert requests == []


async def test_an_optional_parameter_that_is_not_given_is_left_out_of_the_body() -> None:
    requests: list[bytes] = []
    optional = {"type": "string", "description": "A parameter.", "required": False}
    async with listening(requests) as url:
        rig = custom(url, {"p": optional, "q": "integer"}, body={"p": "{p}", "q": "{q}"})
        await run(rig, {"q": 1})
    assert requests[0].endswith(b'\r\n\r\n{"q":1}')


async def test_a_path_that_can_match_several_values_puts_out_a_list() -> None:
    async with listening([]) as url:
        paths = {
            "all": "$.list[*].n",
            "first": "$.list[0].n",
            "none": "$.nothing[*]",
            "deep": "$..n",
            "whole": "$.one",
        }
        result = await run(custom(url, {}, outputs=paths), {})
    assert result.output == {
        "all": [1, 2],
        "first": 1,
        "none": [],
        "deep": [1, 2],
        "whole": {"x": None},
    }


# --- settings


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"method": "FETCH"}, "method"),
        ({"url": "/relative"}, "fixed host"),
        ({"url": "http://{p}/"}, "fixed host"),
        ({"url": "http://host/{typo}"}, "typo, but the action's parameters are p"),
        ({"headers": {"X Note": "1"}}, "no header name"),
        ({"headers": {"idempotency-key": "1"}}, "set by the executor"),
        ({"headers": {"X-Note": "{typo}"}}, "typo"),
        ({"body": {"a": ["{typo}"]}}, "typo"),
        ({"body": "{"}, "write {parameter}"),
        ({"outputs": {"n": "$..["}}, "no JSONPath"),
        ({"outputs": {"m": "$.m"}}, "reads m from the response, but the action's outputs are n"),
        ({"expect": [700]}, "expect"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_wrong_settings_are_found_before_anything_starts(
    wrong: dict[str, Any], complaint: str
) -> None:
    settings = {"method": "GET", "url": "http://host/{p}", "outputs": {"n": "$.n"}} | wrong
    with pytest.raises(ValidationError) as caught:
        http.HttpSettings.model_validate(
            settings, context={"parameters": ("p",), "outputs": ("n",)}
        )
    assert complaint in str(caught.value)


def test_retry_after_is_read_in_both_forms() -> None:
    now = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
    assert retry_after("120", now=now) == 120
    assert retry_after(format_datetime(now + timedelta(seconds=90), usegmt=True), now=now) == 90
    assert retry_after("Fri, 01 May 2026 11:00:00 GMT", now=now) == 0
    assert retry_after("Friday, 01-May-26 12:00:30 GMT", now=now) == 30
    for nothing in (None, "", "soon", "-5", "1.5", "²"):
        assert retry_after(nothing, now=now) is None


async def test_a_host_that_keeps_failing_is_left_alone(playground: RunningPlayground) -> None:
    playground.fail_next(status=503, count=5)
    rig = rig_at(playground.url, "service.restart")
    for _ in range(5):
        assert ending(await run(rig)) == ("failed", "unexpected_status", True)
    seen = count(playground)
    assert ending(await run(rig)) == ("failed", "breaker_open", True)
    assert count(playground) == seen

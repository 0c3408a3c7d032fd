"""The executor ``mcp`` against real MCP servers: a process, and one that is reached by HTTP."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog
from pydantic import JsonValue, ValidationError
from support.clocks import RecordingClock
from support.mcp_servers import HttpMcpServer, noted, process
from support.steps import Rig, action
from support.waiting import eventually

from agents.executors import mcp
from agents.executors.mcp import McpSettings
from ops.local import free_port
from schemas import StepResult

pytestmark = pytest.mark.integration


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "notes"


@pytest.fixture(scope="module")
def _listening(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpMcpServer]:
    with HttpMcpServer(tmp_path_factory.mktemp("mcp") / "notes") as server:
        yield server


@dataclass(frozen=True)
class Reached:
    """A server, and what it has noted since a test began."""

    connection: dict[str, Any]
    notes: Path
    before: int

    def noted(self) -> list[str]:
        return noted(self.notes)[self.before :]


@pytest.fixture(params=["stdio", "http"])
def server(request: pytest.FixtureRequest, notes: Path) -> Reached:
    """Each way to a server in turn; the one that listens is shared by all tests of the file."""
    if request.param == "stdio":
        return Reached(process(notes), notes, 0)
    shared: HttpMcpServer = request.getfixturevalue("_listening")
    return Reached(shared.connection, shared.notes, len(noted(shared.notes)))


def rig(
    connection: dict[str, Any],
    tool: str,
    parameters: dict[str, Any] | None = None,
    *,
    effect: str = "effect",
    timeout: float = 120.0,
    outputs: dict[str, str] | None = None,
    secrets: dict[str, str] | None = None,
    **settings: Any,
) -> Rig:
    paths = {"text": "$.text"} if outputs is None else outputs
    spec = action(
        executor="mcp",
        effect=effect,
        parameters=parameters or {},
        timeout=timeout,
        settings={"server": "tools", "tool": tool, "outputs": paths, **settings},
        outputs=tuple(paths),
    )
    return Rig(
        (spec,), connections={"tools": connection}, secrets=secrets or {}, clock=RecordingClock()
    )


@asynccontextmanager
async def hosted(rig: Rig) -> AsyncIterator[Any]:
    """A function that runs one more step of the rig's action."""
    async with rig.hosted(mcp.call) as handler:

        async def run(**parameters: JsonValue) -> StepResult:
            return await (await rig.approved(parameters)).run(handler)

        yield run


async def once(rig: Rig, **parameters: JsonValue) -> StepResult:
    async with hosted(rig) as run:
        result: StepResult = await run(**parameters)
        return result


def ending(result: StepResult) -> tuple[str, str, bool]:
    assert result.failure is not None, result
    return result.status, result.failure.code, result.failure.retriable


# --- what it does, both ways


async def test_calls_a_tool_with_typed_arguments(server: Reached) -> None:
    wanted = rig(
        server.connection,
        "add",
        {"a": "integer", "b": "integer"},
        outputs={"sum": "$.structured.result", "text": "$.text", "all": "$.content"},
    )
    result = await once(wanted, a=2, b=40)
    assert result.output == {"sum": 42, "text": "42", "all": [{"type": "text", "text": "42"}]}


async def test_arguments_may_be_a_template(server: Reached) -> None:
    wanted = rig(server.connection, "note", {"who": "string"}, arguments={"text": "hello-{who}"})
    assert (await once(wanted, who="ada")).output == {"text": "noted hello-ada"}
    assert server.noted() == ["hello-ada"]


async def test_a_step_that_comes_twice_calls_once(server: Reached) -> None:
    wanted = rig(server.connection, "note", {"text": "string"})
    assignment = await wanted.approved({"text": "x"})
    async with wanted.hosted(mcp.call) as handler:
        assert await assignment.run(handler) == await assignment.run(handler)
    assert server.noted() == ["x"]


async def test_many_calls_share_one_connection(server: Reached) -> None:
    async with hosted(rig(server.connection, "note", {"text": "string"})) as run:
        results = await asyncio.gather(*(run(text=f"n{number}") for number in range(40)))
    assert {result.status for result in results} == {"success"}
    assert sorted(server.noted()) == sorted(f"n{number}" for number in range(40))


async def test_a_tool_that_says_it_failed_has_failed_for_certain(server: Reached) -> None:
    result = await once(rig(server.connection, "boom"))
    assert ending(result) == ("failed", "tool_error", False)
    assert result.failure is not None
    assert "has had enough" in result.failure.reason


@pytest.mark.parametrize(
    ("tool", "arguments"), [("nothing", {}), ("add", {"a": "no number", "b": 1})]
)
async def test_a_tool_or_arguments_that_the_server_does_not_know_are_refused(
    server: Reached, tool: str, arguments: dict[str, Any]
) -> None:
    result = await once(rig(server.connection, tool, arguments=arguments))
    assert result.status == "failed"
    assert ending(result)[1] in {"tool_error", "invalid_parameters"}


def slow_and_quick(server: Reached) -> Rig:
    """The first action never ends, the second one is for a connection that is warm."""
    slow = rig(server.connection, "slow", {"text": "string"})
    quick = action(
        "test.note",
        executor="mcp",
        effect="effect",
        parameters={"text": "string"},
        settings={"server": "tools", "tool": "note"},
    )
    slow.actions = (*slow.actions, quick)
    return slow


async def test_an_answer_that_never_comes_leaves_an_effect_unknown(server: Reached) -> None:
    wanted = slow_and_quick(server)
    first = await wanted.approved({"text": "x"}, action="test.note")
    second = (await wanted.approved({"text": "y"})).but(timeout=3.0)
    async with wanted.hosted(mcp.call) as handler:
        assert (await first.run(handler)).status == "success"
        assert (await second.run(handler)).status == "unknown"
    assert server.noted() == ["x", "y"]


async def test_cancelling_a_step_leaves_the_connection_to_others(server: Reached) -> None:
    wanted = slow_and_quick(server)
    waiting = await wanted.approved({"text": "x"})
    other = await wanted.approved({"text": "y"}, action="test.note")
    async with wanted.hosted(mcp.call) as handler:
        task = asyncio.create_task(waiting.run(handler))
        await eventually(lambda: server.noted() == ["x"], "the call has arrived")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await other.run(handler)).status == "success"
    assert server.noted() == ["x", "y"]


async def test_a_process_that_dies_in_a_call_leaves_an_effect_unknown(notes: Path) -> None:
    result = await once(rig(process(notes), "die", {"text": "string"}), text="x")
    assert ending(result) == ("unknown", "effect_unknown", False)
    assert noted(notes) == ["x"]


async def test_a_listener_that_dies_in_a_call_leaves_an_effect_unknown(notes: Path) -> None:
    with HttpMcpServer(notes) as own:
        result = await once(rig(own.connection, "die", {"text": "string"}), text="x")
    assert ending(result) == ("unknown", "effect_unknown", False)
    assert noted(notes) == ["x"]


# --- a process


async def test_a_process_that_died_is_started_again(notes: Path) -> None:
    spec = rig(
        process(notes),
        "variable",
        {"name": "string"},
        effect="read",
        outputs={"pid": "$.structured.pid"},
    )
    async with hosted(spec) as run:
        first = (await run(name="PATH")).output["pid"]
        os.kill(int(first), signal.SIGKILL)
        again = await run(name="PATH")
    assert again.status == "success"
    assert again.output["pid"] != first


async def test_a_process_gets_its_secrets_and_says_none_of_them(notes: Path) -> None:
    secret = "tok-0123456789abcdef"
    connection = process(notes, TOKEN="${secret:token}")
    wanted = rig(
        connection,
        "variable",
        {"name": "string"},
        outputs={"value": "$.structured.value", "length": "$.text"},
        secrets={"token": secret},
    )
    with structlog.testing.capture_logs() as lines:
        async with hosted(wanted) as run:
            result = await run(name="TOKEN")
            await eventually(
                lambda: any(line["event"] == "mcp_server_said" for line in lines), "it was said"
            )
    assert result.output["value"] == "[redacted]"
    assert secret not in result.model_dump_json()
    assert secret not in json.dumps(lines, default=str)
    assert any("asked for [redacted]" in line.get("line", "") for line in lines)


async def test_a_process_gets_none_of_our_own_variables(
    notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLSTREAM_SECRET_OTHER", "not for the server")
    wanted = rig(
        process(notes),
        "variable",
        {"name": "string"},
        outputs={"value": "$.structured.value"},
    )
    assert (await once(wanted, name="MILLSTREAM_SECRET_OTHER")).output == {"value": ""}


@pytest.mark.parametrize("command", [["/nonexistent/program"], ["false"], ["cat", "/dev/null"]])
async def test_a_program_that_is_no_server_means_not_sent(command: list[str]) -> None:
    wanted = rig({"kind": "mcp_stdio", "command": command}, "note", {"text": "string"})
    assert ending(await once(wanted, text="x")) == ("failed", "not_sent", True)


# --- HTTP


async def test_nobody_listening_means_not_sent_even_for_an_effect() -> None:
    url = f"http://127.0.0.1:{free_port()}/mcp"
    wanted = rig({"kind": "mcp_http", "url": url}, "note", {"text": "string"})
    assert ending(await once(wanted, text="x")) == ("failed", "not_sent", True)


async def test_a_server_that_went_away_while_idle_means_not_sent_and_is_found_again(
    notes: Path,
) -> None:
    with HttpMcpServer(notes) as server:
        async with hosted(rig(server.connection, "note", {"text": "string"})) as run:
            assert (await run(text="one")).status == "success"
            server.kill()
            assert ending(await run(text="two")) == ("failed", "not_sent", True)
            server.start()
            assert (await run(text="three")).status == "success"
    assert noted(notes) == ["one", "three"]


async def test_calls_in_flight_when_a_server_is_killed_are_unknown_and_later_ones_not_sent(
    notes: Path,
) -> None:
    with HttpMcpServer(notes) as server:
        async with hosted(rig(server.connection, "slow", {"text": "string"})) as run:
            waiting = [asyncio.create_task(run(text=f"w{number}")) for number in range(3)]
            await eventually(lambda: len(noted(notes)) == 3, "the calls have arrived")
            server.kill()
            assert {ending(await task)[0] for task in waiting} == {"unknown"}
            assert ending(await run(text="later"))[:2] == ("failed", "not_sent")


async def test_more_calls_than_a_server_takes_at_once_wait_and_a_cancelled_one_makes_room(
    server: Reached,
) -> None:
    wanted = slow_and_quick(server)
    async with wanted.hosted(mcp.call) as handler:
        slow = [await wanted.approved({"text": f"s{number}"}) for number in range(20)]
        tasks = [asyncio.create_task(each.run(handler)) for each in slow]
        await eventually(lambda: len(server.noted()) == 16, "as many as may have arrived")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        quick = [
            await wanted.approved({"text": f"q{number}"}, action="test.note")
            for number in range(20)
        ]
        results = await asyncio.gather(*(each.run(handler) for each in quick))
    assert {result.status for result in results} == {"success"}


async def test_a_secret_goes_out_in_a_header_and_a_missing_one_sends_nothing(notes: Path) -> None:
    with HttpMcpServer(notes) as server:
        connection = {**server.connection, "headers": {"Authorization": "Bearer ${secret:key}"}}
        wanted = rig(connection, "note", {"text": "string"})
        assert ending(await once(wanted, text="x")) == ("failed", "configuration", False)
        wanted = rig(connection, "note", {"text": "string"}, secrets={"key": "abcdef0123456789"})
        assert (await once(wanted, text="y")).status == "success"
    assert noted(notes) == ["y"]


# --- settings

CONTEXT = {
    "parameters": ("text",),
    "outputs": ("text",),
    "connections": {"tools": "mcp_stdio", "shop": "postgres"},
}
SOUND = {"server": "tools", "tool": "note", "outputs": {"text": "$.text"}}


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"server": "shop"}, "no connection 'shop' of kind mcp_stdio or mcp_http"),
        ({"server": "tool"}, "did you mean 'tools'"),
        ({"arguments": {"x": "{typo}"}}, "typo, but the action's parameters are text"),
        ({"arguments": {"x": "{"}}, "write {parameter}"),
        ({"outputs": {}}, "reads nothing"),
    ],
)
def test_wrong_settings_are_found_before_anything_starts(
    wrong: dict[str, Any], complaint: str
) -> None:
    McpSettings.model_validate(SOUND, context=CONTEXT)
    with pytest.raises(ValidationError) as caught:
        McpSettings.model_validate(SOUND | wrong, context=CONTEXT)
    assert complaint in str(caught.value)

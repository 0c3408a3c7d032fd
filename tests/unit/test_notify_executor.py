"""The executor ``notify``: to the log, or to a webhook."""

from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from pydantic import ValidationError
from support.clocks import RecordingClock
from support.playgrounds import RunningPlayground, running_playground
from support.steps import Rig, action

from agents.executors import notify
from agents.runtime.settings import Settings
from schemas import StepResult

WEBHOOK = {"target": "webhook", "url": "${settings.playground_url}/messages"}
MESSAGE = {"channel": "#releases", "text": "checkout 2.5.0 is out {really} ${settings.x}"}


@pytest.fixture(scope="module")
def playground() -> Iterator[RunningPlayground]:
    with running_playground() as running:
        yield running


def rig_with(url: str = "http://127.0.0.1:1", **settings: Any) -> Rig:
    spec = action(
        "notify.send",
        executor="notify",
        effect="effect",
        parameters={"channel": "string", "text": "string"},
        settings=settings,
    )
    return Rig((spec,), settings=Settings(playground_url=url), clock=RecordingClock())


async def send(rig: Rig) -> StepResult:
    assignment = await rig.approved(MESSAGE)
    async with rig.hosted(notify.send_message) as handler:
        result = await assignment.run(handler)
        assert await assignment.run(handler) == result
    return result


async def test_a_message_is_a_line_in_the_log_if_nothing_else_is_said() -> None:
    with structlog.testing.capture_logs() as lines:
        assert (await send(rig_with())).status == "success"
    (line,) = [line for line in lines if line["event"] == "notification"]
    assert {name: line[name] for name in MESSAGE} == MESSAGE
    assert line["correlation_id"]


async def test_a_webhook_gets_channel_and_text_once(playground: RunningPlayground) -> None:
    before = len(playground.get("/messages")["messages"])
    result = await send(rig_with(playground.url, default=WEBHOOK))
    assert (result.status, result.output) == ("success", {})
    assert playground.get("/messages")["messages"][before:] == [MESSAGE]
    assert playground.get("/calls")["calls"][-1]["idempotency_key"]


async def test_each_channel_has_its_own_target(playground: RunningPlayground) -> None:
    before = len(playground.get("/messages")["messages"])
    log = {"target": "log"}
    await send(rig_with(playground.url, channels={"#releases": WEBHOOK}, default=log))
    await send(rig_with(playground.url, channels={"#releases": log}, default=WEBHOOK))
    assert len(playground.get("/messages")["messages"]) == before + 1


async def test_templates_may_change_what_is_said(playground: RunningPlayground) -> None:
    await send(rig_with(playground.url, channel="#all", text="{channel}: {text}", default=WEBHOOK))
    said = playground.get("/messages")["messages"][-1]
    assert said == {"channel": "#all", "text": f"#releases: {MESSAGE['text']}"}


async def test_a_channel_without_a_target_is_refused_where_there_is_no_default() -> None:
    result = await send(rig_with(channels={"#ops": {"target": "log"}}, default=None))
    assert result.failure is not None
    assert (result.status, result.failure.code) == ("failed", "invalid_parameters")
    assert "'#releases'; known channels: #ops" in result.failure.reason


async def test_a_webhook_that_nobody_answers_has_sent_nothing() -> None:
    result = await send(rig_with(default=WEBHOOK))
    assert result.failure is not None
    assert (result.status, result.failure.code) == ("failed", "not_sent")


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"text": "{typo}"}, "typo, but the action's parameters are channel, text"),
        ({"default": {"target": "pigeon"}}, "pigeon"),
        ({"default": {"target": "webhook"}}, "url"),
        ({"default": {"target": "webhook", "url": "/messages"}}, "fixed host"),
        ({"default": {"target": "webhook", "url": "http://host/{text}"}}, "names no parameters"),
        ({"channels": {"#a": {"target": "log", "url": "http://host/"}}}, "url"),
    ],
)
def test_wrong_settings_are_found_before_anything_starts(
    wrong: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        notify.NotifySettings.model_validate(wrong, context={"parameters": ("channel", "text")})
    assert complaint in str(caught.value)

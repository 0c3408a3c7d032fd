"""``millstream submit``: put a request on the intake topic, as any Kafka client could."""

import asyncio
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import typer
from pydantic import ValidationError
from pydantic_core import to_json
from rich.text import Text
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from agents.runtime.codec import invalid
from agents.runtime.errors import ConfigurationError, InvalidMessageError, KafkaUnavailableError
from agents.runtime.host import kafka_config
from agents.runtime.kafka import Producer
from agents.runtime.kafka_admin import KafkaAdmin, wait_until_reachable
from agents.runtime.records import Outgoing
from agents.runtime.settings import Settings
from ops import render
from ops.history import opened
from ops.timeline import Timeline
from ops.waiting import ExecutionTimeoutError, wait_for_completion
from schemas import ExecutionRequest, ExecutionStatus, Requester
from schemas.identity import uuid_of

INTAKE_TOPIC: Final = "millstream.requests.v1"
_OUT_OF_TIME: Final = 3
_REACHABLE_SECONDS: Final = 3.0
_PLAN_FIELDS: Final = frozenset({"text", "plan", "on_failure"})


@dataclass(frozen=True)
class Submission:
    """A request with its ids, ready to be sent.

    The ids travel in the body, so whoever sends it again sends the same request, not another one.
    """

    message_id: UUID
    correlation_id: str
    """As the requester gave it; a UUID if nothing was given."""
    request: ExecutionRequest

    @property
    def execution_id(self) -> UUID:
        """The execution that comes of it."""
        return uuid_of(self.correlation_id, tenant=self.request.tenant)

    def ids(self) -> dict[str, str]:
        """What the requester may want to keep."""
        return {
            "correlation_id": str(self.execution_id),
            "message_id": str(self.message_id),
        }

    def record(self, lane: str) -> Outgoing:
        """The record on the intake topic of a lane."""
        body: dict[str, Any] = {
            "message_id": str(self.message_id),
            "correlation_id": self.correlation_id,
            **self.request.model_dump(mode="json", exclude_defaults=True),
        }
        return Outgoing(lane + INTAKE_TOPIC, str(self.execution_id).encode(), to_json(body))


def run(settings: Settings, submission: Submission, *, wait: float | None, as_json: bool) -> int:
    """Send a request, print its ids, and follow it for ``wait`` seconds if given.

    Returns:
        The exit code: 0 when it was sent or has succeeded, 1 for another end, 3 out of time.

    Raises:
        KafkaUnavailableError: No broker answers.
        DatabaseUnavailableError: Postgres does not answer, so it cannot be followed.
    """
    asyncio.run(send(settings, submission))
    console = render.console()
    if not as_json:
        console.print(
            Text.assemble("execution ", (str(submission.execution_id), "bold")), soft_wrap=True
        )
        console.print(Text(f"message   {submission.message_id}", "dim"), soft_wrap=True)
    elif wait is None:
        render.print_json(submission.ids())
    if wait is None:
        return 0
    try:
        timeline = _follow(settings, submission.execution_id, wait)
    except ExecutionTimeoutError as error:
        typer.echo(error.reason, err=True)
        if as_json:
            ended = error.timeline
            render.print_json(
                {**submission.ids(), "execution": ended and ended.model_dump(mode="json")}
            )
        return _OUT_OF_TIME
    if as_json:
        render.print_json({**submission.ids(), "execution": timeline.model_dump(mode="json")})
    else:
        console.print()
        console.print(render.render_timeline(timeline))
    return 0 if timeline.status is ExecutionStatus.SUCCESS else 1


def make_submission(
    text: str | None,
    *,
    plan: Path | None = None,
    tenant: str = "default",
    user: str = "anonymous",
    correlation_id: str | None = None,
    on_failure: str | None = None,
) -> Submission:
    """Check what a person asks for.

    Raises:
        ConfigurationError: The plan file cannot be read.
        InvalidMessageError: The request breaks the contract of the intake topic.
    """
    fields: dict[str, Any] = {} if plan is None else read_plan(plan)
    if text is not None:
        fields["text"] = text
    if on_failure is not None:
        fields["on_failure"] = on_failure
    try:
        request = ExecutionRequest(
            **{"tenant": tenant, "requester": Requester(user=user), **fields}
        )
    except ValidationError as error:
        raise _unacceptable(error, plan) from None
    return Submission(uuid4(), correlation_id or str(uuid4()), request)


def read_plan(path: Path) -> dict[str, Any]:
    """The text and the steps that a plan file holds: ``{text, plan}``, or a bare list of steps.

    Raises:
        ConfigurationError: The file cannot be read, or holds something else.
    """
    try:
        source = path.read_text(encoding="utf-8")
        content = (
            json.loads(source)
            if path.suffix == ".json"
            else YAML(typ="safe", pure=True).load(source)
        )
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"cannot read the plan {path}: {error}") from None
    except (ValueError, YAMLError) as error:
        raise ConfigurationError(f"the plan {path} is malformed: {error}") from None
    if isinstance(content, list):
        return {"plan": content}
    if not isinstance(content, dict) or "plan" not in content:
        raise ConfigurationError(f"the plan {path} must be a list of steps, or have one as `plan`")
    if unknown := sorted(content.keys() - _PLAN_FIELDS):
        raise ConfigurationError(
            f"the plan {path} has fields that mean nothing there: {', '.join(unknown)}; "
            "it may have text, plan and on_failure"
        )
    return dict(content)


def _follow(settings: Settings, execution: UUID, seconds: float) -> Timeline:
    with opened(settings) as history:
        return wait_for_completion(history, execution, timeout=seconds)


async def send(settings: Settings, *submissions: Submission) -> None:
    """Produce requests and return when the broker has confirmed them.

    Raises:
        KafkaUnavailableError: No broker answers; says what to do.
        ConfigurationError: The broker has no intake topic.
        MessageTooLargeError: A request is larger than the topic takes.
    """
    config = kafka_config(settings)
    await asyncio.to_thread(check_intake, settings)
    # A producer that numbers its records begins half a second later; the message id says enough.
    producer = Producer(replace(config, idempotence=False))
    try:
        await producer.send_all(each.record(settings.lane) for each in submissions)
    finally:
        await producer.close()


def check_intake(settings: Settings) -> None:
    """Make sure that there is a broker with an intake topic.

    Raises:
        KafkaUnavailableError: No broker answers; says what to do.
        ConfigurationError: It has no intake topic.
    """
    config = kafka_config(settings)
    address = config.bootstrap_servers
    try:
        wait_until_reachable(address, _REACHABLE_SECONDS, config=config.security)
    except KafkaUnavailableError:
        raise KafkaUnavailableError(
            f"Kafka at {address} does not answer; is the stack up? Start it with `millstream up`."
        ) from None
    topic = settings.lane + INTAKE_TOPIC
    if topic not in KafkaAdmin(address, config=config.security).list_topics():
        raise ConfigurationError(
            f"Kafka at {address} has no topic {topic}; create it with `millstream topics apply`."
        )


def _unacceptable(error: ValidationError, plan: Path | None) -> InvalidMessageError:
    reason = invalid(error)
    source = "the request" if plan is None else f"the plan {plan}"
    return InvalidMessageError(f"{source} cannot be sent: {reason.reason}", field=reason.field)

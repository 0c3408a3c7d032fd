"""Executor ``notify``: says something in a channel.

Consumes ``Step``; emits ``StepResult``. A channel's target is the log, or a webhook that takes
``{"channel", "text"}`` as JSON, such as Slack's incoming webhooks.
"""

from typing import Annotated, Final, Literal, Self

import structlog
from pydantic import Field, ValidationInfo, model_validator
from pydantic_core import to_json

from agents.executors.checking import TemplateText, UrlText, check_names
from agents.executors.http import IDEMPOTENCY_HEADER
from agents.executors.http_client import HttpClient, open_client
from agents.executors.http_messages import Request
from agents.runtime.declarations import Declaration
from agents.runtime.errors import PermanentError
from agents.runtime.execution import Job, executor
from agents.runtime.templates import Template, UrlTemplate
from schemas import JsonObject

_log = structlog.get_logger(__name__)


class LogTarget(Declaration):
    """Messages are lines in the log of the process."""

    target: Literal["log"]
    """Where messages go: log or webhook"""


class WebhookTarget(Declaration):
    """Messages are posted to a URL."""

    target: Literal["webhook"]
    """Where messages go: log or webhook"""
    url: UrlText
    """A template such as ${settings.playground_url}/messages; it names no parameters"""

    @model_validator(mode="after")
    def _the_url_is_fixed(self) -> Self:
        if named := UrlTemplate.parse(self.url).template.parameters:
            raise ValueError(f"a webhook's URL names no parameters, but it has {sorted(named)}")
        return self


Target = Annotated[LogTarget | WebhookTarget, Field(discriminator="target")]
_TO_LOG: Final = LogTarget(target="log")


class NotifySettings(Declaration):
    """The ``with`` of an action that the executor ``notify`` does."""

    channel: TemplateText = "{channel}"
    """A template of the channel's name"""
    text: TemplateText = "{text}"
    """A template of the message"""
    channels: dict[str, Target] = Field(default_factory=dict)
    """By channel, where its messages go"""
    default: Target | None = _TO_LOG
    """Where messages of other channels go: the log if not given; null refuses them"""

    @model_validator(mode="after")
    def _the_action_has_what_is_named(self, info: ValidationInfo) -> Self:
        channel, text = Template.parse(self.channel), Template.parse(self.text)
        check_names(channel.parameters | text.parameters, info)
        return self


@executor("notify", settings=NotifySettings, client=open_client)
async def send_message(job: Job[NotifySettings], client: HttpClient) -> JsonObject:
    """Send the message to the target of its channel; returns nothing."""
    settings = job.settings
    values = await job.values(settings.channel, settings.text)
    channel = Template.parse(settings.channel).render(job.parameters, values)
    text = Template.parse(settings.text).render(job.parameters, values)
    match settings.channels.get(channel, settings.default):
        case WebhookTarget() as target:
            await client.send(
                Request(
                    method="POST",
                    url=UrlTemplate.parse(target.url).render({}, await job.values(target.url)),
                    headers={
                        "content-type": "application/json",
                        IDEMPOTENCY_HEADER: job.idempotency_key,
                    },
                    body=to_json({"channel": channel, "text": text}),
                    expect=(),
                    timeout=job.step.timeout,
                    # Whoever knows the address of a webhook may post there.
                    shown_as=f"the webhook of {channel}",
                ),
                job.ctx,
            )
        case LogTarget():
            _log.info(
                "notification",
                channel=channel,
                text=text,
                correlation_id=str(job.ctx.correlation_id),
                idempotency_key=job.idempotency_key,
            )
        case None:
            known = ", ".join(settings.channels) or "none"
            raise PermanentError(
                f"there is no target for the channel {channel!r}; known channels: {known}",
                code="invalid_parameters",
            )
    return {}

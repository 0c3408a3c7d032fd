"""Executor ``notify``: says something in a channel.

Consumes ``Step``; emits ``StepResult``. A channel's target is the log, a webhook that takes
``{"channel", "text"}`` as JSON, a Slack-compatible webhook, or an e-mail. Messages are not batched:
each is an effect with an outcome of its own, which a batch would blur.
"""

from typing import Annotated, Final, Literal, Self

import structlog
from pydantic import Field, ValidationInfo, model_validator
from pydantic_core import to_json

from agents.executors.checking import TemplateText, UrlText, check_connection, check_names
from agents.executors.http import IDEMPOTENCY_HEADER
from agents.executors.http_client import HttpClient, open_client
from agents.executors.http_messages import Request
from agents.executors.mail import Mail, send_mail
from agents.runtime.catalogue import SmtpConnection
from agents.runtime.declarations import Declaration, Matching
from agents.runtime.errors import PermanentError
from agents.runtime.execution import Job, executor
from agents.runtime.templates import Template, UrlTemplate
from schemas import JsonObject
from schemas.base import Identifier

EmailAddress = Annotated[
    str,
    Matching(r'[^@\s<>,;:"\\]{1,64}@[A-Za-z0-9.-]{1,255}', "an address such as ops@example.com"),
]

_log = structlog.get_logger(__name__)


class LogTarget(Declaration):
    """Messages are lines in the log of the process."""

    target: Literal["log"]
    """Where messages go: log, webhook, slack or email"""


class WebhookTarget(Declaration):
    """Messages are posted to a URL."""

    target: Literal["webhook"]
    """Where messages go: log, webhook, slack or email"""
    url: UrlText
    """A template such as ${settings.playground_url}/messages; it names no parameters"""

    @model_validator(mode="after")
    def _the_url_is_fixed(self) -> Self:
        if named := UrlTemplate.parse(self.url).template.parameters:
            raise ValueError(f"a webhook's URL names no parameters, but it has {sorted(named)}")
        return self


class SlackTarget(WebhookTarget):
    """Messages go to an incoming webhook of Slack, or of what is compatible with it."""

    target: Literal["slack"]  # type: ignore[assignment]  # the discriminator tells them apart
    """Where messages go: log, webhook, slack or email"""


class EmailTarget(Declaration):
    """Messages are e-mails."""

    target: Literal["email"]
    """Where messages go: log, webhook, slack or email"""
    connection: Identifier
    """A connection of the kind smtp, by name"""
    to: Annotated[tuple[EmailAddress, ...], Field(min_length=1, max_length=50)]
    """The recipients"""
    subject: TemplateText = "{channel}"
    """A template of the subject, which may name the action's parameters"""


Target = Annotated[
    LogTarget | WebhookTarget | SlackTarget | EmailTarget, Field(discriminator="target")
]
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
        for target in (*self.channels.values(), self.default):
            if isinstance(target, EmailTarget):
                check_connection(target.connection, ("smtp",), info)
                check_names(Template.parse(target.subject).parameters, info)
        return self


@executor("notify", settings=NotifySettings, client=open_client)
async def send_message(job: Job[NotifySettings], client: HttpClient) -> JsonObject:
    """Send the message to the target of its channel; returns nothing."""
    settings = job.settings
    values = await job.values(settings.channel, settings.text)
    channel = Template.parse(settings.channel).render(job.parameters, values)
    text = Template.parse(settings.text).render(job.parameters, values)
    target = settings.channels.get(channel, settings.default)
    match target:
        case SlackTarget():
            await _post(job, client, channel, target, {"text": _escaped(text)})
        case WebhookTarget():
            await _post(job, client, channel, target, {"channel": channel, "text": text})
        case EmailTarget():
            await _mail(job, target, text)
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


async def _post(
    job: Job[NotifySettings],
    client: HttpClient,
    channel: str,
    target: WebhookTarget,
    message: JsonObject,
) -> None:
    values = await job.values(target.url)
    request = Request(
        method="POST",
        url=UrlTemplate.parse(target.url).render({}, values),
        headers={"content-type": "application/json", IDEMPOTENCY_HEADER: job.idempotency_key},
        body=to_json(message),
        expect=(),
        timeout=job.step.timeout,
        # Whoever knows the address of a webhook may post there.
        shown_as=f"the webhook of {channel}",
    )
    await client.send(request, job.ctx)


async def _mail(job: Job[NotifySettings], target: EmailTarget, text: str) -> None:
    declared = job.ctx.catalogue.connections[target.connection]
    if not isinstance(declared, SmtpConnection):
        raise TypeError(f"connection {target.connection!r} is no mail server")
    values = await job.values(target.subject)
    mail = Mail(
        to=target.to,
        subject=Template.parse(target.subject).render(job.parameters, values),
        text=text,
        key=job.idempotency_key,
        date=job.ctx.now(),
    )
    await send_mail(mail, declared, job.ctx.services, seconds=job.seconds_left / 2)


def _escaped(text: str) -> str:
    """``text`` so that it mentions nobody and hides no address, as Slack's documentation says."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

"""Executor ``http``: calls an HTTP API, as an action's ``with`` describes it.

Consumes ``Step``; emits ``StepResult``. Every request carries ``Idempotency-Key``, the same for
every attempt at one effect, so that a service that honours it does the thing once.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, JsonValue, ValidationInfo, model_validator
from pydantic_core import from_json, to_json

from agents.executors.checking import (
    OutputPaths,
    TemplateText,
    UrlText,
    check_names,
    check_outputs,
)
from agents.executors.http_client import HttpClient, open_client
from agents.executors.http_messages import REDIRECTED_METHODS, Request
from agents.executors.json_path import pick
from agents.runtime.declarations import Declaration
from agents.runtime.errors import PermanentError
from agents.runtime.execution import Job, executor
from agents.runtime.outcomes import UnusableAnswerError
from agents.runtime.templates import Template, UrlTemplate, parameters_in, render_json
from schemas import JsonObject

IDEMPOTENCY_HEADER: Final = "Idempotency-Key"
#: Set by the executor or by the connection, so that an action must not.
_RESERVED: Final = frozenset({"content-length", "host", "idempotency-key", "transfer-encoding"})
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""A field name, after RFC 9110, section 5.6.2."""


def _check_header(name: str) -> str:
    if not _TOKEN.fullmatch(name):
        raise ValueError(f"{name!r} is no header name")
    if name.lower() in _RESERVED:
        raise ValueError(f"the header {name} is set by the executor")
    return name


class HttpSettings(Declaration):
    """The ``with`` of an action that the executor ``http`` does."""

    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
    """The request's method"""
    url: UrlText
    """A template such as ${settings.playground_url}/services/{service}; parameters may stand in
    the path and the query, percent-encoded"""
    headers: dict[Annotated[str, AfterValidator(_check_header)], TemplateText] = Field(
        default_factory=dict
    )
    """Templates of header values by name"""
    body: JsonValue = None
    """A template of the JSON body; a text that is exactly {parameter} keeps the value's type"""
    expect: tuple[Annotated[int, Field(ge=200, le=399)], ...] = ()
    """The statuses of success; all from 200 to 299 where this is not given"""
    redirects: Annotated[int, Field(ge=0, le=5)] = 0
    """How many redirects of a GET or HEAD are followed; each target is judged like the first"""
    outputs: OutputPaths = Field(default_factory=dict)
    """By output, the JSONPath of its value in the response"""

    @model_validator(mode="after")
    def _the_action_has_what_is_named(self, info: ValidationInfo) -> Self:
        named = UrlTemplate.parse(self.url).template.parameters | parameters_in(self.body)
        for value in self.headers.values():
            named |= Template.parse(value).parameters
        check_names(named, info)
        check_outputs(self.outputs, info)
        if self.redirects and self.method not in REDIRECTED_METHODS:
            raise ValueError(f"redirects of {self.method} are not followed, as they act twice")
        return self


@executor("http", settings=HttpSettings, client=open_client)
async def call(job: Job[HttpSettings], client: HttpClient) -> JsonObject:
    """Send the request that the action describes; returns the outputs that it names."""
    settings = job.settings
    values = await job.values(settings.url, dict(settings.headers), settings.body)
    response = await client.send(build_request(job, values), job.ctx)
    if not job.settings.outputs:
        return {}
    try:
        document = from_json(response.body, allow_inf_nan=False)
    except ValueError as error:
        raise UnusableAnswerError(
            f"{job.action.id} was answered with {response.status}, but not in JSON: {error}",
            code="invalid_message",
        ) from error
    return {name: pick(path, document) for name, path in job.settings.outputs.items()}


def build_request(job: Job[HttpSettings], values: Mapping[str, str]) -> Request:
    """The request with everything filled in.

    Args:
        job: What is to be done.
        values: What templates name beside parameters.

    Raises:
        PermanentError: A parameter cannot stand where the action puts it.
    """
    settings = job.settings
    headers = {"accept": "application/json", IDEMPOTENCY_HEADER: job.idempotency_key}
    body: bytes | None = None
    if settings.body is not None:
        headers["content-type"] = "application/json"
        body = to_json(render_json(settings.body, job.parameters, values))
    for name, text in settings.headers.items():
        value = Template.parse(text).render(job.parameters, values)
        if not (value.isascii() and value.isprintable()):
            raise PermanentError(
                f"header {name} can only hold printable ASCII characters",
                code="invalid_parameters",
            )
        headers[name.lower()] = value  # so that it replaces one of the above
    return Request(
        method=settings.method,
        url=UrlTemplate.parse(settings.url).render(job.parameters, values),
        headers=headers,
        body=body,
        expect=settings.expect,
        timeout=job.step.timeout,
        redirects=settings.redirects,
    )

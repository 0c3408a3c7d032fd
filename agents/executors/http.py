"""Executor ``http``: calls an HTTP API, as an action's ``with`` describes it.

Consumes ``Step``; emits ``StepResult``. Every request carries ``Idempotency-Key``, the same for
every attempt at one effect, so that a service that honours it does the thing once.
"""

import re
from functools import lru_cache
from typing import Annotated, Any, Final, Literal, Self

from jsonpath_ng import Child, Fields, Index, JSONPath, Root, This
from jsonpath_ng.exceptions import JSONPathError
from jsonpath_ng.parser import parse as parse_jsonpath
from pydantic import AfterValidator, Field, JsonValue, ValidationInfo, model_validator
from pydantic_core import from_json, to_json

from agents.executors.http_client import HttpClient, Request, open_client
from agents.runtime.declarations import Declaration
from agents.runtime.errors import PermanentError
from agents.runtime.execution import Job, executor
from agents.runtime.outcomes import UnusableAnswerError
from agents.runtime.templates import Template, UrlTemplate, parameters_in, render_json
from schemas import JsonObject
from schemas.base import Identifier

IDEMPOTENCY_HEADER: Final = "Idempotency-Key"
#: Set by the executor or by the connection, so that an action must not.
_RESERVED: Final = frozenset({"content-length", "host", "idempotency-key", "transfer-encoding"})
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""A field name, after RFC 9110, section 5.6.2."""


def _check_url(text: str) -> str:
    UrlTemplate.parse(text)
    return text


def _check_text(text: str) -> str:
    Template.parse(text)
    return text


def _check_header(name: str) -> str:
    if not _TOKEN.fullmatch(name):
        raise ValueError(f"{name!r} is no header name")
    if name.lower() in _RESERVED:
        raise ValueError(f"the header {name} is set by the executor")
    return name


def _check_path(text: str) -> str:
    try:
        _parse_path(text)
    except JSONPathError as error:
        raise ValueError(f"{text!r} is no JSONPath: {error}") from error
    return text


UrlText = Annotated[str, AfterValidator(_check_url)]
"""A template of an absolute URL."""
TemplateText = Annotated[str, AfterValidator(_check_text)]
"""A template of a text."""


def check_names(named: frozenset[str], info: ValidationInfo) -> None:
    """Make sure that templates name only parameters that the action has.

    Args:
        named: The parameters that they name.
        info: Of a validation with the action's parameters as context; without one, nothing is
            checked.

    Raises:
        ValueError: They name others.
    """
    known = (info.context or {}).get("parameters")
    if known is not None and (unknown := sorted(named - set(known))):
        raise ValueError(
            f"the templates name {', '.join(unknown)}, but the action's parameters are "
            f"{', '.join(known) or 'none'}"
        )


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
    outputs: dict[Identifier, Annotated[str, AfterValidator(_check_path)]] = Field(
        default_factory=dict
    )
    """By output, the JSONPath of its value in the response"""

    @model_validator(mode="after")
    def _the_action_has_what_is_named(self, info: ValidationInfo) -> Self:
        named = UrlTemplate.parse(self.url).template.parameters | parameters_in(self.body)
        for value in self.headers.values():
            named |= Template.parse(value).parameters
        check_names(named, info)
        declared = (info.context or {}).get("outputs")
        if declared is not None and set(declared) != set(self.outputs):
            raise ValueError(
                f"it reads {', '.join(sorted(self.outputs)) or 'nothing'} from the response, but "
                f"the action's outputs are {', '.join(sorted(declared)) or 'none'}"
            )
        return self


@executor("http", settings=HttpSettings, client=open_client)
async def call(job: Job[HttpSettings], client: HttpClient) -> JsonObject:
    """Send the request that the action describes; returns the outputs that it names."""
    response = await client.send(build_request(job), job.ctx)
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


def build_request(job: Job[HttpSettings]) -> Request:
    """The request with everything filled in.

    Raises:
        PermanentError: A parameter cannot stand where the action puts it.
    """
    settings, values = job.settings, job.ctx.settings.template_values()
    headers = {"accept": "application/json", IDEMPOTENCY_HEADER: job.idempotency_key}
    body: bytes | None = None
    if settings.body is not None:
        headers["content-type"] = "application/json"
        body = to_json(render_json(settings.body, job.parameters, values))
    for name, text in settings.headers.items():
        value = Template.parse(text).render(job.parameters, values)
        if not (value.isascii() and value.isprintable()):
            raise PermanentError(
                f"header {name} can only hold printable ASCII characters, not {value!r}",
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
    )


def pick(path: str, document: Any) -> JsonValue:
    """The value at a JSONPath; a list where the path can match several.

    Raises:
        UnusableAnswerError: A path that names one value finds none.
    """
    parsed = _parse_path(path)
    found: list[JsonValue] = [match.value for match in parsed.find(document)]
    if not _names_one(parsed):
        return found
    if not found:
        raise UnusableAnswerError(f"the response has nothing at {path}", code="invalid_message")
    return found[0]


@lru_cache(maxsize=1024)
def _parse_path(path: str) -> JSONPath:
    return parse_jsonpath(path)


def _names_one(path: JSONPath) -> bool:
    """Whether ``path`` can match one value at most."""
    if isinstance(path, Child):
        return _names_one(path.left) and _names_one(path.right)
    if isinstance(path, Fields):
        return len(path.fields) == 1 and path.fields[0] != "*"
    if isinstance(path, Index):
        return len(path.indices) == 1
    return isinstance(path, Root | This)

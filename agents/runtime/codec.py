"""Records to envelopes and back.

Decoding refuses whatever breaks the contract of the topic: bytes that are no JSON, another type
than the topic carries, a key that is not the correlation id, another lane.
"""

from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from agents.runtime.errors import InvalidMessageError
from agents.runtime.records import Outgoing, Record
from schemas import AgentMessage, Payload, envelope_type
from schemas.envelope import HEADER_TRACEPARENT

_SHOWN_PROBLEMS = 5


def decode(record: Record, payload: type[Payload], *, lane: str) -> AgentMessage[Any]:
    """The envelope in ``record``, which must carry ``payload``.

    Raises:
        InvalidMessageError: It does not; ``field`` names the first offending field.
    """
    if record.value is None:
        raise InvalidMessageError("the record has no value (a tombstone)")
    try:
        message: AgentMessage[Any] = envelope_type(payload).__pydantic_validator__.validate_json(
            record.value
        )
    except ValidationError as error:
        raise invalid(error) from None
    if message.message_type != payload.__name__:
        raise InvalidMessageError(
            f"the topic carries {payload.__name__}, not {message.message_type}",
            field="message_type",
        )
    if record.key != message.key():
        shown = "missing" if record.key is None else repr(record.key[:80])
        raise InvalidMessageError(
            f"the record key is {shown}, not the correlation id {message.correlation_id}",
            field="key",
            code="wrong_key",
        )
    if message.lane != lane:
        raise InvalidMessageError(
            f"the message belongs to lane {message.lane!r}, this is lane {lane!r}", field="lane"
        )
    return message


def encode(
    message: AgentMessage[Any],
    topic: str,
    *,
    traceparent: bytes | None,
    value: bytes | None = None,
) -> Outgoing:
    """The record that carries ``message``; the trace context of its cause goes along.

    ``value`` is the message as JSON, where somebody has made that already.
    """
    key = message.key()
    headers: tuple[tuple[str, bytes | None], ...] = message.headers(key)
    if traceparent is not None:
        headers = ((HEADER_TRACEPARENT, traceparent), *headers)
    return Outgoing(topic, key, message.to_bytes() if value is None else value, headers)


def invalid(error: ValidationError, *, prefix: str = "") -> InvalidMessageError:
    """Every problem that pydantic found, in plain words; values are cut, since they may be long."""
    details = error.errors(include_url=False, include_context=False, include_input=False)
    # A list whose items are all wrong is not empty as well.
    inner = {detail["loc"][:depth] for detail in details for depth in range(len(detail["loc"]))}
    details = [each for each in details if each["type"] != "too_short" or each["loc"] not in inner]
    problems = [_problem(detail, prefix) for detail in details[:_SHOWN_PROBLEMS]]
    if len(details) > _SHOWN_PROBLEMS:
        problems.append(f"and {len(details) - _SHOWN_PROBLEMS} more")
    return InvalidMessageError("; ".join(problems), field=_path(details[0]["loc"], prefix) or None)


def _problem(detail: ErrorDetails, prefix: str) -> str:
    path = _path(detail["loc"], prefix)
    message = detail["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    return f"{path}: {message}" if path else message


def _path(location: Iterable[int | str], prefix: str) -> str:
    return ".".join([*([prefix] if prefix else []), *(str(part)[:80] for part in location)])

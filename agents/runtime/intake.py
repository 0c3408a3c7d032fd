"""How a record on the intake topic becomes a request with ids.

Any Kafka client may produce there, and a bare ``{"text": "..."}`` without key or headers is
enough. Ids are taken from the body, then from the headers, and are otherwise derived from the
record, so that whoever reads the same record finds the same ids: the intent parser as well as the
sink. A record that comes to its topic again, delayed or redriven, has headers that pin what its
first place gave it: the ids, and when it was received. Unknown fields are accepted and reported in
``unknown_fields``.
"""

from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast
from uuid import UUID

from pydantic import JsonValue, TypeAdapter, ValidationError
from pydantic_core import from_json

from agents.runtime.codec import invalid
from agents.runtime.errors import InvalidMessageError
from agents.runtime.nesting import MAX_DEPTH, is_too_deep
from agents.runtime.records import Headers, Record
from schemas import AgentMessage, ExecutionRequest, JsonObject, compose
from schemas.base import Name
from schemas.envelope import HEADER_CORRELATION_ID, HEADER_MESSAGE_ID, HEADER_RECEIVED_AT
from schemas.identity import derive_correlation_id, derive_intake_message_id, uuid_of

INTAKE_ROLE: Final = "intake"
_IDS: Final = frozenset(("message_id", "correlation_id"))
_KNOWN: Final = frozenset(ExecutionRequest.model_fields) - {"unknown_fields"}
_object: Final = TypeAdapter[JsonObject](JsonObject)
_MOST_REPORTED: Final = 50
_LONGEST_WAY_BACK: Final = timedelta(days=60)
"""Longer than a record can lie on its topic, and then as a dead letter."""
_name: Final = TypeAdapter[str](Name)


def read_request(record: Record, *, lane: str) -> AgentMessage[ExecutionRequest]:
    """The request in ``record``.

    Raises:
        InvalidMessageError: It is no JSON object, or a field of it breaks the contract.
    """
    body, envelope = _body(record)
    request = _request(body)
    tenant = request.tenant
    message_id = _message_id(record, envelope, tenant)
    correlation_id, external_id = _correlation_id(record, envelope, tenant, message_id)
    received_at = _received_at(record)
    return compose(
        request,
        message_id=message_id,
        correlation_id=correlation_id,
        causation_id=None,
        from_agent=INTAKE_ROLE,
        tenant=tenant,
        lane=lane,
        timestamp=received_at,
        received_at=received_at,
        external_id=external_id,
    )


def pins(record: Record, message: AgentMessage[Any]) -> Headers:
    """Headers with which ``record`` is the same message wherever it comes again.

    What its headers say already is left out, since they go along.
    """
    said = [
        (HEADER_MESSAGE_ID, str(message.message_id)),
        (HEADER_CORRELATION_ID, str(message.correlation_id)),
    ]
    if isinstance(message.payload, ExecutionRequest):  # any other envelope says it itself
        said.append((HEADER_RECEIVED_AT, message.received_at.isoformat()))
    return tuple((name, value.encode()) for name, value in said if record.header(name) is None)


def _received_at(record: Record) -> datetime:
    """When the request was first received: the broker's time, unless a believable header pins it.

    History's events lie in partitions by this day, so nobody may choose any.
    """
    pinned = record.header(HEADER_RECEIVED_AT)
    if pinned is None:
        return record.time
    try:
        moment = datetime.fromisoformat(pinned.decode("ascii"))
    except ValueError:
        return record.time
    is_believable = (
        moment.tzinfo is not None and record.time - _LONGEST_WAY_BACK <= moment <= record.time
    )
    return moment.astimezone(UTC) if is_believable else record.time


def _body(record: Record) -> tuple[JsonObject, JsonObject]:
    """The request's own fields, and the object that may hold its ids."""
    if record.value is None:
        raise InvalidMessageError("the record has no value (a tombstone); send a JSON object")
    try:
        parsed = from_json(record.value)
    except ValueError as error:
        raise InvalidMessageError(f"the value is not JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise InvalidMessageError(
            f"the value is a JSON {_kind(parsed)}, not an object such as "
            '{"text": "restart checkout in staging"}'
        )
    if is_too_deep(parsed):
        raise InvalidMessageError(f"the value nests deeper than {MAX_DEPTH} levels")
    body = cast("JsonObject", parsed)
    payload = body.get("payload")
    if "message_type" in body and isinstance(payload, dict):
        return {"tenant": body.get("tenant", "default"), **payload}, body
    return {name: value for name, value in body.items() if name not in _IDS}, body


def _request(body: JsonObject) -> ExecutionRequest:
    known = {name: value for name, value in body.items() if name in _KNOWN}
    unknown = sorted(body.keys() - _KNOWN)
    known["unknown_fields"] = cast(
        "JsonValue", [_printable(name) for name in unknown[:_MOST_REPORTED]]
    )
    try:
        return ExecutionRequest.model_validate_json(_object.dump_json(known))
    except ValidationError as error:
        raise invalid(error) from None


def _printable(name: str) -> str:
    text = "".join(character if character.isprintable() else "?" for character in name)[:200]
    return text if text.strip() else "(blank)"


def _message_id(record: Record, envelope: JsonObject, tenant: str) -> UUID:
    given = _given(envelope.get("message_id"), record.header(HEADER_MESSAGE_ID), "message_id")
    if given is not None:
        return uuid_of(given, tenant=tenant)
    return derive_intake_message_id(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        timestamp_ms=record.timestamp_ms,
        value=record.value or b"",
    )


def _correlation_id(
    record: Record, envelope: JsonObject, tenant: str, message_id: UUID
) -> tuple[UUID, str | None]:
    given = _given(
        envelope.get("correlation_id"), record.header(HEADER_CORRELATION_ID), "correlation_id"
    )
    if given is None:
        return derive_correlation_id(tenant=tenant, message_id=message_id), None
    correlation_id = uuid_of(given, tenant=tenant)
    return correlation_id, None if str(correlation_id) == given.lower() else given


def _given(in_body: JsonValue, in_header: bytes | None, field: str) -> str | None:
    value: JsonValue = in_body
    if value is None and in_header is not None:
        value = in_header.decode("utf-8", errors="replace")
    if value is None:
        return None
    try:
        return _name.validate_python(value, strict=True)
    except ValidationError as error:
        raise invalid(error, prefix=field) from None


def _kind(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
        case _:
            return "array"

"""The envelope that every message of the pipeline travels in, and its form on the wire.

The value is the envelope as JSON. The record key is the correlation id in UTF-8, so that all
messages of an execution meet in one partition. Headers repeat what a consumer may want before it
decodes: ``traceparent`` (W3C Trace Context), ids, type, version and lane.
"""

from datetime import datetime
from functools import cache
from typing import Annotated, Any, Final, Generic, TypeVar
from uuid import UUID

from pydantic import Field

from schemas.base import Identifier, Lane, Model, Payload, Tenant, UtcDatetime

P_co = TypeVar("P_co", bound=Payload, covariant=True)

HEADER_TRACEPARENT: Final = "traceparent"
HEADER_CORRELATION_ID: Final = "correlation-id"
HEADER_MESSAGE_ID: Final = "message-id"
HEADER_MESSAGE_TYPE: Final = "message-type"
HEADER_SCHEMA_VERSION: Final = "schema-version"
HEADER_LANE: Final = "lane"
#: When a request was first received, where it has come to its topic again: delayed, or redriven.
HEADER_RECEIVED_AT: Final = "received-at"
#: Counts deliveries of one record over retries and delays; the only thing those change.
HEADER_DELIVERY_ATTEMPT: Final = "delivery-attempt"


class AgentMessage(Model, Generic[P_co]):
    """One message between roles."""

    message_id: UUID
    """Deterministic: the same cause yields the same id, see :mod:`schemas.identity`."""
    correlation_id: UUID
    """The execution."""
    causation_id: UUID | None
    """The message that caused this one; ``None`` for a request from outside."""
    from_agent: Identifier
    """The role that wrote it; ``intake`` for a request."""
    to_agent: Identifier | None = None
    """The role it is for, where there is exactly one."""
    message_type: Annotated[str, Field(pattern=r"^[A-Z][A-Za-z]{1,60}$")]
    """The payload's class name."""
    schema_version: Annotated[int, Field(ge=1)]
    payload: P_co
    timestamp: UtcDatetime
    """When the role wrote it, by the role's clock."""
    received_at: UtcDatetime
    """The broker's time of the intake record, carried unchanged through the execution."""
    tenant: Tenant
    attempt: Annotated[int, Field(ge=1)] = 1
    """The router's attempt at the step that this message is about."""
    lane: Lane = ""
    external_id: Annotated[str, Field(max_length=200)] | None = None
    """The requester's own id, where it was no UUID."""

    def to_bytes(self) -> bytes:
        """The envelope as JSON."""
        return self.__pydantic_serializer__.to_json(self, by_alias=True)

    def key(self) -> bytes:
        """The record key: the correlation id in UTF-8."""
        return str(self.correlation_id).encode()

    def headers(self, key: bytes | None = None) -> tuple[tuple[str, bytes], ...]:
        """The headers that repeat the envelope; the trace context is added by the runtime.

        ``key`` is the record key, where it is at hand.
        """
        return (
            (HEADER_CORRELATION_ID, self.key() if key is None else key),
            (HEADER_MESSAGE_ID, str(self.message_id).encode()),
            (HEADER_MESSAGE_TYPE, self.message_type.encode()),
            (HEADER_SCHEMA_VERSION, str(self.schema_version).encode()),
            (HEADER_LANE, self.lane.encode()),
        )


@cache
def envelope_type(payload: type[Payload]) -> type[AgentMessage[Any]]:
    """The envelope class for one payload model; made once per payload."""
    return AgentMessage[payload]  # type: ignore[valid-type]  # parametrised at run time


def compose(
    payload: Payload,
    *,
    message_id: UUID,
    correlation_id: UUID,
    causation_id: UUID | None,
    from_agent: str,
    tenant: str,
    lane: str,
    timestamp: datetime,
    received_at: datetime,
    to_agent: str | None = None,
    attempt: int = 1,
    external_id: str | None = None,
) -> AgentMessage[Any]:
    """An envelope around a payload that is already valid.

    Nothing is validated again: every argument comes from a validated message or from code.
    """
    return envelope_type(type(payload)).of(
        {
            "message_id": message_id,
            "correlation_id": correlation_id,
            "causation_id": causation_id,
            "from_agent": from_agent,
            "to_agent": to_agent,
            "message_type": type(payload).__name__,
            "schema_version": payload.schema_version,
            "payload": payload,
            "timestamp": timestamp,
            "received_at": received_at,
            "tenant": tenant,
            "attempt": attempt,
            "lane": lane,
            "external_id": external_id,
        }
    )

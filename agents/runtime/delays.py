"""Delay topics: where a record waits whose handling failed for a reason that may pass.

A record goes from its topic to a delay topic and, when it is due, back: key, value and headers
stay as they are, but for the header that counts delivery attempts and those that pin what its place
on the topic gave it, see :func:`agents.runtime.intake.pins`. Each round waits longer; after the
last one the record is a dead letter.
"""

from datetime import datetime, timedelta
from typing import Any, Final

from agents.runtime.errors import InvalidMessageError
from agents.runtime.intake import pins
from agents.runtime.records import Headers, Outgoing, Record
from agents.runtime.topology import Topology
from schemas import AgentMessage
from schemas.envelope import HEADER_DELIVERY_ATTEMPT

HEADER_ORIGIN: Final = "millstream-retry-topic"
"""The topic, with its lane, that a delayed record goes back to."""

LADDER: Final[tuple[tuple[str, timedelta], ...]] = (
    ("millstream.retry.5s.v1", timedelta(seconds=5)),
    ("millstream.retry.30s.v1", timedelta(seconds=30)),
    ("millstream.retry.5m.v1", timedelta(minutes=5)),
)
"""Delay topics without their lane, and how long a record waits in each, in order."""

_DELAYS: Final = dict(LADDER)
_LONGEST_ATTEMPT: Final = 6


def delivery_attempt(record: Record) -> int:
    """How many times the record has been delivered, this time included."""
    header = record.header(HEADER_DELIVERY_ATTEMPT)
    if header is None or not header.isdigit() or len(header) > _LONGEST_ATTEMPT:
        return 1
    return max(1, int(header))


def delayed(record: Record, message: AgentMessage[Any], *, lane: str) -> Outgoing | None:
    """The record on its next delay topic; ``None`` where it has waited on all of them.

    Args:
        record: What could not be handled now.
        message: What it carries: its ids are pinned where the headers do not say them.
        lane: The lane of this pipeline.
    """
    attempt = delivery_attempt(record)
    if attempt > len(LADDER):
        return None
    topic, _ = LADDER[attempt - 1]
    headers: Headers = tuple(
        header for header in record.headers if header[0] != HEADER_DELIVERY_ATTEMPT
    )
    headers += pins(record, message)
    headers += (
        (HEADER_DELIVERY_ATTEMPT, str(attempt + 1).encode()),
        (HEADER_ORIGIN, record.topic.encode()),
    )
    return Outgoing(lane + topic, record.key, record.value, headers)


def due_at(record: Record, *, lane: str) -> datetime:
    """When a record on a delay topic goes back: its broker's time and the topic's delay.

    Raises:
        InvalidMessageError: The topic is no delay topic.
    """
    delay = _DELAYS.get(record.topic.removeprefix(lane))
    if delay is None:
        raise InvalidMessageError(f"{record.topic} is no delay topic")
    return record.time + delay


def restored(record: Record, *, lane: str) -> Outgoing:
    """The record for the topic that it came from.

    Raises:
        InvalidMessageError: It does not say which topic, or one outside its lane.
    """
    origin = record.header(HEADER_ORIGIN)
    if origin is None:
        raise InvalidMessageError(
            f"the record does not say where it came from; header {HEADER_ORIGIN} is missing",
            field=HEADER_ORIGIN,
        )
    topic = origin.decode("utf-8", errors="replace")
    if not topic.startswith(f"{lane}millstream.") or topic.removeprefix(lane) in _DELAYS:
        raise InvalidMessageError(
            f"{topic[:200]!r} is no topic that a record of this lane can come from",
            field=HEADER_ORIGIN,
        )
    headers = tuple(header for header in record.headers if header[0] != HEADER_ORIGIN)
    return Outgoing(topic, record.key, record.value, headers)


def require_origin(topic: str, topology: Topology, *, lane: str) -> None:
    """Make sure that a record on a delay topic can have come from ``topic``.

    Anybody who may write a delay topic could otherwise write, through the delayer, wherever he
    may not.

    Args:
        topic: Where it says it came from, with its lane.
        topology: Every topic.
        lane: The lane of this pipeline.

    Raises:
        InvalidMessageError: topics.yaml does not have the topic, or no role reads it that lets
            records wait.
    """
    spec = topology.topics.get(topic.removeprefix(lane))
    if spec is None:
        problem = f"{topology.source} does not declare"
    elif not spec.is_delayed:
        problem = "no role lets records wait of"
    else:
        return
    raise InvalidMessageError(
        f"{problem} topic {topic[:200]!r}, which the record says it came from",
        field=HEADER_ORIGIN,
    )

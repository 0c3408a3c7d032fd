"""What history is asked: executions, their steps and events, dead letters.

Every function takes an open psycopg connection and reads only. The rows' columns are explained in
the migration that makes the tables.
"""

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, TypeVar
from uuid import UUID

from psycopg import Connection
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from agents.runtime.queries import load_queries
from schemas import ExecutionStatus

_SQL: Final = load_queries(Path(__file__).with_name("queries.sql"))
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Execution:
    """Where an execution stands."""

    correlation_id: UUID
    request_id: UUID | None
    external_id: str | None
    tenant: str
    requester: str | None
    title: str | None
    status: str
    code: str | None
    reason: str | None
    run_no: int
    """0 before the router has seen it."""
    version: int
    received_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    duration_seconds: float | None
    """From ``received_at`` to ``finished_at``."""
    plan_id: UUID | None
    plan_hash: str | None
    verdict: str | None
    verdict_reasons: list[dict[str, Any]] | None
    cost: Decimal | None
    """In US dollars."""
    estimated_cost: Decimal | None
    summary: str | None
    updated_at: datetime

    @property
    def is_terminal(self) -> bool:
        """Whether it has ended."""
        return ExecutionStatus(self.status).is_terminal


@dataclass(frozen=True, slots=True)
class StepOfExecution:
    """Where a step of one run stands."""

    run_no: int
    step_id: str
    action: str
    executor: str | None
    """``None`` until it is dispatched, like ``effect`` and ``parameters``."""
    effect: str | None
    status: str
    attempt: int
    parameters: dict[str, Any] | None
    output: dict[str, Any] | None
    failure: dict[str, Any] | None
    started_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class Event:
    """A message as it was stored."""

    message_id: UUID
    causation_id: UUID | None
    message_type: str
    schema_version: int
    from_agent: str
    to_agent: str | None
    tenant: str
    external_id: str | None
    attempt: int
    timestamp: datetime
    received_at: datetime
    topic: str
    partition: int
    offset: int
    size: int
    payload: dict[str, Any]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that its consumer gave up."""

    origin_topic: str
    origin_topic_id: str
    origin_partition: int
    origin_offset: int
    role: str
    code: str
    reason: str
    error_class: str | None
    field: str | None
    attempt: int
    redrives: int
    correlation_id: UUID | None
    key: bytes | None
    value: bytes | None
    headers: list[list[Any]]
    """Pairs; a value that is no UTF-8 is ``{"base64": "..."}``."""
    dead_lettered_at: datetime


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A record that is no message of its topic, such as a tombstone."""

    topic: str
    topic_id: str
    partition: int
    offset: int
    recorded_at: datetime
    code: str
    reason: str
    key: bytes | None
    value: bytes | None
    headers: list[list[Any]]


def execution(connection: Connection[Any], *, lane: str, correlation_id: UUID) -> Execution | None:
    """One execution, if there is one."""
    found = _fetch(
        connection, Execution, "execution", {"lane": lane, "correlation_id": correlation_id}
    )
    return found[0] if found else None


def executions_by_external_id(
    connection: Connection[Any], *, lane: str, external_id: str
) -> list[Execution]:
    """Executions under an id that requesters gave, newest first; each tenant may have one."""
    return _fetch(
        connection,
        Execution,
        "executions_by_external_id",
        {"lane": lane, "external_id": external_id},
    )


def list_executions(
    connection: Connection[Any],
    *,
    lane: str,
    status: ExecutionStatus | None = None,
    tenant: str | None = None,
    action: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    before: Execution | None = None,
    limit: int = 50,
) -> list[Execution]:
    """Executions, newest first.

    Args:
        connection: Where to ask.
        lane: Whose executions.
        status: Only those with this status.
        tenant: Only those of this tenant.
        action: Only those with a step that uses this action.
        parameters: Only those with a dispatched step whose parameters contain these.
        before: Go on after this one: the last one of the page before.
        limit: How many at most.
    """
    return _fetch(
        connection,
        Execution,
        "list_executions",
        {
            "lane": lane,
            "status": None if status is None else status.value,
            "tenant": tenant,
            "action": action,
            "parameters": None if parameters is None else Jsonb(dict(parameters)),
            "before_at": None if before is None else before.received_at,
            "before_id": None if before is None else before.correlation_id,
            "limit": limit,
        },
    )


def steps_of(
    connection: Connection[Any], *, lane: str, correlation_id: UUID
) -> list[StepOfExecution]:
    """The steps of an execution, run by run, in the order in which they began."""
    return _fetch(
        connection, StepOfExecution, "steps_of", {"lane": lane, "correlation_id": correlation_id}
    )


def events_of(connection: Connection[Any], *, lane: str, correlation_id: UUID) -> list[Event]:
    """The messages of an execution, each after the one that caused it."""
    return in_causal_order(
        _fetch(connection, Event, "events_of", {"lane": lane, "correlation_id": correlation_id})
    )


def dead_letters(
    connection: Connection[Any],
    *,
    lane: str,
    code: str | None = None,
    role: str | None = None,
    limit: int = 50,
) -> list[DeadLetter]:
    """Dead letters, newest first; only those with ``code`` and of ``role``, where given."""
    return _fetch(
        connection,
        DeadLetter,
        "dead_letters",
        {"lane": lane, "code": code, "role": role, "limit": limit},
    )


def unreadable(connection: Connection[Any], *, lane: str, limit: int = 50) -> list[Unreadable]:
    """Records that are no messages, newest first."""
    return _fetch(connection, Unreadable, "unreadable", {"lane": lane, "limit": limit})


def in_causal_order(events: Iterable[Event]) -> list[Event]:
    """``events`` by time, but none before its cause, whatever the roles' clocks say.

    A cause that is not among them (a state is no event) is taken as come.
    """
    known = {event.message_id: event for event in events}
    caused: dict[UUID, list[Event]] = {}
    ready: list[tuple[datetime, UUID]] = []
    for event in known.values():
        if event.causation_id in known:
            caused.setdefault(event.causation_id, []).append(event)
        else:
            ready.append((event.timestamp, event.message_id))
    heapq.heapify(ready)
    ordered: list[Event] = []
    while ready:
        _, message_id = heapq.heappop(ready)
        ordered.append(known.pop(message_id))
        for effect in caused.get(message_id, ()):
            heapq.heappush(ready, (effect.timestamp, effect.message_id))
    # What is left claims to be caused in a circle.
    return ordered + sorted(known.values(), key=lambda event: event.timestamp)


def _fetch(
    connection: Connection[Any], row: type[T], query: str, parameters: Mapping[str, Any]
) -> list[T]:
    with connection.cursor(row_factory=class_row(row)) as cursor:
        # Unprepared, so that the planner sees which filters are NULL.
        return cursor.execute(_SQL[query], parameters, prepare=False).fetchall()

"""What is known of dead letters: the rows that :mod:`ops.dead_letters` reads."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from agents.runtime.records import Headers

SHORT_ID: Final = 10
"""How much of an id is shown."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which dead letters a person means; what is ``None`` does not matter."""

    role: str | None = None
    code: str | None = None
    topic: str | None = None
    """The topic they came from, with or without its lane."""
    since: datetime | None = None
    before: datetime | None = None
    execution: UUID | None = None
    handled: bool = False
    """Whether those that were redriven or purged count, too."""
    ids: Sequence[str] | None = None
    """Their ids, or patterns of them as SQL's LIKE understands."""
    requests: Sequence[str] | None = None
    """Ids of requests that belong to the execution, although none of their headers says so."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter without its bytes."""

    id: str
    origin_topic: str
    origin_topic_id: str
    origin_partition: int
    origin_offset: int
    role: str
    code: str
    reason: str
    error_class: str | None
    field: str | None
    """The path of the offending field."""
    attempt: int
    redrives: int
    """How often its record had been redriven before."""
    correlation_id: UUID | None
    size: int | None
    """Bytes of its value; ``None`` for a tombstone."""
    dead_lettered_at: datetime
    redriven_at: datetime | None
    purged_at: datetime | None

    @property
    def short_id(self) -> str:
        """The id as it is shown."""
        return self.id[:SHORT_ID]

    def place(self, lane: str) -> dict[str, Any]:
        """The key of its row."""
        return {
            "lane": lane,
            "origin_topic_id": self.origin_topic_id,
            "origin_partition": self.origin_partition,
            "origin_offset": self.origin_offset,
            "role": self.role,
        }


@dataclass(frozen=True, slots=True)
class Contents:
    """The bytes of a dead letter, and all of its headers."""

    key: bytes | None
    value: bytes | None
    headers: Headers


@dataclass(frozen=True, slots=True)
class Cause:
    """Dead letters that have code, role and the first line of the reason in common."""

    code: str
    role: str
    cause: str
    count: int
    newest: datetime
    oldest: datetime
    example: str
    """The id of the newest one."""


@dataclass(frozen=True, slots=True)
class RunStatus:
    """How an execution stands with the router."""

    status: str
    is_open: bool


@dataclass(frozen=True, slots=True)
class RedriveAudit:
    """One time that a dead letter's record was sent again."""

    number: int
    topic: str
    message_id: UUID
    correlation_id: UUID
    edited: bool
    requested_by: str
    reason: str | None
    requested_at: datetime
    sent_at: datetime | None
    """``None`` where the broker's confirmation is not known."""

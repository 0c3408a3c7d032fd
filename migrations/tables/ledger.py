"""Schema ``ledger``: what the roles write as they work.

Every key starts with the lane, except the outbox's own running number. Messages, results and the
router's documents are JSON kept as ``text``: they come back byte for byte, nothing parses them on
the way, and a cast (``document::json``) makes them readable to a person.
"""

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Identity,
    Index,
    Integer,
    Numeric,
    PrimaryKeyConstraint,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY

from migrations.tables.metadata import metadata

SCHEMA: Final = "ledger"
_MOMENT: Final = DateTime(timezone=True)
_USD: Final = Numeric(18, 6)

runs: Final = Table(
    "runs",
    metadata,
    Column("lane", Text, nullable=False),
    Column("correlation_id", Uuid, nullable=False),
    Column("version", Integer, nullable=False),
    Column("status", Text, nullable=False),
    Column("is_open", Boolean, nullable=False),
    Column("document", Text, nullable=False),
    Column("next_wakeup", _MOMENT),
    Column("updated_at", _MOMENT, nullable=False),
    PrimaryKeyConstraint("lane", "correlation_id"),
    CheckConstraint("version >= 1", name="version"),
    Index(
        "runs_wakeup_idx", "lane", "next_wakeup", postgresql_where=text("next_wakeup IS NOT NULL")
    ),
    Index("runs_open_idx", "lane", "correlation_id", postgresql_where=text("is_open")),
    schema=SCHEMA,
    comment="The router's state, one row per execution, moved by version",
)

inbox: Final = Table(
    "inbox",
    metadata,
    Column("lane", Text, nullable=False),
    Column("event_id", Uuid, nullable=False),
    Column("correlation_id", Uuid, nullable=False),
    Column("refusal_code", Text),
    Column("refusal_reason", Text),
    Column("at", _MOMENT, nullable=False),
    PrimaryKeyConstraint("lane", "event_id"),
    CheckConstraint("(refusal_code IS NULL) = (refusal_reason IS NULL)", name="refusal"),
    Index(None, "lane", "at"),
    schema=SCHEMA,
    comment="The events that the router has taken or refused",
)

outbox: Final = Table(
    "outbox",
    metadata,
    Column("row_id", BigInteger, Identity(always=True), nullable=False),
    Column("lane", Text, nullable=False),
    Column("correlation_id", Uuid, nullable=False),
    Column("event_id", Uuid, nullable=False),
    Column("message", Text, nullable=False),
    Column("created_at", _MOMENT, nullable=False),
    PrimaryKeyConstraint("row_id"),
    Index(None, "lane", "correlation_id"),
    schema=SCHEMA,
    comment="Messages that the broker has not confirmed yet",
)

verdicts: Final = Table(
    "verdicts",
    metadata,
    Column("lane", Text, nullable=False),
    Column("plan_id", Uuid, nullable=False),
    Column("correlation_id", Uuid, nullable=False),
    Column("plan_hash", Text, nullable=False),
    Column("decision", Text, nullable=False),
    Column("evaluation", Integer, nullable=False),
    Column("message", Text, nullable=False),
    Column("recorded_at", _MOMENT, nullable=False),
    PrimaryKeyConstraint("lane", "plan_id"),
    CheckConstraint("decision IN ('approved', 'needs_approval', 'denied')", name="decision"),
    Index(None, "lane", "recorded_at"),
    schema=SCHEMA,
    comment="The one verdict on each plan",
)

effects: Final = Table(
    "effects",
    metadata,
    Column("lane", Text, nullable=False),
    Column("correlation_id", Uuid, nullable=False),
    Column("run_no", Integer, nullable=False),
    Column("step_id", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("status", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("lease_until", _MOMENT, nullable=False),
    Column("plan_id", Uuid, nullable=False),
    Column("plan_hash", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("result", Text),
    Column("claimed_at", _MOMENT, nullable=False),
    Column("settled_at", _MOMENT),
    Column("resolution", Text),
    PrimaryKeyConstraint("lane", "correlation_id", "run_no", "step_id"),
    CheckConstraint("status IN ('started', 'done', 'failed', 'unknown')", name="status"),
    schema=SCHEMA,
    comment="What executors did, or may have done",
)

budgets: Final = Table(
    "budgets",
    metadata,
    Column("lane", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("per", Text, nullable=False),
    Column("cap", _USD, nullable=False),
    Column("set_by", Text, nullable=False),
    Column("set_at", _MOMENT, nullable=False),
    PrimaryKeyConstraint("lane", "tenant", "per"),
    CheckConstraint("per IN ('execution', 'day', 'month')", name="per"),
    CheckConstraint("cap >= 0", name="cap"),
    schema=SCHEMA,
    comment="What a tenant may spend, in US dollars",
)

spending: Final = Table(
    "spending",
    metadata,
    Column("lane", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("period", Text, nullable=False),
    Column("spent", _USD, nullable=False),
    Column("reserved", _USD, nullable=False),
    PrimaryKeyConstraint("lane", "tenant", "period"),
    CheckConstraint("spent >= 0 AND reserved >= 0", name="amounts"),
    schema=SCHEMA,
    comment="What was taken of the budgets of a tenant, by day and by month in UTC",
)

reservations: Final = Table(
    "reservations",
    metadata,
    Column("lane", Text, nullable=False),
    Column("correlation_id", Uuid, nullable=False),
    Column("plan_hash", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("periods", ARRAY(Text), nullable=False),
    Column("amount", _USD, nullable=False),
    Column("is_open", Boolean, nullable=False),
    Column("reserved_at", _MOMENT, nullable=False),
    Column("spent", _USD, nullable=False),
    PrimaryKeyConstraint("lane", "correlation_id", "plan_hash"),
    Index("reservations_open_idx", "lane", "reserved_at", postgresql_where=text("is_open")),
    schema=SCHEMA,
    comment="What plans hold back until their runs end",
)


def _dead_letter_columns() -> list[Column[Any]]:
    """Which dead letter is meant: the key of ``history.dead_letters``."""
    return [
        Column("lane", Text, nullable=False),
        Column("origin_topic_id", Text, nullable=False),
        Column("origin_partition", Integer, nullable=False),
        Column("origin_offset", BigInteger, nullable=False),
        Column("role", Text, nullable=False),
    ]


_DEAD_LETTER: Final = ("lane", "origin_topic_id", "origin_partition", "origin_offset", "role")

redrives: Final = Table(
    "redrives",
    metadata,
    *_dead_letter_columns(),
    Column("number", Integer, nullable=False),
    Column("topic", Text, nullable=False),
    Column("message_id", Uuid, nullable=False),
    Column("correlation_id", Uuid, nullable=False),
    Column("edited", Boolean, nullable=False),
    Column("requested_by", Text, nullable=False),
    Column("reason", Text),
    Column("requested_at", _MOMENT, nullable=False),
    Column("sent_at", _MOMENT),
    PrimaryKeyConstraint(*_DEAD_LETTER, "number"),
    schema=SCHEMA,
    comment="Each time that somebody sent a dead letter's record again",
)

purges: Final = Table(
    "purges",
    metadata,
    *_dead_letter_columns(),
    Column("purged_by", Text, nullable=False),
    Column("reason", Text),
    Column("purged_at", _MOMENT, nullable=False),
    PrimaryKeyConstraint(*_DEAD_LETTER),
    schema=SCHEMA,
    comment="Dead letters that nobody wants to see any more",
)

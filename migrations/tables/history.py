"""The tables of schema ``history``: what the sink writes.

What the columns mean is said in the migration that makes them; ``alembic check`` proves that both
agree. The daily partitions of ``events`` are made as days pass and are not listed here.
"""

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Column,
    Computed,
    Date,
    DateTime,
    Double,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    Numeric,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, UUID

from migrations.tables.metadata import metadata

SCHEMA: Final = "history"


def _required(name: str, kind: Any, **options: Any) -> Column[Any]:
    return Column(name, kind, nullable=False, **options)


def _moment(name: str, *, nullable: bool = True, **options: Any) -> Column[Any]:
    return Column(name, DateTime(timezone=True), nullable=nullable, **options)


def _cost(name: str) -> Column[Any]:
    return Column(name, Numeric(18, 6))


events: Final = Table(
    "events",
    metadata,
    _required("lane", Text),
    _required("received_on", Date),
    _required("correlation_id", UUID),
    _required("message_id", UUID),
    Column("causation_id", UUID),
    _required("message_type", Text),
    _required("schema_version", Integer),
    _required("from_agent", Text),
    Column("to_agent", Text),
    _required("tenant", Text),
    Column("external_id", Text),
    _required("attempt", Integer),
    _moment("timestamp", nullable=False),
    _moment("received_at", nullable=False),
    _required("topic", Text),
    _required("partition", Integer),
    _required("offset", BigInteger),
    _required("size", Integer),
    _required("payload", JSONB),
    PrimaryKeyConstraint("lane", "received_on", "correlation_id", "message_id"),
    schema=SCHEMA,
    postgresql_partition_by="RANGE (received_on)",
)

executions: Final = Table(
    "executions",
    metadata,
    _required("lane", Text),
    _required("correlation_id", UUID),
    _moment("received_at", nullable=False),
    _required("identity_rank", SmallInteger),
    _required("identity_source", UUID),
    Column("request_id", UUID),
    _required("tenant", Text),
    Column("external_id", Text),
    Column("requester", Text),
    Column("title", Text),
    _required("run_no", Integer),
    _required("version", Integer),
    _required("status", Text),
    Column("code", Text),
    Column("reason", Text),
    _moment("started_at"),
    _moment("finished_at"),
    Column(
        "duration_seconds",
        Double,
        Computed("EXTRACT(epoch FROM finished_at - received_at)::double precision", persisted=True),
    ),
    _cost("cost"),
    Column("status_topic_id", Text),
    Column("judged_version", Integer, nullable=False, server_default=text("0")),
    _required("plan_evaluation", Integer),
    Column("plan_id", UUID),
    Column("plan_hash", Text),
    _cost("estimated_cost"),
    _required("verdict_evaluation", Integer),
    Column("verdict_id", UUID),
    Column("verdict", Text),
    Column("verdict_reasons", JSONB),
    _required("report_run_no", Integer),
    Column("report_id", UUID),
    Column("summary", Text),
    _moment("updated_at", nullable=False, server_default=text("now()")),
    PrimaryKeyConstraint("lane", "correlation_id"),
    Index("executions_recent_idx", "lane", text("received_at DESC"), text("correlation_id DESC")),
    Index(
        "executions_status_idx",
        "lane",
        "status",
        text("received_at DESC"),
        text("correlation_id DESC"),
    ),
    Index(
        "executions_tenant_idx",
        "lane",
        "tenant",
        text("received_at DESC"),
        text("correlation_id DESC"),
    ),
    Index(
        "executions_external_idx",
        "lane",
        "external_id",
        postgresql_where=text("external_id IS NOT NULL"),
    ),
    schema=SCHEMA,
)

steps: Final = Table(
    "steps",
    metadata,
    _required("lane", Text),
    _required("correlation_id", UUID),
    _required("run_no", Integer),
    _required("step_id", Text),
    _required("action", Text),
    _required("dispatch_attempt", Integer),
    Column("executor", Text),
    Column("effect", Text),
    Column("parameters", JSONB),
    _required("state_version", Integer),
    _required("attempt", Integer),
    _required("status", Text),
    Column("output", JSONB),
    Column("failure", JSONB),
    _moment("started_at"),
    _moment("finished_at"),
    _moment("updated_at", nullable=False, server_default=text("now()")),
    PrimaryKeyConstraint("lane", "correlation_id", "run_no", "step_id"),
    ForeignKeyConstraint(
        ["lane", "correlation_id"],
        ["history.executions.lane", "history.executions.correlation_id"],
        ondelete="CASCADE",
    ),
    Index("steps_action_idx", "lane", "action", "correlation_id"),
    Index(
        "steps_parameters_idx",
        "parameters",
        postgresql_using="gin",
        postgresql_ops={"parameters": "jsonb_path_ops"},
    ),
    schema=SCHEMA,
)

dead_letters: Final = Table(
    "dead_letters",
    metadata,
    _required("lane", Text),
    _required("origin_topic_id", Text),
    _required("origin_partition", Integer),
    _required("origin_offset", BigInteger),
    _required("role", Text),
    _required("origin_topic", Text),
    _required("code", Text),
    _required("reason", Text),
    Column("error_class", Text),
    Column("field", Text),
    _required("attempt", Integer),
    _required("redrives", Integer),
    Column("correlation_id", UUID),
    Column("key", LargeBinary),
    Column("value", LargeBinary),
    _required("headers", JSONB),
    _required("partition", Integer),
    _required("offset", BigInteger),
    _moment("dead_lettered_at", nullable=False),
    PrimaryKeyConstraint("lane", "origin_topic_id", "origin_partition", "origin_offset", "role"),
    Index("dead_letters_recent_idx", "lane", text("dead_lettered_at DESC")),
    Index("dead_letters_code_idx", "lane", "code", text("dead_lettered_at DESC")),
    Index("dead_letters_role_idx", "lane", "role", text("dead_lettered_at DESC")),
    schema=SCHEMA,
)

unreadable: Final = Table(
    "unreadable",
    metadata,
    _required("lane", Text),
    _required("topic", Text),
    _required("topic_id", Text),
    _required("partition", Integer),
    _required("offset", BigInteger),
    _moment("recorded_at", nullable=False),
    _required("code", Text),
    _required("reason", Text),
    Column("key", LargeBinary),
    Column("value", LargeBinary),
    _required("headers", JSONB),
    PrimaryKeyConstraint("lane", "topic", "topic_id", "partition", "offset"),
    Index("unreadable_recent_idx", "lane", text("recorded_at DESC")),
    schema=SCHEMA,
)

sink_offsets: Final = Table(
    "sink_offsets",
    metadata,
    _required("lane", Text),
    _required("topic", Text),
    _required("partition", Integer),
    Column("topic_id", Text),
    _required("next_offset", BigInteger),
    _required("epoch", BigInteger),
    PrimaryKeyConstraint("lane", "topic", "partition"),
    schema=SCHEMA,
)

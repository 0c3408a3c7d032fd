"""The roles' durable state: runs with their inbox and outbox, verdicts, effects."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

SCHEMA = "ledger"
MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the schema ``ledger``."""
    op.execute("CREATE SCHEMA ledger")
    op.create_table(
        "runs",
        sa.Column("lane", sa.Text, nullable=False),
        sa.Column("correlation_id", sa.Uuid, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("is_open", sa.Boolean, nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("next_wakeup", MOMENT),
        sa.Column("updated_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("lane", "correlation_id", name="runs_pkey"),
        sa.CheckConstraint("version >= 1", name=op.f("runs_version_check")),
        schema=SCHEMA,
        comment="The router's state, one row per execution, moved by version",
    )
    op.create_index(
        "runs_wakeup_idx",
        "runs",
        ["lane", "next_wakeup"],
        schema=SCHEMA,
        postgresql_where=sa.text("next_wakeup IS NOT NULL"),
    )
    op.create_index(
        "runs_open_idx",
        "runs",
        ["lane", "correlation_id"],
        schema=SCHEMA,
        postgresql_where=sa.text("is_open"),
    )
    op.create_table(
        "inbox",
        sa.Column("lane", sa.Text, nullable=False),
        sa.Column("event_id", sa.Uuid, nullable=False),
        sa.Column("correlation_id", sa.Uuid, nullable=False),
        sa.Column("refusal_code", sa.Text),
        sa.Column("refusal_reason", sa.Text),
        sa.Column("at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("lane", "event_id", name="inbox_pkey"),
        sa.CheckConstraint(
            "(refusal_code IS NULL) = (refusal_reason IS NULL)", name=op.f("inbox_refusal_check")
        ),
        schema=SCHEMA,
        comment="The events that the router has taken or refused",
    )
    op.create_table(
        "outbox",
        sa.Column("row_id", sa.BigInteger, sa.Identity(always=True), nullable=False),
        sa.Column("lane", sa.Text, nullable=False),
        sa.Column("correlation_id", sa.Uuid, nullable=False),
        sa.Column("event_id", sa.Uuid, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("row_id", name="outbox_pkey"),
        schema=SCHEMA,
        comment="Messages that the broker has not confirmed yet",
    )
    op.create_index(
        "outbox_lane_correlation_id_idx", "outbox", ["lane", "correlation_id"], schema=SCHEMA
    )
    op.create_table(
        "verdicts",
        sa.Column("lane", sa.Text, nullable=False),
        sa.Column("plan_id", sa.Uuid, nullable=False),
        sa.Column("correlation_id", sa.Uuid, nullable=False),
        sa.Column("plan_hash", sa.Text, nullable=False),
        sa.Column("decision", sa.Text, nullable=False),
        sa.Column("evaluation", sa.Integer, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("recorded_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("lane", "plan_id", name="verdicts_pkey"),
        sa.CheckConstraint(
            "decision IN ('approved', 'needs_approval', 'denied')",
            name=op.f("verdicts_decision_check"),
        ),
        schema=SCHEMA,
        comment="The one verdict on each plan",
    )
    op.create_table(
        "effects",
        sa.Column("lane", sa.Text, nullable=False),
        sa.Column("correlation_id", sa.Uuid, nullable=False),
        sa.Column("run_no", sa.Integer, nullable=False),
        sa.Column("step_id", sa.Text, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("lease_until", MOMENT, nullable=False),
        sa.Column("plan_id", sa.Uuid, nullable=False),
        sa.Column("plan_hash", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("result", sa.Text),
        sa.Column("claimed_at", MOMENT, nullable=False),
        sa.Column("settled_at", MOMENT),
        sa.PrimaryKeyConstraint("lane", "correlation_id", "run_no", "step_id", name="effects_pkey"),
        sa.CheckConstraint(
            "status IN ('started', 'done', 'failed', 'unknown')", name=op.f("effects_status_check")
        ),
        schema=SCHEMA,
        comment="What executors did, or may have done",
    )
    # Room for the next version on the same page, so that most updates touch no index.
    op.execute("ALTER TABLE ledger.runs SET (fillfactor = 60)")
    op.execute("ALTER TABLE ledger.effects SET (fillfactor = 70)")
    # Every row of the outbox is deleted within moments; left to the default, it would be vacuumed
    # only after a fifth of its largest size has died.
    op.execute(
        "ALTER TABLE ledger.outbox SET"
        " (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,"
        " autovacuum_vacuum_insert_threshold = -1)"
    )


def downgrade() -> None:
    """Drop the schema ``ledger`` with all that is in it."""
    for table in ("effects", "verdicts", "outbox", "inbox", "runs"):
        op.drop_table(table, schema=SCHEMA)
    op.execute("DROP SCHEMA ledger")

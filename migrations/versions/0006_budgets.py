"""Budgets: what tenants may spend, what they have spent, and what plans hold back."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

SCHEMA = "ledger"
MOMENT = sa.DateTime(timezone=True)
USD = sa.Numeric(18, 6)


def upgrade() -> None:
    """Make the three tables."""
    op.create_table(
        "budgets",
        sa.Column("lane", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("per", sa.Text, nullable=False),
        sa.Column("cap", USD, nullable=False),
        sa.Column("set_by", sa.Text, nullable=False),
        sa.Column("set_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("lane", "tenant", "per", name="budgets_pkey"),
        sa.CheckConstraint("per IN ('execution', 'day', 'month')", name=op.f("budgets_per_check")),
        sa.CheckConstraint("cap >= 0", name=op.f("budgets_cap_check")),
        schema=SCHEMA,
        comment="What a tenant may spend, in US dollars",
    )
    op.create_table(
        "spending",
        sa.Column("lane", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("period", sa.Text, nullable=False),
        sa.Column("spent", USD, nullable=False),
        sa.Column("reserved", USD, nullable=False),
        sa.PrimaryKeyConstraint("lane", "tenant", "period", name="spending_pkey"),
        sa.CheckConstraint("spent >= 0 AND reserved >= 0", name=op.f("spending_amounts_check")),
        schema=SCHEMA,
        comment="What was taken of the budgets of a tenant, by day and by month in UTC",
    )
    op.create_table(
        "reservations",
        sa.Column("lane", sa.Text, nullable=False),
        sa.Column("correlation_id", sa.Uuid, nullable=False),
        sa.Column("plan_hash", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("periods", ARRAY(sa.Text), nullable=False),
        sa.Column("amount", USD, nullable=False),
        sa.Column("is_open", sa.Boolean, nullable=False),
        sa.Column("reserved_at", MOMENT, nullable=False),
        sa.Column("spent", USD, nullable=False),
        sa.PrimaryKeyConstraint("lane", "correlation_id", "plan_hash", name="reservations_pkey"),
        schema=SCHEMA,
        comment="What plans hold back until their runs end",
    )
    op.create_index(
        op.f("reservations_open_idx"),
        "reservations",
        ["lane", "reserved_at"],
        schema=SCHEMA,
        postgresql_where=sa.text("is_open"),
    )
    # These rows change with every execution of a tenant, and few of them lie on a page.
    op.execute("ALTER TABLE ledger.spending SET (fillfactor = 20)")


def downgrade() -> None:
    """Drop them."""
    for table in ("reservations", "spending", "budgets"):
        op.drop_table(table, schema=SCHEMA)

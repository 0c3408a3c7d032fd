"""What operators did about dead letters: redrives and purges."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

SCHEMA = "ledger"
MOMENT = sa.DateTime(timezone=True)


def _letter() -> list[sa.Column]:
    """Which dead letter is meant: the key of ``history.dead_letters``."""
    return [
        sa.Column("lane", sa.Text, nullable=False),
        sa.Column("origin_topic_id", sa.Text, nullable=False),
        sa.Column("origin_partition", sa.Integer, nullable=False),
        sa.Column("origin_offset", sa.BigInteger, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
    ]


_KEY = ("lane", "origin_topic_id", "origin_partition", "origin_offset", "role")


def upgrade() -> None:
    """Make both tables."""
    op.create_table(
        "redrives",
        *_letter(),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("message_id", sa.Uuid, nullable=False),
        sa.Column("correlation_id", sa.Uuid, nullable=False),
        sa.Column("edited", sa.Boolean, nullable=False),
        sa.Column("requested_by", sa.Text, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("requested_at", MOMENT, nullable=False),
        # NULL until the broker has confirmed it: after a crash nobody knows whether it went out.
        sa.Column("sent_at", MOMENT),
        sa.PrimaryKeyConstraint(*_KEY, "number", name="redrives_pkey"),
        schema=SCHEMA,
        comment="Each time that somebody sent a dead letter's record again",
    )
    op.create_table(
        "purges",
        *_letter(),
        sa.Column("purged_by", sa.Text, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("purged_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint(*_KEY, name="purges_pkey"),
        schema=SCHEMA,
        comment="Dead letters that nobody wants to see any more",
    )


def downgrade() -> None:
    """Drop both tables."""
    op.drop_table("purges", schema=SCHEMA)
    op.drop_table("redrives", schema=SCHEMA)

"""Which state names the plan and the verdict of an execution."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; rows that are there keep what plans and verdicts have said themselves."""
    op.add_column(
        "executions",
        sa.Column("judged_version", sa.Integer, nullable=False, server_default=sa.text("0")),
        schema="history",
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_column("executions", "judged_version", schema="history")

"""Resolutions: who said what became of an effect that was in doubt, and why."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; it is empty where an executor has settled the effect itself."""
    op.add_column("effects", sa.Column("resolution", sa.Text), schema="ledger")


def downgrade() -> None:
    """Drop it."""
    op.drop_column("effects", "resolution", schema="ledger")

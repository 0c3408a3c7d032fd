"""The history schema: events, the read model, dead letters and the sink's positions.

Plain SQL, since most of it (partitions, functions, triggers) has no form in Alembic's operations.
"""

from pathlib import Path

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    script = Path(__file__).with_suffix(".sql").read_text(encoding="utf-8")
    # Without parameters the driver sends the script as it is: several statements, % untouched.
    op.get_bind().exec_driver_sql(script, execution_options={"no_parameters": True})


def downgrade() -> None:
    """Take back."""
    op.execute("DROP SCHEMA history CASCADE")

"""Care for what is old: indexes for the ledger's sweep, functions for history's partitions."""

from pathlib import Path

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

INDEXES = {"inbox": "at", "verdicts": "recorded_at"}
"""Both columns only ever grow, so new entries go to the right end of the index, which is cheap."""


def upgrade() -> None:
    """Add the functions, and the indexes while their tables are in use."""
    script = Path(__file__).with_suffix(".sql").read_text(encoding="utf-8")
    # Without parameters the driver sends the script as it is: several statements, % untouched.
    op.get_bind().exec_driver_sql(script, execution_options={"no_parameters": True})
    with op.get_context().autocommit_block():
        for table, column in INDEXES.items():
            # What a build that was broken off has left is of no use.
            op.drop_index(
                op.f(f"{table}_lane_{column}_idx"),
                schema="ledger",
                if_exists=True,
                postgresql_concurrently=True,
            )
            op.create_index(
                op.f(f"{table}_lane_{column}_idx"),
                table,
                ["lane", column],
                schema="ledger",
                postgresql_concurrently=True,
            )


def downgrade() -> None:
    """Drop them."""
    op.execute("DROP FUNCTION history.move_events_of(date)")
    op.execute("DROP FUNCTION history.drop_events_of(date)")
    with op.get_context().autocommit_block():
        for table, column in INDEXES.items():
            op.drop_index(
                op.f(f"{table}_lane_{column}_idx"),
                table,
                schema="ledger",
                if_exists=True,
                postgresql_concurrently=True,
            )

"""What Alembic runs around every command.

The database's address comes from whoever calls: ``ops.migrate`` hands it over as the attribute
``url``. At a developer's prompt (``alembic revision --autogenerate``) it comes from the settings,
so no file here holds an address or a password.
"""

import time
from typing import Any, Final

from alembic import context
from sqlalchemy import Connection, NullPool, create_engine, make_url, text

from agents.runtime.settings import load_settings
from migrations.tables import metadata

_LOCK: Final = 0x6D696C6C
"""The advisory lock that keeps two processes from migrating at the same time."""
_LOCK_PAUSE: Final = 0.1

_PARTITIONS: Final = text(
    "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE c.relispartition"
)


def database_url() -> str:
    """The address that the caller gave, or that of the settings."""
    given: str | None = context.config.attributes.get("url")
    return given or load_settings().database_url.get_secret_value()


def migrate(connection: Connection) -> None:
    """Run the command that Alembic was asked for, each migration in its own transaction."""
    # Asked for again and again: a statement that waits would hold a snapshot, for which an index
    # that is built CONCURRENTLY would wait in turn.
    while not connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": _LOCK}):
        connection.commit()
        time.sleep(_LOCK_PAUSE)
    partitions = {(schema, name) for schema, name in connection.execute(_PARTITIONS)}
    connection.commit()  # the lock belongs to the session and stays
    schemas = {table.schema for table in metadata.tables.values()}

    def is_declared(name: str | None, kind: str, parents: Any) -> bool:
        """Partitions come and go with the days; the metadata knows their parent alone."""
        if kind == "schema":
            return name in schemas
        return kind != "table" or (parents["schema_name"], name) not in partitions

    context.configure(
        connection=connection,
        target_metadata=metadata,
        include_schemas=True,
        include_name=is_declared,
        compare_server_default=True,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


engine = create_engine(
    make_url(database_url()).set(drivername="postgresql+psycopg"),
    poolclass=NullPool,
    connect_args={"connect_timeout": 10, "application_name": "millstream-migrate"},
)
with engine.connect() as connection:
    migrate(connection)

"""A long history: every row of one real execution, copied as often as wanted.

Each copy has ids of its own, made from the number of the copy and the original's id, so that rows
of several tables that belonged together still do. Moments are moved so that the copies lie in the
last 20 hours: in the same daily partitions as what comes next, which is the hardest for them. As
the columns are read from the database, a new one is copied like the others.
"""

from typing import Any, Final

import psycopg
from bench.voice import Voice
from psycopg import sql

TABLES: Final = (
    *(("history", name) for name in ("executions", "steps", "events")),
    *(("ledger", name) for name in ("runs", "inbox", "verdicts", "effects")),
)
"""What an execution leaves for good, in an order that foreign keys allow."""
_CHUNK: Final = 20_000
_SPAN_SECONDS: Final = 20 * 3600
_COLUMNS: Final = (
    "SELECT column_name, data_type FROM information_schema.columns"
    " WHERE table_schema = %s AND table_name = %s AND is_generated = 'NEVER' AND is_identity = 'NO'"
    " ORDER BY ordinal_position"
)


def fill(url: str, executions: int, voice: Voice) -> dict[str, int]:
    """Add ``executions`` copies of one that has succeeded, and bring the statistics up to date.

    Returns:
        How many rows each table has now.
    """
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = off")
        connection.execute("SELECT history.add_event_partitions(current_date - 1, 9)")
        row = connection.execute(
            "SELECT lane, correlation_id FROM history.executions AS e WHERE report_id IS NOT NULL"
            " AND EXISTS (SELECT FROM ledger.runs AS r WHERE NOT r.is_open"
            " AND r.lane = e.lane AND r.correlation_id = e.correlation_id) LIMIT 1"
        ).fetchone()
        if row is None:
            raise RuntimeError("there is no execution to copy")
        lane, execution = row
        copies = [_copy(connection, *table) for table in TABLES]
        with voice.counting("copied into the history", executions) as update:
            for first in range(1, executions + 1, _CHUNK):
                last = min(executions, first + _CHUNK - 1)
                values = {
                    "lane": lane,
                    "execution": execution,
                    "first": first,
                    "last": last,
                    "gap": _SPAN_SECONDS / executions,
                }
                with connection.transaction():
                    for copy in copies:
                        connection.execute(copy, values)
                update(last)
        return {".".join(table): _count(connection, *table) for table in TABLES}


def settle(url: str) -> None:
    """Leave nothing for Postgres to tidy up while it is measured."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")


def _copy(connection: psycopg.Connection[Any], schema: str, table: str) -> sql.Composed:
    columns = connection.execute(_COLUMNS, (schema, table)).fetchall()
    return sql.SQL(
        "INSERT INTO {table} ({names}) SELECT {values} FROM {table} AS t,"
        " generate_series(%(first)s::int, %(last)s::int) AS n"
        " WHERE t.lane = %(lane)s AND t.correlation_id = %(execution)s"
    ).format(
        table=sql.Identifier(schema, table),
        names=sql.SQL(", ").join(sql.Identifier(name) for name, _ in columns),
        values=sql.SQL(", ").join(_value(name, kind) for name, kind in columns),
    )


def _value(name: str, kind: str) -> sql.Composable:
    """What a copy has in a column."""
    column = sql.SQL("t.{}").format(sql.Identifier(name))
    earlier = sql.SQL("{} - n * %(gap)s * interval '1 second'")
    match kind:
        case "uuid":
            return sql.SQL("md5(n || '/' || {}::text)::uuid").format(column)
        case "timestamp with time zone":
            return earlier.format(column)
        case "date":
            moment = earlier.format(sql.SQL("t.received_at"))
            return sql.SQL("(({}) AT TIME ZONE 'UTC')::date").format(moment)
        case _:
            return column


def _count(connection: psycopg.Connection[Any], schema: str, table: str) -> int:
    row = connection.execute(
        sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(schema, table))
    ).fetchone()
    return int(row[0]) if row else 0

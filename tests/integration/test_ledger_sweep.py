"""The ledger's sweep on a real server: locks, plans, and the command."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from typer.testing import CliRunner, Result

from agents.runtime.database import Database
from agents.runtime.ledger import postgres_sweep
from agents.runtime.ledger.postgres_sweep import SweepStore, Swept
from ops.sweep import ledger_app

pytestmark = pytest.mark.integration

BEFORE = datetime.now(UTC) - timedelta(days=45)


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[SweepStore]:
    database = Database(database_url, 2)
    await database.start()
    yield SweepStore(database)
    await database.close()


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


def add_old_runs(connection: psycopg.Connection[Any], count: int) -> list[UUID]:
    """Executions that ended 60 days ago, each with three inbox entries, a verdict, an effect."""
    ids = [uuid4() for _ in range(count)]
    statements = (
        """
        INSERT INTO ledger.runs
        SELECT '', id, 3, 'success', false, '{}', NULL, now() - interval '60 days'
        FROM unnest(%(ids)s) AS id
        """,
        """
        INSERT INTO ledger.inbox
        SELECT '', gen_random_uuid(), id, NULL, NULL, now() - interval '60 days'
        FROM unnest(%(ids)s) AS id, generate_series(1, 3)
        """,
        """
        INSERT INTO ledger.verdicts
        SELECT '', gen_random_uuid(), id, 'hash', 'approved', 1, '{}', now() - interval '60 days'
        FROM unnest(%(ids)s) AS id
        """,
        """
        INSERT INTO ledger.effects
        SELECT '', id, 1, 'check', 1, 'done', 'me', now(), id, 'hash', 'service.status', '{}',
            now(), now()
        FROM unnest(%(ids)s) AS id
        """,
    )
    for statement in statements:
        connection.execute(statement.encode(), {"ids": ids})
    return ids


async def sweep_all(store: SweepStore, limit: int = 50) -> Swept:
    swept = Swept()
    while (one := await store.sweep(lane="", before=BEFORE, limit=limit)).rows:
        swept += one
    return swept


async def test_a_run_that_somebody_holds_is_not_waited_for(
    store: SweepStore, connection: psycopg.Connection[Any], database_url: str
) -> None:
    held, free = add_old_runs(connection, 2)
    with psycopg.connect(database_url) as other:
        other.execute("SELECT FROM ledger.runs WHERE correlation_id = %s FOR UPDATE", (held,))
        swept = await asyncio.wait_for(sweep_all(store), 5)
        assert swept == Swept(runs=1, events=3, verdicts=0, effects=1)
    left = connection.execute("SELECT DISTINCT correlation_id FROM ledger.inbox").fetchall()
    assert left == [(held,)]
    assert await sweep_all(store) == Swept(runs=1, events=3, verdicts=2, effects=1)
    assert free != held


async def test_several_sweeps_at_once_delete_each_row_once(
    store: SweepStore, connection: psycopg.Connection[Any]
) -> None:
    add_old_runs(connection, 300)
    swept = Swept()
    for _ in range(3):  # one that met only what others held gives up
        for one in await asyncio.gather(*(sweep_all(store, 40) for _ in range(2))):
            swept += one
    assert swept == Swept(runs=300, events=900, verdicts=300, effects=300)


def add_marks(connection: psycopg.Connection[Any], days_ago: int, offsets: range) -> None:
    """For each offset a redrive and a purge of that dead letter, so many days ago."""
    parameters = {"days": days_ago, "offsets": list(offsets)}
    connection.execute(
        """
        INSERT INTO ledger.redrives
        SELECT '', 'topic-id', 0, o, 'planner', 1, 'millstream.intents.v1', gen_random_uuid(),
            gen_random_uuid(), false, 'ann', NULL, now() - make_interval(days => %(days)s), NULL
        FROM unnest(%(offsets)s::bigint[]) AS o
        """,
        parameters,
    )
    connection.execute(
        """
        INSERT INTO ledger.purges
        SELECT '', 'topic-id', 0, o, 'planner', 'ann', NULL,
            now() - make_interval(days => %(days)s)
        FROM unnest(%(offsets)s::bigint[]) AS o
        """,
        parameters,
    )


def add_dead_letter(connection: psycopg.Connection[Any], offset: int) -> None:
    connection.execute(
        """
        INSERT INTO history.dead_letters (
            lane, origin_topic_id, origin_partition, origin_offset, role, origin_topic, code,
            reason, attempt, redrives, headers, partition, "offset", dead_lettered_at
        )
        VALUES ('', 'topic-id', 0, %s, 'planner', 'millstream.intents.v1', 'bug', 'no', 1, 0, '[]',
            0, %s, now() - interval '80 days')
        """,
        (offset, offset),
    )


async def test_what_was_done_about_dead_letters_goes_after_the_dead_letters(
    store: SweepStore, connection: psycopg.Connection[Any]
) -> None:
    add_marks(connection, 60, range(10))
    add_marks(connection, 1, range(10, 12))
    add_dead_letter(connection, 3)
    counted, _ = await store.count(lane="", before=BEFORE)
    assert counted == Swept(redrives=9, purges=9)
    assert await sweep_all(store, limit=4) == counted
    for table in ("redrives", "purges"):
        left = connection.execute(
            f"SELECT origin_offset FROM ledger.{table} ORDER BY origin_offset".encode()  # noqa: S608 - our own names
        ).fetchall()
        # Of 3 history still has the dead letter: without its mark it would show up again.
        assert left == [(3,), (10,), (11,)]
    connection.execute("DELETE FROM history.dead_letters")
    assert await sweep_all(store) == Swept(redrives=1, purges=1)


@pytest.mark.parametrize(
    ("query", "index"),
    [("old_events", "inbox_lane_at_idx"), ("delete_verdicts", "verdicts_lane_recorded_at_idx")],
)
def test_what_is_old_is_found_by_an_index(
    connection: psycopg.Connection[Any], query: str, index: str
) -> None:
    add_old_runs(connection, 5_000)
    connection.execute("UPDATE ledger.inbox SET at = now()")
    connection.execute("UPDATE ledger.verdicts SET recorded_at = now()")
    add_old_runs(connection, 50)
    connection.execute("ANALYZE")
    statement: bytes = getattr(postgres_sweep._SQL, query)
    rows = connection.execute(
        b"EXPLAIN " + statement, {"lane": "", "before": BEFORE, "limit": 500}
    ).fetchall()
    plan = "\n".join(row[0] for row in rows)
    assert index in plan, plan
    assert "Seq Scan on runs" not in plan, plan
    assert "Seq Scan on effects" not in plan, plan


def sweep(url: str, *arguments: str) -> Result:
    return CliRunner().invoke(ledger_app, ["sweep", "--database", url, *arguments])


def test_a_dry_run_counts_and_deletes_nothing(
    connection: psycopg.Connection[Any], database_url: str
) -> None:
    doubtful, *_ = add_old_runs(connection, 3)
    connection.execute(
        "UPDATE ledger.effects SET status = 'unknown' WHERE correlation_id = %s", (doubtful,)
    )
    for _ in range(2):
        counted = json.loads(sweep(database_url, "--dry-run", "--json").output)
        assert counted == {
            "runs": 2,
            "events": 6,
            "verdicts": 2,
            "effects": 2,
            "redrives": 0,
            "purges": 0,
            "spending": 0,
            "kept": 1,
            "retention": "45d",
        }
    said = " ".join(sweep(database_url, "--dry-run").output.split())
    assert "Older than 45d, to be deleted: 2 runs with 2 effects, 6 inbox entries, 2" in said
    assert "As old, but kept: 1. They are unknown" in said


def test_the_command_sweeps_all_there_is(
    connection: psycopg.Connection[Any], database_url: str
) -> None:
    add_old_runs(connection, 30)
    done = sweep(database_url, "--batch", "7")
    assert done.exit_code == 0
    said = "30 runs with 30 effects, 90 inbox entries, 30 verdicts, 0 rows of past spending"
    assert done.output == f"Deleted {said}, and records of 0 redrives and 0 purges.\n"


def test_the_command_stops_when_its_time_is_over(
    connection: psycopg.Connection[Any], database_url: str
) -> None:
    add_old_runs(connection, 3)
    stopped = sweep(database_url, "--for", "0", "--json")
    assert stopped.exit_code == 3
    assert not json.loads(stopped.stdout)["is_done"]


def test_the_command_keeps_to_a_lane(
    connection: psycopg.Connection[Any], database_url: str
) -> None:
    add_old_runs(connection, 2)
    assert "Deleted 0 runs" in sweep(database_url, "--lane", "canary.").output
    assert "Deleted 2 runs" in sweep(database_url).output

"""Migrations on a real server: up, down, up; the code and the database declare the same tables."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from agents.runtime.errors import ConfigurationError, DatabaseUnavailableError
from agents.runtime.settings import ROOT
from ops import migrate

pytestmark = pytest.mark.integration


def relations(url: str) -> set[str]:
    """Everything that is not Postgres's own, with types and functions."""
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            """
            SELECT nspname || '.' || name
            FROM (
                SELECT relnamespace AS space, relname AS name FROM pg_class
                UNION ALL SELECT pronamespace, proname FROM pg_proc
                UNION ALL SELECT oid, 'schema' FROM pg_namespace
            ) AS things
            JOIN pg_namespace ON pg_namespace.oid = space
            WHERE nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema'
            """
        ).fetchall()
    return {row[0] for row in rows}


def test_up_down_and_up_again_ends_where_it_began(blank_database_url: str) -> None:
    url = blank_database_url
    blank = relations(url)
    migrate.upgrade(url)
    first = relations(url)
    assert {"ledger.runs", "ledger.inbox", "ledger.outbox", "history.events"} <= first
    assert migrate.check(url) == []
    migrate.downgrade(url, "base")
    assert relations(url) - blank == {"public.alembic_version", "public.alembic_version_pkc"}
    migrate.upgrade(url)
    assert relations(url) == first
    assert migrate.check(url) == []


def test_each_migration_alone_can_be_taken_back(blank_database_url: str) -> None:
    url = blank_database_url
    steps = [relations(url)]
    while True:
        try:
            migrate.upgrade(url, "+1")
        except ConfigurationError:  # there is none beyond the newest
            break
        steps.append(relations(url))
    assert len(steps) > 1
    for expected in reversed(steps[1:-1]):
        migrate.downgrade(url, "-1")
        assert relations(url) == expected


def test_upgrading_again_changes_nothing(database_url: str) -> None:
    before = relations(database_url)
    migrate.upgrade(database_url)
    assert relations(database_url) == before


def test_processes_that_migrate_at_once_take_turns(blank_database_url: str) -> None:
    with ThreadPoolExecutor(2) as pool:
        # Alembic keeps its context in module globals: two processes, not two threads.
        code = "import sys; from ops import migrate; migrate.upgrade(sys.argv[1])"
        runs = [
            pool.submit(
                subprocess.run,
                [sys.executable, "-c", code, blank_database_url],
                check=True,
                capture_output=True,
                timeout=60,
            )
            for _ in range(2)
        ]
        for run in runs:
            run.result()
    assert migrate.check(blank_database_url) == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("ALTER TABLE ledger.runs ADD COLUMN extra integer", "extra"),
        ("ALTER TABLE ledger.inbox ALTER COLUMN at DROP NOT NULL", "inbox"),
        ("DROP INDEX ledger.runs_wakeup_idx", "runs_wakeup_idx"),
        ("CREATE TABLE history.stray (id integer)", "stray"),
    ],
)
def test_a_difference_between_database_and_code_is_named(
    database_url: str, change: str, named: str
) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute(change.encode())
    [difference] = migrate.check(database_url)
    assert named in difference


def test_partitions_are_no_difference(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("SELECT history.add_event_partitions(current_date, 3)")
    assert migrate.check(database_url) == []


def test_a_database_that_lags_behind_is_told_apart_from_one_that_differs(
    blank_database_url: str,
) -> None:
    with pytest.raises(ConfigurationError, match="not up to date"):
        migrate.check(blank_database_url)


def test_an_unknown_revision_is_named(blank_database_url: str) -> None:
    with pytest.raises(ConfigurationError, match="nonesuch"):
        migrate.upgrade(blank_database_url, "nonesuch")


def test_a_server_that_is_away_is_named_without_the_password(unused_tcp_port: int) -> None:
    with pytest.raises(DatabaseUnavailableError, match=str(unused_tcp_port)) as caught:
        migrate.upgrade(f"postgresql://me:hidden@127.0.0.1:{unused_tcp_port}/none")
    assert "hidden" not in str(caught.value)


def test_alembic_at_the_prompt_takes_the_address_from_the_settings(database_url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "alembic", "check"],
        cwd=ROOT,
        env={**os.environ, "MILLSTREAM_DATABASE_URL": database_url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "No new upgrade operations" in done.stdout

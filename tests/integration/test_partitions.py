"""``millstream partitions`` against a real database."""

import json
import threading
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from typer.testing import CliRunner, Result

from agents.sink.store import Store
from ops.partition_store import EventsInUseError, PartitionStore
from ops.partitions import partitions_app

pytestmark = pytest.mark.integration

DAY = timedelta(days=1)


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def store(connection: psycopg.Connection[Any]) -> PartitionStore:
    return PartitionStore(connection, lock_tries=2, lock_pause=0.01)


class Cli:
    """The command against one database."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __call__(self, *arguments: str, answer: str = "") -> Result:
        runner = CliRunner(env={"COLUMNS": "200"})
        return runner.invoke(partitions_app, [*arguments, "--database", self.url], input=answer)

    def json(self, *arguments: str) -> Any:
        result = self(*arguments, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.output)


@pytest.fixture
def cli(database_url: str) -> Cli:
    return Cli(database_url)


def today() -> date:
    return datetime.now(UTC).date()


def name_of(day: date) -> str:
    return f"events_{day:%Y%m%d}"


def add_events(connection: psycopg.Connection[Any], day: date, count: int = 1) -> None:
    connection.execute(
        """
        INSERT INTO history.events
        SELECT '', %(day)s, gen_random_uuid(), gen_random_uuid(), NULL, 'Intent', 1, 'test', NULL,
            'default', NULL, 1, %(day)s, %(day)s, 'millstream.intents.v1', 0, n, 2, '{}'
        FROM generate_series(1, %(count)s) AS n
        """,
        {"day": day, "count": count},
    )


def add_execution(
    connection: psycopg.Connection[Any], day: date, status: str = "success", *, lane: str = ""
) -> None:
    run = {"lane": lane, "id": uuid4(), "day": day, "status": status}
    connection.execute(
        """
        INSERT INTO history.executions (
            lane, correlation_id, received_at, identity_rank, identity_source, tenant, run_no,
            version, status, plan_evaluation, verdict_evaluation, report_run_no, updated_at
        )
        VALUES (%(lane)s, %(id)s, %(day)s, 0, %(id)s, 'default', 1, 1, %(status)s, 0, 0, 0, %(day)s)
        """,
        run,
    )
    connection.execute(
        """
        INSERT INTO history.steps (
            lane, correlation_id, run_no, step_id, action, dispatch_attempt, state_version, attempt,
            status
        )
        VALUES (%(lane)s, %(id)s, 1, 'check', 'service.status', 1, 1, 1, 'success')
        """,
        run,
    )


def add_dead_letter(connection: psycopg.Connection[Any], day: date, lane: str, offset: int) -> None:
    connection.execute(
        """
        INSERT INTO history.dead_letters (
            lane, origin_topic_id, origin_partition, origin_offset, role, origin_topic, code,
            reason, attempt, redrives, headers, partition, "offset", dead_lettered_at
        )
        VALUES (%s, 'id', 0, %s, 'planner', 'intents', 'bug', 'no', 1, 0, '[]', 0, 0, %s)
        """,
        (lane, offset, day),
    )


def add_unreadable(connection: psycopg.Connection[Any], day: date, offset: int) -> None:
    connection.execute(
        """
        INSERT INTO history.unreadable (
            lane, topic, topic_id, partition, "offset", recorded_at, code, reason, headers
        )
        VALUES ('', 'intents', 'id', 0, %s, %s, 'invalid_message', 'no', '[]')
        """,
        (offset, day),
    )


def count(connection: psycopg.Connection[Any], table: str) -> int:
    counted = f"SELECT count(*) FROM history.{table}"  # noqa: S608 - the name is the test's own
    row = connection.execute(counted.encode()).fetchone()
    return int(row[0]) if row else 0


def test_make_makes_yesterday_today_and_the_days_ahead(cli: Cli, store: PartitionStore) -> None:
    assert cli.json("make", "--days", "3") == {"made": 5, "moved": {}}
    days = [each.day for each in store.partitions()]
    assert days == [today() + n * DAY for n in (-1, 0, 1, 2, 3)] + [None]
    assert cli.json("make", "--days", "3")["made"] == 0


def test_rows_of_the_default_partition_get_a_partition_of_their_own(
    cli: Cli, connection: psycopg.Connection[Any], store: PartitionStore
) -> None:
    old = today() - 40 * DAY
    add_events(connection, old, 30)
    add_events(connection, today(), 20)
    assert cli.json("ls")["days_in_default"] == {str(old): 30, str(today()): 20}
    assert "50 rows of 2 days are in the default partition" in cli("ls").output
    made = cli.json("make", "--days", "1")
    assert made == {"made": 2, "moved": {str(old): 30, str(today()): 20}}
    assert store.days_in_default() == {}
    assert count(connection, name_of(old)) == 30
    assert count(connection, "events") == 50


def test_a_partition_made_of_moved_rows_still_refuses_duplicates(
    connection: psycopg.Connection[Any], store: PartitionStore
) -> None:
    add_events(connection, today(), 3)
    assert store.move(today()) == 3
    copied = connection.execute(
        "INSERT INTO history.events SELECT * FROM history.events ON CONFLICT DO NOTHING"
    )
    assert copied.rowcount == 0
    assert count(connection, "events_default") == 0


def test_the_sink_writes_on_beside_a_move(
    connection: psycopg.Connection[Any], store: PartitionStore, database_url: str
) -> None:
    add_events(connection, today() - DAY, 500)
    stop = threading.Event()
    written = 0

    def write() -> None:
        nonlocal written
        with psycopg.connect(database_url, autocommit=True) as other:
            while not stop.is_set():
                add_events(other, today() - DAY, 10)
                written += 10

    writer = threading.Thread(target=write)
    writer.start()
    try:
        store.move(today() - DAY)
    finally:
        stop.set()
        writer.join(30)
    assert count(connection, "events") == 500 + written
    assert store.days_in_default() == {}


def test_what_the_sink_has_made_is_made_already(store: PartitionStore, database_url: str) -> None:
    with Store(database_url, lane="") as sink:
        assert sink.add_event_partitions(today() - DAY, 9) == 9
    assert store.make(today() - DAY, 9) == 0


def test_a_long_reader_is_not_waited_for_and_is_told(
    store: PartitionStore, database_url: str
) -> None:
    with psycopg.connect(database_url) as reader:
        reader.execute("SELECT count(*) FROM history.events")  # its transaction stays open
        with pytest.raises(EventsInUseError, match="in use by long queries"):
            store.make(today(), 1)
    assert store.make(today(), 1) == 1


def test_ls_shows_days_sizes_and_row_estimates(
    cli: Cli, connection: psycopg.Connection[Any]
) -> None:
    cli("make", "--days", "0")
    add_events(connection, today(), 200)
    connection.execute("ANALYZE history.events")
    listed = {each["name"]: each for each in cli.json("ls")["partitions"]}
    of_today = listed[name_of(today())]
    assert (of_today["day"], of_today["rows"]) == (str(today()), 200)
    assert of_today["size"] > listed[name_of(today() - DAY)]["size"] > 0
    assert listed["events_default"]["day"] is None
    line = next(line for line in cli("ls").output.splitlines() if name_of(today()) in line)
    assert line.split()[-1] == "200"


@pytest.fixture
def aged(connection: psycopg.Connection[Any], store: PartitionStore) -> None:
    """Events and executions of a hundred days ago, of the last kept day, and of today."""
    for ago in (100, 90, 0):
        add_events(connection, today() - ago * DAY, 5)
        store.move(today() - ago * DAY)
        add_execution(connection, today() - ago * DAY)
    add_events(connection, today() - 200 * DAY, 7)
    add_execution(connection, today() - 100 * DAY, lane="canary.")
    add_execution(connection, today() - 100 * DAY, "received")
    add_execution(connection, today() - 100 * DAY, "needs_approval")
    for offset, (ago, lane) in enumerate([(100, ""), (100, "canary."), (90, "")]):
        add_dead_letter(connection, today() - ago * DAY, lane, offset)
    for offset, ago in enumerate([100, 90]):
        add_unreadable(connection, today() - ago * DAY, offset)


@pytest.mark.usefixtures("aged")
def test_drop_says_what_goes_and_asks(cli: Cli, connection: psycopg.Connection[Any]) -> None:
    asked = cli("drop", "--keep", "90d", answer="n\n")
    assert asked.exit_code == 1
    assert name_of(today() - 100 * DAY) in asked.output
    assert name_of(today() - 90 * DAY) not in asked.output
    assert "7 rows of the default partition" in asked.output
    assert "3 executions with their steps" in asked.output
    assert "2 dead letters and 1 unreadable records" in asked.output
    assert (count(connection, "events"), count(connection, "executions")) == (22, 6)
    assert cli("drop", "--keep", "90d").exit_code == 1, "nobody answered"
    assert count(connection, "events") == 22


@pytest.mark.usefixtures("aged")
def test_drop_deletes_what_is_older_in_every_lane_and_nothing_else(
    cli: Cli, connection: psycopg.Connection[Any], store: PartitionStore
) -> None:
    done = cli("drop", "--keep", "90d", answer="y\n")
    assert done.exit_code == 0, done.output
    days = [each.day for each in store.partitions()]
    assert days == [today() - 90 * DAY, today(), None]
    assert count(connection, "events") == 10
    # The last kept day, today, and the one that still waits for a person.
    assert (count(connection, "executions"), count(connection, "steps")) == (3, 3)
    assert (count(connection, "dead_letters"), count(connection, "unreadable")) == (1, 1)
    assert "Nothing is older than" in cli("drop", "--keep", "90d").output


@pytest.mark.usefixtures("aged")
def test_a_program_drops_without_a_question(cli: Cli) -> None:
    assert cli("drop", "--keep", "90d", "--json").exit_code == 2
    assert cli.json("drop", "--keep", "90d", "--yes") == {
        "first_kept": str(today() - 90 * DAY),
        "dropped": [name_of(today() - 100 * DAY)],
        "default_rows": 7,
        "executions": 3,
        "dead_letters": 2,
        "unreadable": 1,
    }


def test_executions_that_changed_lately_stay_however_old(
    cli: Cli, connection: psycopg.Connection[Any]
) -> None:
    add_execution(connection, today() - 100 * DAY)
    connection.execute("UPDATE history.executions SET status = 'failed'")
    assert cli.json("drop", "--keep", "90d", "--yes")["executions"] == 0


def test_many_executions_are_deleted_in_batches(
    cli: Cli, connection: psycopg.Connection[Any]
) -> None:
    connection.execute(
        """
        INSERT INTO history.executions (
            lane, correlation_id, received_at, identity_rank, identity_source, tenant, run_no,
            version, status, plan_evaluation, verdict_evaluation, report_run_no, updated_at
        )
        SELECT '', gen_random_uuid(), now() - interval '99 days', 0, gen_random_uuid(), 'default',
            1, 1, 'success', 0, 0, 0, now() - interval '99 days'
        FROM generate_series(1, 2500)
        """
    )
    assert cli.json("drop", "--keep", "90d", "--yes")["executions"] == 2500


@pytest.mark.parametrize("keep", ["0s", "23h", "soon"])
def test_todays_events_are_never_dropped(cli: Cli, keep: str) -> None:
    refused = cli("drop", "--keep", keep, "--yes")
    assert refused.exit_code == 2, refused.output


def test_the_database_itself_refuses_to_drop_a_day_that_is_not_over(
    store: PartitionStore, connection: psycopg.Connection[Any]
) -> None:
    store.make(today(), 1)
    with pytest.raises(psycopg.DatabaseError, match="that day is not over"):
        store.drop(today())
    assert [each.day for each in store.partitions()] == [today(), None]

"""The sink between a real broker and a real Postgres: what is on the topics is in the tables."""

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support.kafka_servers import KafkaServer
from support.sample_history import COURSES, history_of
from support.sink_log import (
    Log,
    assert_rows_equal_log,
    now,
    positions,
    running,
)
from support.waiting import wait_until

from agents.runtime.dead_letters import dead_letter
from agents.runtime.errors import InvalidMessageError
from agents.runtime.records import Record
from agents.sink import queries
from ops import migrate
from ops.local import EmbeddedPostgres, TansuBroker
from schemas import AgentMessage

pytestmark = pytest.mark.integration


def histories(lane: str, number: int, first: int = 0) -> list[AgentMessage[Any]]:
    return [
        message
        for index in range(first, first + number)
        for message in history_of(
            f"e{index}", COURSES[index % len(COURSES)], lane=lane, received_at=now()
        )
    ]


def wait_for_log(database_url: str, log: Log) -> list[Record]:
    """Wait until the sink has written everything that is on the topics; returns it."""
    ends = dict(log.ends)
    wait_until(lambda: positions(database_url, log.lane) == ends, f"the sink is at {ends}")
    return log.read()


def test_whatever_is_on_the_topics_is_in_the_tables(
    broker: KafkaServer, database_url: str, lane: str
) -> None:
    log = Log(broker.bootstrap_servers, lane)
    log.create()
    messages = histories(lane, 10)
    odd = messages[0].model_copy(update={"attempt": 10**12})
    plans = f"{lane}millstream.plans.v1"
    with running(log.sink(database_url)):
        log.produce(messages)
        for topic in log.topics:
            log.produce_raw(topic, b"\xff\x00", b"\x00 no JSON \xff", [("odd", b"\xfe")])
            log.produce_raw(topic, None, None)
        log.produce_raw(f"{lane}millstream.requests.v1", None, b'{"text": "restart checkout"}')
        log.produce_raw(plans, b"a wrong key", messages[2].to_bytes())
        log.produce_raw(plans, odd.key(), odd.to_bytes())
        refused = dead_letter(
            Record(plans, 0, 1, 0, b"\xff", b"garbage"),
            InvalidMessageError("not JSON"),
            code="invalid_message",
            role="safety_checker",
            attempt=1,
            lane=lane,
            topic_id="id",
        )
        log.produce_raw(refused.topic, refused.key, refused.value, list(refused.headers))
        log.produce(histories(lane, 3, first=10))
        log.produce(messages[:20])
        log.flush()
        records = wait_for_log(database_url, log)
    assert_rows_equal_log(database_url, log, records)
    with psycopg.connect(database_url) as connection:
        (found,) = [
            each
            for each in queries.list_executions(connection, lane=lane)
            if each.title == "restart checkout"
        ]
    assert found.status == "received"


def test_a_message_that_postgres_refuses_is_kept_as_it_came_and_holds_up_nothing(
    kafka: KafkaServer, database_url: str, lane: str
) -> None:
    log = Log(kafka.bootstrap_servers, lane)
    log.create()
    messages = histories(lane, 5)
    # Valid for the schema, too large for the column.
    refused = messages[1].model_copy(update={"attempt": 10**12, "message_id": lane_id(lane)})
    log.produce([*messages[:30], refused, *messages[30:]])
    with running(log.sink(database_url)):
        wait_for_log(database_url, log)
    with psycopg.connect(database_url) as connection:
        (kept,) = queries.unreadable(connection, lane=lane)
        assert kept.value == refused.to_bytes()
        assert "out of range" in kept.reason
        assert len(queries.list_executions(connection, lane=lane)) == 5


def lane_id(lane: str) -> Any:
    return history_of(lane)[0].message_id


def test_a_restarted_sink_goes_on_where_it_was(
    kafka: KafkaServer, database_url: str, lane: str
) -> None:
    log = Log(kafka.bootstrap_servers, lane)
    log.create()
    log.produce(histories(lane, 5))
    with running(log.sink(database_url)):
        wait_for_log(database_url, log)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("TRUNCATE history.events")
    log.produce(histories(lane, 1, first=5))
    with running(log.sink(database_url)):
        wait_for_log(database_url, log)
    with psycopg.connect(database_url) as connection:
        stored = connection.execute("SELECT DISTINCT correlation_id FROM history.events").fetchall()
    assert stored == [(history_of("e5", lane=lane)[0].correlation_id,)]


def test_the_group_in_kafka_shows_how_far_it_is(
    kafka: KafkaServer, database_url: str, lane: str
) -> None:
    log = Log(kafka.bootstrap_servers, lane)
    log.create()
    log.produce(histories(lane, 3))
    with running(log.sink(database_url)):
        wait_for_log(database_url, log)
    committed = log.admin.consumer_group_offsets(f"{lane}millstream-sink")
    assert {place: offset for place, offset in committed.items() if offset} == log.ends


@pytest.mark.real_kafka
def test_a_topic_that_is_made_anew_is_read_from_its_beginning(
    kafka: KafkaServer, database_url: str, lane: str
) -> None:
    log = Log(kafka.bootstrap_servers, lane)
    log.create()
    lost = history_of("lost", lane=lane, received_at=now())
    log.produce([*histories(lane, 5), *lost[:2]])
    with running(log.sink(database_url)):
        wait_for_log(database_url, log)
        log.admin.delete_topics(log.topics)
        create_again(log)
        fresh = histories(lane, 1, first=5)
        log.produce(fresh)
        records = wait_for_log(database_url, log)
        assert len(records) == len(fresh)
        assert_lost(database_url, lane, lost)


def create_again(log: Log) -> None:
    """Kafka frees a name a moment after it has deleted the topic."""
    wait_until(lambda: not set(log.admin.list_topics()) & set(log.topics), "the topics are deleted")
    log.create()


def assert_lost(database_url: str, lane: str, lost: list[AgentMessage[Any]]) -> None:
    with psycopg.connect(database_url) as connection:
        by_status = {
            each.correlation_id: (each.status, each.code)
            for each in queries.list_executions(connection, lane=lane)
        }
    assert by_status[lost[0].correlation_id] == ("failed", "broker_reset")
    assert list(by_status.values()).count(("failed", "broker_reset")) == 1


def test_a_new_embedded_broker_is_read_from_its_beginning(
    tmp_path: Path, database_url: str, lane: str
) -> None:
    with TansuBroker(tmp_path) as first:
        log = Log(first.bootstrap_servers, lane)
        log.create()
        lost = history_of("lost", lane=lane, received_at=now())
        log.produce([*histories(lane, 5), *lost[:1]])
        with running(log.sink(database_url)):
            wait_for_log(database_url, log)
            first.stop()
            with TansuBroker(tmp_path, port=first.port):
                log.create()
                fresh = histories(lane, 1, first=5)
                log.produce(fresh)
                records = wait_for_log(database_url, log)
                assert len(records) == len(fresh)
                assert_lost(database_url, lane, lost)


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(tmp_path / "postgres")
    server.start()
    try:
        yield server
    finally:
        server.remove()


@pytest.mark.faults
def test_a_sink_survives_postgres_breaking_off_and_being_away(
    kafka: KafkaServer, own_postgres: EmbeddedPostgres, lane: str
) -> None:
    database_url = own_postgres.create_database("history")
    migrate.upgrade(database_url)
    log = Log(kafka.bootstrap_servers, lane)
    log.create()
    with running(log.sink(database_url)):
        for round_ in range(3):
            log.produce(histories(lane, 20, first=20 * round_))
            wait_until(lambda: bool(positions(database_url, lane)), "the sink writes")
            own_postgres.restart(immediate=True)
        own_postgres.stop()
        log.produce(histories(lane, 5, first=60))
        own_postgres.start()
        records = wait_for_log(database_url, log)
    assert_rows_equal_log(database_url, log, records)


@pytest.mark.faults
@pytest.mark.real_kafka
@pytest.mark.parametrize("seed", [1, 2])
def test_kills_and_zombies_lose_nothing_and_repeat_nothing(
    kafka: KafkaServer, database_url: str, lane: str, tmp_path: Path, seed: int
) -> None:
    log = Log(kafka.bootstrap_servers, lane)
    log.create()
    chance = random.Random(seed)  # noqa: S311 - the same faults each time
    with sink_processes(kafka, database_url, lane, tmp_path) as spawn:
        first, second = spawn(), spawn()
        writing = threading.Event()
        writer = threading.Thread(target=lambda: _write(log, writing, seed))
        writer.start()
        try:
            wait_until(lambda: both_have_partitions(tmp_path), "both have partitions")
            time.sleep(chance.uniform(0, 1))  # faults come at random moments
            first.send_signal(signal.SIGSTOP)
            # The group gives the partitions of the stopped one to the other.
            wait_for_writes(database_url, log)
            first.send_signal(signal.SIGCONT)
            time.sleep(chance.uniform(0, 1))
            second.kill()
            spawn()
            wait_for_writes(database_url, log)
            time.sleep(chance.uniform(0, 1))
            first.kill()
            spawn()
        finally:
            writing.set()
            writer.join()
        records = wait_for_log(database_url, log)
    assert_rows_equal_log(database_url, log, records)


def both_have_partitions(folder: Path) -> bool:
    claims = re.findall(r"sink_claimed .*partitions=(\d+)", (folder / "sinks.log").read_text())
    return len(claims) > 1 and claims[-1] == claims[-2] != "26"


def wait_for_writes(database_url: str, log: Log) -> None:
    """Wait until all that is on the topics by now is written; more comes meanwhile."""
    wait_until(lambda: bool(log.ends), "there is something on the topics")
    ends = dict(log.ends)

    def all_written() -> bool:
        written = positions(database_url, log.lane)
        return all(written.get(place, 0) >= end for place, end in ends.items())

    wait_until(all_written, f"the sink is at {ends}")


@contextmanager
def sink_processes(
    kafka: KafkaServer, database_url: str, lane: str, folder: Path
) -> "Iterator[Callable[[], subprocess.Popen[bytes]]]":
    """Give a function that starts a sink as a process; all of them are killed in the end."""
    root = Path(__file__).parents[2]
    environment = {
        **os.environ,
        "PYTHONPATH": str(root),
        "MILLSTREAM_KAFKA_BOOTSTRAP": kafka.bootstrap_servers,
        "MILLSTREAM_KAFKA_SESSION_TIMEOUT": "6",
        "MILLSTREAM_DATABASE_URL": database_url,
        "MILLSTREAM_LANE": lane,
    }
    sinks: list[subprocess.Popen[bytes]] = []
    output = folder / "sinks.log"

    def spawn() -> "subprocess.Popen[bytes]":
        with output.open("ab") as log:
            sink = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, str(root / "tests" / "support" / "sink_process.py")],
                env=environment,
                stdout=log,
                stderr=log,
            )
        sinks.append(sink)
        return sink

    try:
        yield spawn
    finally:
        for sink in sinks:
            sink.kill()
            sink.wait()
        print(output.read_text())  # noqa: T201 - pytest shows it when the test fails


def _write(log: Log, done: threading.Event, seed: int) -> None:
    """Write executions all the time, some messages twice and out of order."""
    chance = random.Random(seed)  # noqa: S311 - the same messages each time
    number = 0
    while not done.wait(0.02):
        messages = histories(log.lane, 1, first=number)
        messages += chance.sample(messages, 3)
        chance.shuffle(messages)
        log.produce(messages)
        number += 1

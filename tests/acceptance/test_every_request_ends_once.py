"""Two thousand requests at full speed: each ends exactly once, and every event has its cause."""

import json
import time
from collections import defaultdict
from pathlib import Path
from uuid import UUID

import psycopg
import pytest
from confluent_kafka import Producer
from support.kafka_servers import KafkaServer
from support.postgres_servers import PostgresServer

from ops.stack import Stack, StackOptions
from schemas.identity import derive_message_id

pytestmark = [pytest.mark.integration, pytest.mark.e2e, pytest.mark.timeout(400)]

REQUESTS = 2_000
TEXTS = (
    "status of checkout in staging",
    "restart search in development",
    "delete checkout in production",
    "restart payments",
    "restart checkout and payments in staging",
)


def test_every_request_ends_once_with_a_complete_chain(
    kafka: KafkaServer,
    postgres_server: PostgresServer,
    template_database: str,
    lane: str,
    tmp_path: Path,
) -> None:
    with postgres_server.database(template=template_database) as database:
        url = postgres_server.url_of(database)
        options = StackOptions(
            state=tmp_path,
            kafka=kafka.bootstrap_servers,
            postgres=url,
            lane=lane,
            temporary=True,
        )
        with Stack(options), psycopg.connect(url, autocommit=True) as connection:
            producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "log_level": 0})
            for number in range(REQUESTS):
                body = {"text": TEXTS[number % len(TEXTS)], "correlation_id": f"request {number}"}
                producer.produce(f"{lane}millstream.requests.v1", json.dumps(body).encode())
            assert producer.flush(60) == 0
            wait_until_all_are_reported(connection)
            assert ended(connection) == {
                "success": REQUESTS * 3 // 5,
                "denied": REQUESTS // 5,
                "needs_clarification": REQUESTS // 5,
            }, reasons_of_failures(connection)
            assert terminal_states_per_execution(connection) == {1: REQUESTS}
            assert events_without_their_cause(connection) == 0
            assert connection.execute("SELECT count(*) FROM history.dead_letters").fetchone() == (
                0,
            )
            assert connection.execute("SELECT count(*) FROM history.unreadable").fetchone() == (0,)


def wait_until_all_are_reported(connection: psycopg.Connection) -> None:
    deadline = time.monotonic() + 240
    reported = 0
    while reported < REQUESTS:
        assert time.monotonic() < deadline, (
            f"{reported} of {REQUESTS} reported: {ended(connection)}"
        )
        time.sleep(0.2)
        row = connection.execute(
            "SELECT count(*) FROM history.events WHERE message_type = 'ExecutionReport'"
        ).fetchone()
        reported = row[0] if row else 0


def ended(connection: psycopg.Connection) -> dict[str, int]:
    rows = connection.execute("SELECT status, count(*) FROM history.executions GROUP BY status")
    return dict(rows.fetchall())


def reasons_of_failures(connection: psycopg.Connection) -> list[str]:
    rows = connection.execute(
        "SELECT DISTINCT reason FROM history.executions WHERE status IN ('failed', 'unknown')"
    )
    return [reason for (reason,) in rows]


def terminal_states_per_execution(connection: psycopg.Connection) -> dict[int, int]:
    """How many executions have how many reports; a terminal state yields exactly one."""
    rows = connection.execute(
        "SELECT reports, count(*) FROM (SELECT count(*) AS reports FROM history.events"
        " WHERE message_type = 'ExecutionReport' GROUP BY correlation_id) AS per GROUP BY reports"
    )
    return dict(rows.fetchall())


def events_without_their_cause(connection: psycopg.Connection) -> int:
    """Events whose cause is no event of their execution.

    A report is caused by a state, which history keeps only as a projection; but a state's id
    follows from the event that the router handled, so it is known all the same.
    """
    rows = connection.execute(
        "SELECT lane, correlation_id, message_id, causation_id FROM history.events"
    ).fetchall()
    known: dict[UUID, set[UUID]] = defaultdict(set)
    for lane, execution, message, _ in rows:
        known[execution] |= {
            message,
            derive_message_id(
                lane=lane, correlation_id=execution, role="router", cause=message, index=0
            ),
        }
    return sum(
        cause is not None and cause not in known[execution] for _, execution, _, cause in rows
    )

"""Postgres is away for a while: roles and sink wait, say so once, and go on by themselves."""

import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest
from confluent_kafka import Producer
from support.kafka_servers import KafkaServer
from support.waiting import wait_until

from agents.runtime.database import Database
from agents.runtime.errors import DatabaseUnavailableError
from ops.local import EmbeddedPostgres
from ops.stack import DATABASE, POSTGRES, SINK, WORKER, Stack, StackOptions

pytestmark = [pytest.mark.integration, pytest.mark.faults, pytest.mark.timeout(240)]

TEXTS = ("status of checkout in staging", "restart search in development")
TIME_LIMIT = 1.0
#: After the time limit of the server and the client's grace, a server that hangs is given up.
GIVEN_UP_SECONDS = TIME_LIMIT + 5.0


class Pipeline:
    """A whole stack with a Postgres that a test can take away."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        server = stack._children[POSTGRES]
        assert isinstance(server, EmbeddedPostgres)
        self.postgres = server
        self._producer = Producer(
            {"bootstrap.servers": stack.settings.kafka_bootstrap, "log_level": 0}
        )
        self.sent = 0

    def send(self, number: int) -> None:
        for _ in range(number):
            body = {"text": TEXTS[self.sent % len(TEXTS)]}
            self._producer.produce(
                f"{self.stack.settings.lane}millstream.requests.v1", json.dumps(body).encode()
            )
            self.sent += 1
        assert self._producer.flush(30) == 0

    def query(self, statement: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self.postgres.database_url(DATABASE)) as connection:
            return connection.execute(statement.encode()).fetchall()

    def statuses(self) -> Counter[object]:
        return Counter(status for (status,) in self.query("SELECT status FROM history.executions"))

    def said(self, process: str, event: str) -> int:
        """How often a process has said ``event``."""
        return self.stack._children[process].log_file.read_text().count(f'"event": "{event}"')

    def readiness(self, process: str) -> dict[str, str]:
        (part,) = [each for each in self.stack.parts if each.name == process]
        assert part.address is not None
        answer = httpx.get(part.address.replace("/metrics", "/readyz"), timeout=5.0)
        checks: dict[str, str] = answer.json()["checks"]
        return checks

    def wait_until_all_succeed(self, seconds: float = 90.0) -> None:
        deadline = time.monotonic() + seconds
        while (statuses := self.statuses()) != {"success": self.sent}:
            assert time.monotonic() < deadline, (
                f"{statuses} of {self.sent}; the worker says:\n"
                + self.stack._children[WORKER].log_tail(40)
            )
            time.sleep(0.2)

    def assert_said_once_and_nothing_counted(self) -> None:
        for process in (WORKER, SINK):
            away = self.said(process, "infrastructure_away")
            assert away <= 1, self.stack._children[process].log_tail(40)
            wait_until(
                lambda away=away, process=process: (  # type: ignore[misc] # binds the loop variables
                    self.said(process, "infrastructure_back") == away
                ),
                "whoever was waiting has said that all is well",
            )
            assert self.stack._children[process].is_running
        assert self.said(WORKER, "infrastructure_away"), "somebody has noticed"
        assert not self.said(WORKER, "dead_letter")
        assert not self.said(WORKER, "delayed")
        assert self.query("SELECT count(*) FROM history.dead_letters") == [(0,)]


@pytest.fixture
def pipeline(
    kafka: KafkaServer, lane: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Pipeline]:
    monkeypatch.setenv("MILLSTREAM_DATABASE_TIMEOUT", f"{TIME_LIMIT:g}")
    # Not a temporary one: what its Postgres has confirmed must outlive a crash.
    with Stack(StackOptions(state=tmp_path, kafka=kafka.bootstrap_servers, lane=lane)) as stack:
        pipeline = Pipeline(stack)
        yield pipeline
    pipeline.postgres.remove()


def test_a_server_that_crashes_is_waited_for(pipeline: Pipeline) -> None:
    pipeline.send(150)
    wait_until(lambda: pipeline.statuses()["success"] > 10, "some have ended")
    pipeline.postgres.restart(immediate=True)
    pipeline.send(50)
    pipeline.wait_until_all_succeed()
    pipeline.assert_said_once_and_nothing_counted()


def test_a_server_that_hangs_is_given_up_and_found_again(pipeline: Pipeline) -> None:
    pipeline.send(100)
    wait_until(lambda: pipeline.statuses()["success"] > 10, "some have ended")
    pipeline.postgres.pause()
    pipeline.send(50)
    began = time.monotonic()
    wait_until(
        lambda: "no answer" in pipeline.readiness(WORKER)["ledger"], "it is not ready any more"
    )
    wait_until(
        lambda: (
            bool(pipeline.said(WORKER, "infrastructure_away"))
            and bool(pipeline.said(SINK, "infrastructure_away"))
        ),
        "worker and sink have given it up",
    )
    assert time.monotonic() - began < 3 * GIVEN_UP_SECONDS
    time.sleep(GIVEN_UP_SECONDS)  # it stays away for longer than every time limit
    pipeline.postgres.resume()
    pipeline.wait_until_all_succeed()
    pipeline.assert_said_once_and_nothing_counted()
    assert set(pipeline.readiness(WORKER).values()) == {"ok"}


async def test_a_transaction_on_a_server_that_hangs_is_broken_off(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path, settings={"fsync": "off"}) as server:
        database = Database(server.url, pool_size=1, statement_timeout=0.5)
        await database.start()
        server.pause()
        began = time.monotonic()
        with pytest.raises(DatabaseUnavailableError):
            await database.ping()
        assert time.monotonic() - began < 0.5 + 5.0 + 2.0
        server.resume()
        deadline = time.monotonic() + 20
        while True:
            try:
                await database.ping()
            except DatabaseUnavailableError:
                assert time.monotonic() < deadline
            else:
                break
        await database.close()

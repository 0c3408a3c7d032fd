"""Kafka is away for a while: worker and sink say so once, wait, and go on by themselves."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import psycopg
import pytest
from support.kafka_servers import KafkaServer
from support.pipeline_processes import PipelineProcess, create_topics, variables
from support.waiting import wait_until

from agents.runtime.kafka import KafkaConfig, Outgoing, Producer
from ops.local import EmbeddedPostgres, KafkaBroker
from ops.migrate import upgrade

pytestmark = [pytest.mark.integration, pytest.mark.faults, pytest.mark.timeout(300)]

AWAY, BACK = '"event": "infrastructure_away"', '"event": "infrastructure_back"'
LOGGED_BY_LIBRDKAFKA = '"logger": "librdkafka"'
#: A worker has more than ten clients, each of which tries to reconnect several times a second.
MOST_LINES_OF_LIBRDKAFKA = 10


@pytest.fixture
def server(kafka_libs: Path, tmp_path: Path) -> Iterator[KafkaBroker]:
    """A broker of our own, which is not started yet."""
    settings = {"broker.session.timeout.ms": "3000"}
    broker = KafkaBroker(tmp_path / "kafka", kafka_libs, fast_start=True, settings=settings)
    yield broker
    broker.stop()


class Pipeline:
    """Worker and sink, each a process of its own."""

    def __init__(self, server: KafkaBroker, database_url: str, folder: Path) -> None:
        self._server = server
        self._database_url = database_url
        self._settings = variables(server.bootstrap_servers, database_url, "")
        self._folder = folder
        self._stack = ExitStack()
        self.processes: list[PipelineProcess] = []
        self.sent = 0

    def start(self) -> None:
        for name in ("worker", "sink"):
            process = PipelineProcess(name, settings=self._settings, log=self._folder / name)
            self.processes.append(self._stack.enter_context(process))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def send(self, number: int) -> None:
        self.sent += number
        asyncio.run(self._send(number))

    async def _send(self, number: int) -> None:
        producer = Producer(KafkaConfig(bootstrap_servers=self._server.bootstrap_servers))
        # It ends with a question, for which no service is needed.
        body = json.dumps({"text": "restart checkout"}).encode()
        await producer.send_all(
            Outgoing("millstream.requests.v1", None, body) for _ in range(number)
        )
        await producer.close()

    def ended(self) -> int:
        """How many executions have ended, whatever came of them."""
        with psycopg.connect(self._database_url) as connection:
            (row,) = connection.execute(
                "SELECT count(*) FROM history.executions WHERE finished_at IS NOT NULL"
            ).fetchall()
        return int(row[0])

    def wait_until_all_end(self) -> None:
        wait_until(lambda: self.ended() == self.sent, "all executions have ended")

    def wait_until_ready(self) -> None:
        for process in self.processes:
            wait_until(process.is_ready, "it is ready")

    def wait_until_said(self, event: str, dependency: str) -> None:
        for process in self.processes:
            wait_until(
                lambda process=process: bool(process.lines(event, dependency)),  # type: ignore[misc] # binds the loop variable
                f"{event} {dependency}",
            )

    def assert_said_once(self, dependency: str) -> None:
        self.wait_until_said(BACK, dependency)
        for process in self.processes:
            assert len(process.lines(AWAY)) == len(process.lines(AWAY, dependency)) == 1
            assert len(process.lines(BACK)) == 1
            assert process.is_running
            assert len(process.lines(LOGGED_BY_LIBRDKAFKA)) <= MOST_LINES_OF_LIBRDKAFKA
            assert not process.lines('"event": "dead_letter"')
            assert not process.lines('"event": "delayed"')


@pytest.fixture
def pipeline(server: KafkaBroker, database_url: str, tmp_path: Path) -> Iterator[Pipeline]:
    with Pipeline(server, database_url, tmp_path) as pipeline:
        yield pipeline


@pytest.mark.real_kafka
@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_a_broker_that_goes_is_said_once_and_waited_for(
    server: KafkaBroker, pipeline: Pipeline, how: str
) -> None:
    server.start()
    create_topics(server.bootstrap_servers, "")
    pipeline.start()
    pipeline.wait_until_ready()
    pipeline.send(30)
    pipeline.wait_until_all_end()

    if how == "killed":
        server.kill()
    else:
        server.pause()
    pipeline.wait_until_said(AWAY, '"dependency": "kafka"')
    for process in pipeline.processes:
        assert "no Kafka broker answers" in process.checks()["kafka"]
        exposed = process.ask("/metrics")
        assert exposed is not None
        away = [
            line
            for line in exposed.text.splitlines()
            if line.startswith("millstream_infrastructure_away{")
        ]
        assert away
        assert all(line.endswith(" 1.0") for line in away), away
    if how == "killed":
        # The session of every consumer ends meanwhile: nobody has partitions any more.
        wait_until(
            lambda: "none yet" in pipeline.processes[0].checks().get("partitions", ""),
            "the worker knows that it has lost its partitions",
        )
        server.start()
    else:
        server.resume()
    pipeline.send(30)
    pipeline.wait_until_all_end()
    pipeline.wait_until_ready()
    pipeline.assert_said_once('"dependency": "kafka"')


@pytest.mark.real_kafka
def test_worker_and_sink_that_start_while_kafka_is_away_wait_for_it(
    server: KafkaBroker, pipeline: Pipeline
) -> None:
    server.start()
    create_topics(server.bootstrap_servers, "")
    server.kill()
    pipeline.start()
    pipeline.wait_until_said(AWAY, '"dependency": "kafka"')
    for process in pipeline.processes:
        assert "no Kafka broker answers" in process.checks()["kafka"]
        live = process.ask("/livez")
        assert live is not None
        assert live.status_code == 200
    server.start()
    pipeline.wait_until_ready()
    pipeline.send(10)
    pipeline.wait_until_all_end()
    pipeline.assert_said_once('"dependency": "kafka"')


def test_worker_and_sink_that_start_while_postgres_is_away_wait_for_it(
    kafka: KafkaServer, lane: str, tmp_path: Path
) -> None:
    create_topics(kafka.bootstrap_servers, lane)
    with (
        EmbeddedPostgres(tmp_path / "postgres", settings={"fsync": "off"}) as server,
        ExitStack() as stack,
    ):
        server.create_database("millstream")
        url = server.database_url("millstream")
        upgrade(url)
        server.stop()
        settings = variables(kafka.bootstrap_servers, url, lane)
        processes = [
            stack.enter_context(PipelineProcess(name, settings=settings, log=tmp_path / name))
            for name in ("worker", "sink")
        ]
        for process in processes:
            wait_until(
                lambda process=process: bool(process.lines(AWAY, '"dependency": "postgres"')),  # type: ignore[misc] # binds the loop variable
                "it says that Postgres is away",
            )
            assert "Postgres is not available" in str(process.checks())
            assert not process.is_ready()
        server.start()
        for process in processes:
            wait_until(process.is_ready, "it is ready")
            assert len(process.lines(AWAY)) == len(process.lines(BACK)) == 1
            assert process.stop() == 0
    server.remove()


@pytest.mark.parametrize("name", ["worker", "sink"])
def test_a_process_that_waits_to_start_stops_when_it_is_told(
    name: str, unused_tcp_port: int, database_url: str, tmp_path: Path
) -> None:
    settings = variables(f"127.0.0.1:{unused_tcp_port}", database_url, "")
    with PipelineProcess(name, settings=settings, log=tmp_path / "log") as process:
        wait_until(lambda: bool(process.lines(AWAY)), "it says that Kafka is away")
        assert process.stop() == 0, process.log


@pytest.mark.parametrize("name", ["worker", "sink"])
@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ("password", "password authentication failed"),
        ("database", "does not exist"),
        ("schema", "run its migrations first"),
    ],
)
def test_what_waiting_does_not_mend_ends_a_start_at_once(
    name: str, wrong: str, reason: str, kafka: KafkaServer, lane: str, tmp_path: Path
) -> None:
    create_topics(kafka.bootstrap_servers, lane)
    with EmbeddedPostgres(tmp_path / "postgres", settings={"fsync": "off"}) as server:
        server.create_database("millstream")
        url = server.database_url("millstream")
        if wrong == "password":
            user, _, address = url.partition("@")
            url = f"{user.rpartition(':')[0]}:wrong@{address}"
        elif wrong == "database":
            url = server.database_url("other")
        settings = variables(kafka.bootstrap_servers, url, lane)
        with PipelineProcess(name, settings=settings, log=tmp_path / "log") as process:
            assert process.wait() == 2, process.log
            assert reason in process.log
            assert "Traceback" not in process.log
            assert not process.lines(AWAY)
    server.remove()


@pytest.fixture
def guarded(server: KafkaBroker, unused_tcp_port: int) -> dict[str, str]:
    """The settings of a process that may log in to a broker with passwords."""
    listeners = (
        f"PLAINTEXT://127.0.0.1:{server.port}",
        f"CONTROLLER://127.0.0.1:{server._controller_port}",
        f"GUARDED://127.0.0.1:{unused_tcp_port}",
    )
    server._settings |= {
        "listeners": ",".join(listeners),
        "advertised.listeners": f"{listeners[0]},{listeners[2]}",
        "listener.security.protocol.map": (
            "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,GUARDED:SASL_PLAINTEXT"
        ),
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.guarded.plain.sasl.jaas.config": (
            "org.apache.kafka.common.security.plain.PlainLoginModule required "
            'user_millstream="right-Pa55";'
        ),
    }
    server.start()
    create_topics(server.bootstrap_servers, "")
    return {
        "MILLSTREAM_KAFKA_BOOTSTRAP": f"127.0.0.1:{unused_tcp_port}",
        "MILLSTREAM_KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "MILLSTREAM_KAFKA_SASL_MECHANISM": "PLAIN",
        "MILLSTREAM_KAFKA_SASL_USERNAME": "millstream",
        "MILLSTREAM_KAFKA_SASL_PASSWORD": "right-Pa55",
    }


@pytest.mark.real_kafka
def test_a_broker_that_refuses_the_password_is_not_waited_for(
    guarded: dict[str, str], database_url: str, tmp_path: Path
) -> None:
    right = {**variables("", database_url, ""), **guarded}
    wrong = {**right, "MILLSTREAM_KAFKA_SASL_PASSWORD": "wrong-Pa55"}
    nonsense = {**right, "MILLSTREAM_KAFKA_SASL_MECHANISM": "NONSENSE"}
    for name in ("worker", "sink"):
        with PipelineProcess(name, settings=right, log=tmp_path / f"{name}-right") as process:
            wait_until(process.is_ready, "it is ready")
        for settings, reason in ((wrong, "Authentication failed"), (nonsense, "NONSENSE")):
            log = tmp_path / f"{name}-{reason[:4]}"
            with PipelineProcess(name, settings=settings, log=log) as process:
                assert process.wait() == 2, process.log
                assert reason in process.log.splitlines()[-1]
                assert "Pa55" not in process.log
                assert not process.lines(AWAY)

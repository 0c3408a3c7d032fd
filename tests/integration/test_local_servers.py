"""Servers that Millstream starts as child processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import psycopg
import pytest
from confluent_kafka import Consumer, Producer
from support.kafka_servers import KafkaServer
from support.waiting import wait_until

from agents.runtime.errors import KafkaUnavailableError
from agents.runtime.kafka_admin import KafkaAdmin, NewTopicSpec, wait_until_reachable
from ops.local import (
    EmbeddedPostgres,
    KafkaBroker,
    KafkaJarsUnavailableError,
    LocalProcess,
    ServerStartError,
    TansuBroker,
    free_port,
    is_listening,
    kafka_jars,
)

pytestmark = pytest.mark.integration

SLEEPER = [sys.executable, "-c", "import time; print('awake', flush=True); time.sleep(600)"]


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(tmp_path / "postgres")
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def maven_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a Java and a Maven of our making, the only programs that are found."""
    write_script(tmp_path / "java", "echo 'openjdk version \"21.0.1\"' >&2")
    write_script(
        tmp_path / "mvn",
        f"echo called >> {tmp_path / 'calls'}\n"
        'folder="${6#-DoutputDirectory=}"; /bin/mkdir "$folder"; : > "$folder/kafka_2.13.jar"',
    )
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    kafka_jars.java_program.cache_clear()
    yield tmp_path
    kafka_jars.java_program.cache_clear()


def write_script(path: Path, body: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def echo(bootstrap_servers: str, topic: str, value: bytes) -> bytes | None:
    """Produce a record and return what a consumer group reads."""
    producer = Producer({"bootstrap.servers": bootstrap_servers, "message.max.bytes": 8_000_000})
    producer.produce(topic, value)
    assert producer.flush(20) == 0
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": f"{topic}.group",
            "auto.offset.reset": "earliest",
            "session.timeout.ms": 6000,
            "fetch.message.max.bytes": 8_000_000,
        }
    )
    try:
        consumer.subscribe([topic])
        record = consumer.poll(30)
        assert record is not None
        assert record.error() is None
        return record.value()
    finally:
        consumer.close()


def create_topic(bootstrap_servers: str, topic: str) -> None:
    KafkaAdmin(bootstrap_servers).create_topics(
        [NewTopicSpec(topic, partitions=1, replication_factor=1)]
    )


def value_in(url: str) -> object:
    with psycopg.connect(url, connect_timeout=5) as connection:
        row = connection.execute("SELECT n FROM kept").fetchone()
        return row and row[0]


# --- any process ------------------------------------------------------------------------------


def test_a_process_that_ends_at_once_is_reported_with_its_log_and_what_to_do(
    tmp_path: Path,
) -> None:
    process = LocalProcess(
        "the clock",
        [sys.executable, "-c", "import sys; print('the spring is broken'); sys.exit(3)"],
        folder=tmp_path / "clock",
        ready=lambda: False,
        hint="Wind it up.",
    )

    with pytest.raises(ServerStartError) as error:
        process.start()

    message = str(error.value)
    assert "the clock ended with status 3 instead of starting" in message
    assert "the spring is broken" in message
    assert str(process.log_file) in message
    assert message.endswith("Wind it up.")
    assert not process.is_running


def test_a_process_that_is_never_ready_is_killed_and_reported(tmp_path: Path) -> None:
    seen: list[int] = []

    def ready() -> bool:
        seen.append(process.pid)
        return False

    process = LocalProcess("the sleeper", SLEEPER, folder=tmp_path, ready=ready, start_timeout=0.5)

    with pytest.raises(ServerStartError, match=r"was not ready after 0\.5 s"):
        process.start()

    assert is_gone(seen[0])


def test_a_process_that_ignores_the_request_to_end_is_killed(tmp_path: Path) -> None:
    script = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True)"
    process = LocalProcess(
        "the deaf one",
        [sys.executable, "-c", f"{script}; time.sleep(600)"],
        folder=tmp_path,
        ready=lambda: "deaf" in process.log_tail(),
        stop_timeout=0.3,
    )
    with process:
        pid = process.pid

    assert is_gone(pid)


def test_a_paused_process_can_be_stopped(tmp_path: Path) -> None:
    process = LocalProcess(
        "the sleeper", SLEEPER, folder=tmp_path, ready=lambda: "awake" in process.log_tail()
    )
    with process:
        pid = process.pid
        process.pause()
        wait_until(
            lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED, "the process is stopped"
        )

    assert is_gone(pid)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_server_does_not_outlive_its_owner_however_that_dies(
    end: signal.Signals, tmp_path: Path
) -> None:
    script = (
        "import signal, sys, time\n"
        "from pathlib import Path\n"
        "from ops.local import TansuBroker\n"
        # Ignored, and inherited as such, where the tests themselves run in the background.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "broker = TansuBroker(Path(sys.argv[1]))\n"
        "broker.start()\n"
        "print(broker.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen(  # noqa: S603 - our own script
        [sys.executable, "-c", script, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).parents[2],
    ) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        assert not is_gone(pid)
        owner.send_signal(end)

    wait_until(lambda: is_gone(pid), "the process is gone")


def test_a_start_is_refused_while_another_process_listens_on_the_port(tmp_path: Path) -> None:
    with TansuBroker(tmp_path / "first") as first:
        second = TansuBroker(tmp_path / "second", port=first.port)

        with pytest.raises(ServerStartError, match=f"listens on port {first.port}"):
            second.start()

        assert first.is_running


def test_free_ports_differ_and_nobody_listens_on_them() -> None:
    ports = [free_port() for _ in range(50)]

    assert len(set(ports)) == 50
    assert not any(is_listening(port) for port in ports)


# --- brokers ----------------------------------------------------------------------------------


def test_the_embedded_broker_carries_a_record_and_leaves_nothing(tmp_path: Path) -> None:
    with TansuBroker(tmp_path) as broker:
        pid = broker.pid
        create_topic(broker.bootstrap_servers, "echo")

        assert echo(broker.bootstrap_servers, "echo", b"hello") == b"hello"

    assert is_gone(pid)
    assert not is_listening(broker.port)


def test_a_restarted_embedded_broker_has_no_topics(tmp_path: Path) -> None:
    broker = TansuBroker(tmp_path)
    with broker:
        create_topic(broker.bootstrap_servers, "echo")

    with broker:
        assert KafkaAdmin(broker.bootstrap_servers).list_topics() == {}


def test_two_embedded_brokers_do_not_meet(tmp_path: Path) -> None:
    with TansuBroker(tmp_path / "one") as one, TansuBroker(tmp_path / "two") as two:
        create_topic(one.bootstrap_servers, "only-in-one")

        assert "only-in-one" in KafkaAdmin(one.bootstrap_servers).list_topics()
        assert KafkaAdmin(two.bootstrap_servers).list_topics() == {}


def test_kafka_carries_a_large_record_and_keeps_its_topics_over_a_crash(
    tmp_path: Path, kafka_libs: Path
) -> None:
    broker = KafkaBroker(
        tmp_path,
        kafka_libs,
        fast_start=True,
        settings={"broker.session.timeout.ms": "3000", "broker.heartbeat.interval.ms": "500"},
    )
    large = os.urandom(4_500_000)
    with broker:
        pid = broker.pid
        create_topic(broker.bootstrap_servers, "kept")
        before = KafkaAdmin(broker.bootstrap_servers).list_topics()["kept"]
        assert echo(broker.bootstrap_servers, "kept", large) == large

        broker.kill()
        assert is_gone(pid)
        broker.start()

        pid = broker.pid
        assert KafkaAdmin(broker.bootstrap_servers).list_topics() == {"kept": before}

    assert is_gone(pid)
    assert not is_listening(broker.port)


def test_kafka_says_why_it_does_not_start(tmp_path: Path, kafka_libs: Path) -> None:
    broker = KafkaBroker(
        tmp_path, kafka_libs, fast_start=True, settings={"message.max.bytes": "a lot"}
    )

    with pytest.raises(ServerStartError, match=r"(?s)could not format.*message\.max\.bytes"):
        broker.start()


def test_without_java_the_error_names_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    kafka_jars.java_program.cache_clear()

    with pytest.raises(KafkaJarsUnavailableError, match=r"install a Java runtime, version 17"):
        kafka_jars.resolve_kafka_jars(tmp_path)
    kafka_jars.java_program.cache_clear()


def test_without_maven_the_error_names_what_to_install(maven_folder: Path) -> None:
    (maven_folder / "mvn").unlink()

    with pytest.raises(KafkaJarsUnavailableError, match="install Maven 3"):
        kafka_jars.resolve_kafka_jars(maven_folder / "cache")


def test_jars_are_fetched_once_however_many_ask(maven_folder: Path) -> None:
    with ThreadPoolExecutor() as pool:
        folders = list(pool.map(kafka_jars.resolve_kafka_jars, [maven_folder / "cache"] * 4))

    assert len(set(folders)) == 1
    assert [jar.name for jar in folders[0].iterdir()] == ["kafka_2.13.jar"]
    assert (maven_folder / "calls").read_text() == "called\n"


def test_a_failed_fetch_says_what_maven_said_and_leaves_no_half_folder(maven_folder: Path) -> None:
    write_script(maven_folder / "mvn", "echo 'no route to repository'; exit 1")

    with pytest.raises(KafkaJarsUnavailableError, match="no route to repository"):
        kafka_jars.resolve_kafka_jars(maven_folder / "cache")

    assert [path.name for path in (maven_folder / "cache").iterdir()] == ["lock"]


def test_an_old_java_is_refused_with_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_script(tmp_path / "bin" / "java", "echo 'openjdk version \"1.8.0_402\"' >&2")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    kafka_jars.java_program.cache_clear()

    with pytest.raises(KafkaJarsUnavailableError, match=r"1\.8\.0_402"):
        kafka_jars.java_program()
    kafka_jars.java_program.cache_clear()


def test_waiting_for_a_broker_that_is_not_there_ends_in_time() -> None:
    started = time.monotonic()

    with pytest.raises(KafkaUnavailableError, match="no Kafka broker answers"):
        wait_until_reachable(f"127.0.0.1:{free_port()}", 1.0)

    assert time.monotonic() - started < 2.5


# --- PostgreSQL -------------------------------------------------------------------------------


def test_postgres_answers_and_leaves_nothing(postgres: EmbeddedPostgres) -> None:
    pids = [postgres.pid, *(child.pid for child in psutil.Process(postgres.pid).children())]
    with psycopg.connect(postgres.url) as connection:
        row = connection.execute("SELECT current_setting('fsync'), 'ä' < 'z', 1 + 1").fetchone()

    assert row == ("on", False, 2)

    postgres.stop()
    wait_until(lambda: all(is_gone(pid) for pid in pids), "all are gone")
    assert not is_listening(postgres.port)


def test_postgres_refuses_who_does_not_know_the_password(postgres: EmbeddedPostgres) -> None:
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(f"postgresql://postgres:guess@127.0.0.1:{postgres.port}/postgres")


@pytest.mark.parametrize("crash", ["kill", "immediate"])
def test_postgres_keeps_what_was_committed_over_a_crash(
    postgres: EmbeddedPostgres, crash: str
) -> None:
    with psycopg.connect(postgres.url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS n")
    idle = psycopg.connect(postgres.url)  # a session that is open when it happens

    if crash == "kill":
        postgres.kill()
        postgres.start()
    else:
        postgres.restart(immediate=True)

    assert value_in(postgres.url) == 42
    with pytest.raises(psycopg.OperationalError):
        idle.execute("SELECT 1")
    idle.close()


def test_a_paused_postgres_answers_nobody_until_it_is_resumed(postgres: EmbeddedPostgres) -> None:
    with psycopg.connect(postgres.url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS n")
    postgres.pause()
    try:
        with pytest.raises(psycopg.OperationalError, match="timeout"):
            psycopg.connect(postgres.url, connect_timeout=2)
    finally:
        postgres.resume()

    assert value_in(postgres.url) == 42


def test_a_database_can_be_copied_from_another(postgres: EmbeddedPostgres) -> None:
    original = postgres.create_database("original")
    with psycopg.connect(original) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS n")

    copy = postgres.create_database("copy", template="original")

    assert value_in(copy) == 7
    with pytest.raises(RuntimeError, match="already exists"):
        postgres.create_database("copy")


def test_postgres_says_why_it_does_not_start(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path, settings={"fsync": "off", "no_such_setting": "1"})
    try:
        with pytest.raises(ServerStartError, match="no_such_setting"):
            server.start()
    finally:
        server.remove()


# --- fixtures ---------------------------------------------------------------------------------


def test_each_test_gets_an_empty_database(blank_database_url: str) -> None:
    with psycopg.connect(blank_database_url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS n")

    assert value_in(blank_database_url) == 1


def test_topics_of_a_lane_live_on_every_kind_of_broker(broker: KafkaServer, lane: str) -> None:
    address = broker.bootstrap_servers
    create_topic(address, f"{lane}echo")

    assert echo(address, f"{lane}echo", b"hello") == b"hello"

"""Real servers for any test, and a lane and a database of its own.

Where the servers come from is decided in ``support/`` in the order of ARCHITECTURE.md: addresses
from MILLSTREAM_TEST_KAFKA and MILLSTREAM_TEST_POSTGRES, then containers, then local processes.
"""

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from support import real_kafka_report
from support.kafka_servers import KafkaServer, NoRealKafkaError, kafka_jars, real_kafka
from support.postgres_servers import NoPostgresError, PostgresServer, real_postgres

from ops.local import TansuBroker


@pytest.fixture(scope="session", autouse=True)
def _plain_tracebacks() -> None:
    """Structlog's default draws local variables, which takes seconds per traceback."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
        ]
    )


@pytest.fixture(scope="session")
def kafka(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[KafkaServer]:
    """Apache Kafka; where there is none, the embedded broker (``is_real`` tells)."""
    try:
        with real_kafka(tmp_path_factory.mktemp("kafka")) as server:
            yield server
    except NoRealKafkaError as error:
        real_kafka_report.missing(request.config, str(error))
        yield request.getfixturevalue("embedded_broker")


@pytest.fixture(scope="session")
def _kafka_jars(request: pytest.FixtureRequest) -> Path | None:
    try:
        return kafka_jars()
    except NoRealKafkaError as error:
        real_kafka_report.missing(request.config, str(error))
        return None


@pytest.fixture
def kafka_libs(request: pytest.FixtureRequest, _kafka_jars: Path | None) -> Path:
    """The folder of Kafka's jars, for tests that start, pause and kill a broker of their own."""
    if _kafka_jars is None:
        real_kafka_report.skip(request)
    return _kafka_jars


@pytest.fixture(scope="session")
def embedded_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """The embedded broker, whatever else there is."""
    with TansuBroker(tmp_path_factory.mktemp("tansu")) as broker:
        yield KafkaServer(broker.bootstrap_servers, is_real=False, origin="embedded (Tansu)")


@pytest.fixture(params=["kafka", "embedded"])
def broker(request: pytest.FixtureRequest) -> KafkaServer:
    """Each kind of broker in turn: a test of the main path runs on both."""
    if request.param == "embedded":
        embedded: KafkaServer = request.getfixturevalue("embedded_broker")
        return embedded
    server: KafkaServer = request.getfixturevalue("kafka")
    if not server.is_real:
        real_kafka_report.skip(request)
    return server


@pytest.fixture(autouse=True)
def _real_kafka_where_marked(request: pytest.FixtureRequest) -> None:
    """Skip what is marked ``real_kafka`` where there is none, and note what ran without it."""
    marked = request.node.get_closest_marker("real_kafka") is not None
    if not marked and "kafka" not in request.fixturenames:
        return
    if request.getfixturevalue("kafka").is_real:
        return
    if marked:
        real_kafka_report.skip(request)
    real_kafka_report.ran_on_the_embedded_broker(request)


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """PostgreSQL, with fsync off where it is ours."""
    try:
        with real_postgres(tmp_path_factory.mktemp("postgres")) as server:
            yield server
    except NoPostgresError as error:
        pytest.exit(f"no PostgreSQL for the tests: {error}", returncode=1)


@pytest.fixture(scope="session")
def template_database(postgres_server: PostgresServer) -> Iterator[str]:
    """The name of a database with all migrations applied, which ``database_url`` copies."""
    from ops import migrate  # noqa: PLC0415 - only tests with a database load Alembic

    with postgres_server.database() as name:
        migrate.upgrade(postgres_server.url_of(name))
        yield name


@pytest.fixture
def database_url(postgres_server: PostgresServer, template_database: str) -> Iterator[str]:
    """The address of a fresh, migrated database; it is dropped after the test."""
    with postgres_server.database(template=template_database) as name:
        yield postgres_server.url_of(name)


@pytest.fixture
def blank_database_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The address of an empty database; it is dropped after the test."""
    with postgres_server.database() as name:
        yield postgres_server.url_of(name)


@pytest.fixture
def lane() -> str:
    """A prefix of topics and groups that no other test has, such as ``t3f9a1c.``."""
    return f"t{secrets.token_hex(4)}."


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in one line what was not run on Apache Kafka, if anything was not."""
    line = real_kafka_report.summary(terminalreporter.config)
    if line:
        terminalreporter.write_line(line, yellow=True)

"""The whole pipeline on this machine: broker, database, playground, roles and sink.

Servers are embedded, from Kafka's jars, or somebody else's by address. Everything that is started
here is a child of this process, is stopped in order, and never outlives it.
"""

import os
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from agents.runtime.errors import ConfigurationError
from agents.runtime.host import kafka_config
from agents.runtime.kafka_admin import KafkaAdmin, wait_until_reachable
from agents.runtime.settings import PREFIX, SECRET_PREFIX, Settings, load_settings
from agents.runtime.topology import load_topology
from ops.keys import login, provide_keys
from ops.local import (
    EmbeddedPostgres,
    KafkaBroker,
    LocalProcess,
    TansuBroker,
    free_port,
    is_listening,
    resolve_kafka_jars,
)
from ops.running import Part, RunningStack, read_stack, without_credentials
from ops.topic_changes import ensure_topics

EMBEDDED: Final = "embedded"
JARS: Final = "jars"
DATABASE: Final = "millstream"

BROKER: Final = "broker"
POSTGRES: Final = "postgres"
PLAYGROUND: Final = "playground"
WORKER: Final = "worker"
SINK: Final = "sink"
_SERVERS: Final = (PLAYGROUND, POSTGRES, BROKER)

_WEBHOOK: Final = SECRET_PREFIX + "NOTIFY_WEBHOOK"
"""Where the shipped catalogue's messages go: to the playground, unless the variable is set."""
_REACHABLE_SECONDS: Final = 10.0
_START_SECONDS: Final = 60.0
_DRAIN_SECONDS: Final = 4.0
"""How long handlers may finish; all in all a stop takes no more than about ten seconds."""
_STOP_SECONDS: Final = 7.0


@dataclass(frozen=True, kw_only=True)
class StackOptions:
    """What a stack is made of."""

    state: Path
    """Where data and logs go."""
    kafka: str = EMBEDDED
    """``embedded``, ``jars``, or ``host:port`` of a broker that runs already."""
    postgres: str = EMBEDDED
    """``embedded``, or the URL of a database that is there already."""
    kafka_port: int | None = None
    """The port of our own broker; a free one if not given."""
    postgres_port: int | None = None
    playground_port: int | None = None
    processes: bool = False
    """Whether each role has a process of its own, rather than one worker hosting them all."""
    servers_only: bool = False
    """Whether only broker, database and playground run, without roles and sink."""
    temporary: bool = False
    """Whether nothing is kept: Postgres does not wait for the disk, and its data go with it."""
    lane: str | None = None
    """The lane that the stack serves; that of the environment if not given."""
    approvers: tuple[str, ...] = field(default_factory=lambda: (login(),))
    """Who gets a key to approve with, unless the environment names a list of principals."""


class Stack:
    """The pipeline as one thing to start, to look after and to stop.

    Args:
        options: What it is made of.
        tell: Called with each thing that is about to be done, in a few words.
    """

    def __init__(
        self, options: StackOptions, *, tell: Callable[[str], None] = lambda _line: None
    ) -> None:
        self._options = options
        self._state = options.state.resolve()
        self._tell = tell
        self._environment: dict[str, str] = {}
        self._children: dict[str, LocalProcess] = {}
        self._parts: dict[str, Part] = {}
        self._keys: Mapping[str, Path] = {}
        self._record: RunningStack | None = None
        self._workers: tuple[str, ...] = (WORKER,)
        self.topics = 0

    @property
    def parts(self) -> tuple[Part, ...]:
        """What runs where."""
        names = (name for group in reversed(self._stop_order()) for name in reversed(group))
        return tuple(self._parts[name] for name in names if name in self._parts)

    @property
    def state(self) -> Path:
        """The folder of data and logs."""
        return self._state

    @property
    def environment(self) -> Mapping[str, str]:
        """The ``MILLSTREAM_*`` variables with which a process joins this stack."""
        return self._environment

    @property
    def keys(self) -> Mapping[str, Path]:
        """By approver, the private key that was made for them."""
        return self._keys

    @property
    def settings(self) -> Settings:
        """Settings with which this process joins the stack."""
        return load_settings({**os.environ, **self._environment})

    def start(self) -> None:
        """Start everything and wait until it is ready.

        Raises:
            ConfigurationError: Something did not start, or a stack runs on this folder already.
                What had been started is stopped again.
            InfrastructureError: A given broker or database does not answer.
        """
        other = read_stack(self._state)
        if other is not None:
            raise ConfigurationError(
                f"a stack is running on {self._state} already (process {other.pid}); "
                "stop it, or give this one another --state"
            )
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop what was started; nothing happens if nothing runs."""
        for names in self._stop_order():
            children = [self._children[name] for name in names if name in self._children]
            _together(*(partial(self._end, child) for child in children))
        self._children.clear()
        if self._record is not None:
            self._record.withdraw()
            self._record = None

    def dead_child(self) -> LocalProcess | None:
        """A process that has ended although nobody stopped it, if there is one."""
        return next((child for child in self._children.values() if not child.is_running), None)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _stop_order(self) -> tuple[tuple[str, ...], ...]:
        """The sink goes after the roles, so that it has their last words."""
        return (self._workers[::-1], (SINK,), _SERVERS)

    def _start(self) -> None:
        options = self._options
        self._environment[PREFIX + "DRAIN_TIMEOUT"] = f"{_DRAIN_SECONDS:g}"
        # A process that died is missed soon; this is no place for long pauses of a process.
        session_timeout = PREFIX + "KAFKA_SESSION_TIMEOUT"
        self._environment[session_timeout] = os.environ.get(session_timeout, "6")
        if options.lane is not None:
            self._environment[PREFIX + "LANE"] = options.lane
        if PREFIX + "PRINCIPALS_FILE" not in os.environ:
            self._provide_keys()
        self._tell("starting broker, database and playground")
        _together(self._start_kafka, self._start_postgres, self._start_playground)
        settings = self.settings
        self._tell("creating topics, migrating the database")
        _together(partial(self._create_topics, settings), partial(_migrate, settings))
        if not options.servers_only:
            self._tell("starting the roles and the sink")
            _together(
                *(partial(self._start_worker, name) for name in self._workers),
                partial(self._start_own, SINK, SINK),
            )
        self._record = RunningStack.of_this_process(self._state, self._environment, self.parts)
        self._record.publish()

    def _provide_keys(self) -> None:
        listed, self._keys = provide_keys(self._state / "keys", self._options.approvers)
        self._environment[PREFIX + "PRINCIPALS_FILE"] = str(listed)
        own = next(iter(self._keys.values()))
        self._environment[PREFIX + "SIGNING_KEY_FILE"] = str(own)

    def _start_kafka(self) -> None:
        options = self._options
        if options.kafka not in (EMBEDDED, JARS):
            self._environment[PREFIX + "KAFKA_BOOTSTRAP"] = options.kafka
            kafka = kafka_config(self.settings)
            wait_until_reachable(options.kafka, _REACHABLE_SECONDS, config=kafka.security)
            self._parts[BROKER] = Part(name=BROKER, address=options.kafka)
            return
        broker: TansuBroker | KafkaBroker
        if options.kafka == EMBEDDED:
            broker = TansuBroker(self._state / "tansu", options.kafka_port)
            # Tansu holds every empty fetch for as long as it is allowed to.
            self._environment[PREFIX + "KAFKA_FETCH_WAIT_MS"] = "20"
            self._environment[PREFIX + "KAFKA_IDEMPOTENCE"] = "false"
        else:
            libs = resolve_kafka_jars()
            broker = KafkaBroker(self._state / "apache-kafka", libs, options.kafka_port)
        self._environment[PREFIX + "KAFKA_BOOTSTRAP"] = broker.bootstrap_servers
        self._run(broker, BROKER, broker.bootstrap_servers)

    def _start_postgres(self) -> None:
        options = self._options
        variable = PREFIX + "DATABASE_URL"
        if options.postgres != EMBEDDED:
            self._environment[variable] = options.postgres
            address = without_credentials(options.postgres)
            self._parts[POSTGRES] = Part(name=POSTGRES, address=address)
            return
        server = EmbeddedPostgres(
            self._state / "postgres",
            options.postgres_port,
            settings={"fsync": "off", "synchronous_commit": "off"} if options.temporary else None,
        )
        self._run(server, POSTGRES, f"127.0.0.1:{server.port}/{DATABASE}")
        try:
            server.create_database(DATABASE)
        except RuntimeError as error:
            if "already exists" not in str(error):
                raise
        self._environment[variable] = server.database_url(DATABASE)

    def _start_playground(self) -> None:
        port = self._options.playground_port or free_port()
        folder = self._state / "playground"
        url = f"http://127.0.0.1:{port}"
        child = LocalProcess(
            "the playground",
            [
                *(sys.executable, "-m", "ops.playground", "--port", str(port)),
                *("--state", str(folder / "state.json")),
            ],
            folder=folder,
            port=port,
            ready=lambda: is_listening(port),
            stop_timeout=_STOP_SECONDS,
        )
        self._environment[PREFIX + "PLAYGROUND_URL"] = url
        if _WEBHOOK not in os.environ:
            self._environment[_WEBHOOK] = f"{url}/messages"
        self._run(child, PLAYGROUND, url)

    def _create_topics(self, settings: Settings) -> None:
        kafka = kafka_config(settings)
        topology = load_topology(settings.topics_file)
        ensure_topics(
            KafkaAdmin(kafka.bootstrap_servers, config=kafka.security),
            topology,
            settings.lane,
            replication_factor=settings.replication_factor,
        )
        self.topics = len(topology.topics)
        if self._options.processes:
            consumers = (role for topic in topology.topics.values() for role in topic.consumers)
            self._workers = tuple(role for role in dict.fromkeys(consumers) if role != SINK)

    def _start_worker(self, name: str) -> None:
        """Start the worker of all roles, or that of the role ``name``."""
        roles = ("--roles", name) if self._options.processes else ()
        self._start_own(name, WORKER, *roles)

    def _health_port(self, name: str) -> int:
        """A port for each process: free ones, or in a row from the one that was given."""
        first = self.settings.health_port
        return first + (*self._workers, SINK).index(name) if first else free_port()

    def _start_own(self, name: str, *command: str) -> None:
        """Start a process of our own that says when it is ready: ``worker`` or ``sink``."""
        folder = self._state / name
        ready_file = folder / "ready"
        ready_file.unlink(missing_ok=True)
        port = self._health_port(name)
        child = LocalProcess(
            f"the {name}",
            [
                *(sys.executable, "-m", "ops.cli", "--state", str(self._state)),
                *(*command, "--ready-file", str(ready_file)),
            ],
            folder=folder,
            environment={
                **os.environ,
                **self._environment,
                PREFIX + "HEALTH_PORT": str(port),
            },
            ready=ready_file.exists,
            start_timeout=_START_SECONDS,
            stop_timeout=_STOP_SECONDS,
        )
        self._run(child, name, f"http://{self.settings.health_host}:{port}/metrics")

    def _run(self, child: LocalProcess, name: str, address: str | None = None) -> None:
        child.start()
        self._children[name] = child
        self._parts[name] = Part(name=name, address=address, pid=child.pid, log=child.log_file)

    def _end(self, child: LocalProcess) -> None:
        if self._options.temporary and isinstance(child, EmbeddedPostgres):
            child.remove()
        else:
            child.stop()


def _migrate(settings: Settings) -> None:
    from ops.migrate import upgrade  # noqa: PLC0415 - Alembic takes most of a second to load

    upgrade(settings.database_url.get_secret_value())


def _together(*actions: Callable[[], None]) -> None:
    """Run ``actions`` at the same time and wait for all of them; the first failure is raised."""
    if not actions:
        return
    with ThreadPoolExecutor(len(actions)) as pool:
        futures = [pool.submit(action) for action in actions]
    for future in futures:
        future.result()

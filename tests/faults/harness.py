"""A whole pipeline of real processes that a test may kill, freeze, cut off and replace.

Kafka from its jars, a durable Postgres behind a proxy, the playground; workers that host every
role, and sinks. Each :class:`Pipeline` has a lane and a database of its own on shared servers.
Whatever is started is ended by its process id, also when a test fails.
"""

import os
import re
import signal
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

import psycopg
from faults import collecting
from ruamel.yaml import YAML
from support.line_proxy import LineProxy

from agents.registry import ROLES
from agents.runtime import spec_of
from agents.runtime.kafka_admin import KafkaAdmin
from agents.runtime.settings import ROOT
from agents.runtime.topology import load_topology
from ops import migrate
from ops.local import EmbeddedPostgres, KafkaBroker, LocalProcess, free_port, is_listening
from ops.topic_changes import ensure_topics

SESSION_SECONDS: Final = 4
"""After so long without a sign of life the group gives a process up."""
PARTITIONS: Final = 3
"""How many every topic has."""
_STEP_TIMEOUT: Final = "4s"
_START_SECONDS: Final = 120.0
_LOOK_SECONDS: Final = 0.05
_READY: Final = "ready"
_TAIL_LINES: Final = 25
_ROLES: Final = tuple(spec_of(function).name for function in ROLES)
_TEMPLATE: Final = "template_of_faults"


class Servers:
    """What pipelines stand on.

    Args:
        folder: Where data and logs go.
        kafka_libs: The folder of Kafka's jars.
    """

    def __init__(self, folder: Path, kafka_libs: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self.kafka = KafkaBroker(
            folder / "kafka",
            kafka_libs,
            fast_start=True,
            settings={
                "broker.session.timeout.ms": "3000",
                "broker.heartbeat.interval.ms": "500",
                "group.min.session.timeout.ms": "1000",
            },
        )
        self.postgres = EmbeddedPostgres(folder / "postgres", settings={"max_connections": "200"})
        self.playground = _playground(folder / "playground")
        self.topics_file, self.actions_file = folder / "topics.yaml", folder / "actions.yaml"

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for server in (self.kafka, self.playground.process):
                stack.enter_context(server)
            self.postgres.start()
            stack.callback(self.postgres.remove)
            url = self.postgres.create_database(_TEMPLATE)
            migrate.upgrade(url)
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute(collecting.WATCH_POSITIONS)
            self._write_declarations()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def create_database(self, name: str) -> str:
        """A fresh, migrated database in which the sink's positions are watched."""
        return self.postgres.create_database(name, _TEMPLATE)

    def _write_declarations(self) -> None:
        """Those of the product, but with fewer partitions and less patience with a step."""
        topics = (ROOT / "topics.yaml").read_text()
        topics, replaced = re.subn(r"partitions: \d+", f"partitions: {PARTITIONS}", topics)
        assert replaced
        self.topics_file.write_text(topics)
        yaml = YAML()
        catalogue = yaml.load((ROOT / "actions.yaml").read_text())
        for action in catalogue["actions"].values():
            action["timeout"] = _STEP_TIMEOUT
        with self.actions_file.open("w") as file:
            yaml.dump(catalogue, file)


@dataclass(frozen=True)
class _Playground:
    url: str
    process: LocalProcess


def _playground(folder: Path) -> _Playground:
    port = free_port()
    process = LocalProcess(
        "the playground",
        [sys.executable, "-m", "ops.playground", "--port", str(port)],
        folder=folder,
        port=port,
        environment={**os.environ, "PYTHONPATH": str(ROOT)},
        ready=lambda: is_listening(port),
    )
    return _Playground(f"http://127.0.0.1:{port}", process)


class Pipeline:
    """Workers and sinks of one lane.

    Args:
        servers: What it stands on.
        lane: Its lane, which also names its database.
        folder: Where its logs go.
    """

    def __init__(self, servers: Servers, lane: str, folder: Path) -> None:
        self.servers = servers
        self.lane = lane
        self._folder = folder
        self._stack = ExitStack()
        self._everything: list[LocalProcess] = []
        self.workers: list[LocalProcess] = []
        self.sinks: list[LocalProcess] = []
        self.line: LineProxy
        self._environment: dict[str, str] = {}
        self._database_url = ""

    def __enter__(self) -> Self:
        servers = self.servers
        self._database_url = servers.create_database(self.lane.rstrip("."))
        self._set_budgets()
        ensure_topics(
            KafkaAdmin(servers.kafka.bootstrap_servers),
            load_topology(servers.topics_file),
            self.lane,
            replication_factor=1,
        )
        with ExitStack() as stack:
            self.line = stack.enter_context(LineProxy("127.0.0.1", servers.postgres.port))
            stack.callback(self._end_everything)
            self._environment = {
                **os.environ,
                "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests"))),
                "MILLSTREAM_LANE": self.lane,
                "MILLSTREAM_KAFKA_BOOTSTRAP": servers.kafka.bootstrap_servers,
                "MILLSTREAM_KAFKA_SESSION_TIMEOUT": str(SESSION_SECONDS),
                "MILLSTREAM_KAFKA_FETCH_WAIT_MS": "100",
                "MILLSTREAM_DATABASE_URL": self._through_the_line(),
                "MILLSTREAM_PLAYGROUND_URL": servers.playground.url,
                "MILLSTREAM_SECRET_NOTIFY_WEBHOOK": f"{servers.playground.url}/messages",
                "MILLSTREAM_TOPICS_FILE": str(servers.topics_file),
                "MILLSTREAM_ACTIONS_FILE": str(servers.actions_file),
                "MILLSTREAM_EFFECT_LEASE_MARGIN": "2",
                "MILLSTREAM_OUTBOX_SWEEP_AGE": "3",
                "MILLSTREAM_DRAIN_TIMEOUT": "3",
            }
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def place(self) -> collecting.Place:
        """Where its traces are."""
        return collecting.Place(
            self.servers.kafka.bootstrap_servers,
            self._database_url,
            self.lane,
            self.servers.playground.url,
            _ROLES if any("worker" in each.name for each in self._everything) else (),
        )

    def set(self, **settings: str) -> None:
        """Change variables of the processes that are started from now on."""
        self._environment |= settings

    def start_worker(self, *faults: str, wait: bool = False) -> LocalProcess:
        """Start one more worker with every role.

        Args:
            faults: Arguments of ``faulty_worker.py``.
            wait: Whether to wait until it has its partitions.
        """
        return self._start("worker", self.workers, faults, wait=wait)

    def start_sink(self, *faults: str, wait: bool = False) -> LocalProcess:
        """Start one more sink; see :meth:`start_worker`."""
        return self._start("sink", self.sinks, faults, wait=wait)

    def kill(self, process: LocalProcess) -> None:
        """End a process as a crash does."""
        self._forget(process)
        process.kill()

    def terminate(self, process: LocalProcess) -> None:
        """Ask a process to end, and wait for it."""
        self._forget(process)
        process.stop()

    def bury(self, process: LocalProcess) -> None:
        """Take a process that has killed itself off the books."""
        assert not process.is_running
        self._forget(process)
        process.stop()

    def wait_until_ready(self) -> None:
        """Wait until whoever was started has its partitions, or has ended.

        A worker that starts while broker or database is away ends at once, and says so: that is
        for a supervisor to repeat.
        """
        deadline = time.monotonic() + _START_SECONDS
        while any(
            each.is_running and not (each.folder / _READY).exists()
            for each in (*self.workers, *self.sinks)
        ):
            assert time.monotonic() < deadline, f"some do not start\n{self.tails()}"
            time.sleep(_LOOK_SECONDS)

    def ended_by_themselves(self) -> list[LocalProcess]:
        """Processes that are gone although nobody wanted that."""
        return [each for each in (*self.workers, *self.sinks) if not each.is_running]

    def tails(self) -> str:
        """The ends of the logs of all processes, for the message of a failure."""
        servers = (self.servers.kafka, self.servers.postgres, self.servers.playground.process)
        return "\n".join(
            f"--- {each.name} ({each.log_file})\n{each.log_tail(_TAIL_LINES)}"
            for each in (*self._everything, *servers)
        )

    def logged(self, words: str) -> bool:
        """Whether one of its processes has said this."""
        return any(words in each.log_file.read_text() for each in self._everything)

    def _start(
        self, part: str, family: list[LocalProcess], faults: tuple[str, ...], *, wait: bool
    ) -> LocalProcess:
        name = f"{part}-{len(self._everything) + 1}"
        folder = self._folder / name
        ready_file = folder / _READY
        process = LocalProcess(
            name,
            [
                *(sys.executable, "-m", "faults.faulty_worker", part),
                *("--ready-file", str(ready_file), *faults),
            ],
            folder=folder,
            environment=self._environment,
            ready=ready_file.exists if wait else lambda: True,
            start_timeout=_START_SECONDS,
            stop_timeout=15.0,
            stop_signal=signal.SIGTERM,
        )
        self._everything.append(process)
        process.start()
        family.append(process)
        return process

    def _set_budgets(self) -> None:
        """Budgets that nothing passes, so that all that costs something draws on them."""
        with psycopg.connect(self._database_url) as connection:
            connection.execute(
                "INSERT INTO ledger.budgets (lane, tenant, per, cap, set_by, set_at)"
                " SELECT %s, 'default', per, 100000, 'test', now()"
                " FROM unnest(ARRAY['day', 'month']) AS per",
                (self.lane,),
            )

    def _forget(self, process: LocalProcess) -> None:
        for family in (self.workers, self.sinks):
            if process in family:
                family.remove(process)

    def _end_everything(self) -> None:
        for process in self._everything:
            process.kill()

    def _through_the_line(self) -> str:
        parts = urlsplit(self._database_url)
        host = parts.netloc.rpartition("@")[0]
        return parts._replace(netloc=f"{host}@127.0.0.1:{self.line.port}").geturl()

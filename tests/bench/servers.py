"""Broker and Postgres for one measurement, and the processes that are measured on them.

Both chains get servers of their own that are set up alike. Every process is a ``LocalProcess``: it
is ended by its id, also when a measurement fails, and a guard ends it when we are killed.
"""

import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import psutil
from bench.voice import Voice

from agents.runtime.settings import ROOT
from ops import migrate
from ops.local import EmbeddedPostgres, LocalProcess, free_port
from ops.stack import Stack, StackOptions

HERE: Final = Path(__file__).parent
DATABASE: Final = "millstream"
_START_SECONDS: Final = 180.0


class Servers:
    """Broker, a durable Postgres and the playground; topics are made, the database is migrated.

    Args:
        kafka: ``jars`` or ``embedded``.
        voice: Says what is being started.
        postgres: Settings of Postgres beyond its defaults.
    """

    def __init__(self, kafka: str, voice: Voice, postgres: Mapping[str, str] | None = None) -> None:
        self._kafka = kafka
        self._voice = voice
        self._postgres_settings = dict(postgres or {})
        self._exit = ExitStack()
        self._started: list[LocalProcess] = []
        self._ports: dict[str, int] = {}
        self._folder: Path
        self._postgres: EmbeddedPostgres
        self._stack: Stack

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._folder = Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="millstream-bench-"))
            )
            self._postgres = EmbeddedPostgres(
                self._folder / "postgres", settings=self._postgres_settings
            )
            stack.callback(self._postgres.remove)
            self._postgres.start()
            options = StackOptions(
                state=self._folder,
                kafka=self._kafka,
                postgres=self._postgres.create_database(DATABASE),
                servers_only=True,
            )
            self._stack = stack.enter_context(Stack(options, tell=self._voice.tell))
            stack.callback(self._end_all)
            self._exit = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, Exception):
            for process in self._started:
                self._voice.tell(f"the end of the log of {process.name}:\n{process.log_tail()}")
        self._exit.close()

    @property
    def bootstrap(self) -> str:
        """Where the broker is."""
        return self._stack.settings.kafka_bootstrap

    @property
    def url(self) -> str:
        """Where the database is."""
        return self._postgres.database_url(DATABASE)

    @property
    def postgres_port(self) -> int:
        """Where Postgres listens."""
        return self._postgres.port

    @property
    def environment(self) -> dict[str, str]:
        """All variables of a process of ours."""
        return {
            **os.environ,
            **self._stack.environment,
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests"))),
            "MILLSTREAM_ACTIONS_FILE": str(HERE / "actions.yaml"),
        }

    def other_database(self, name: str) -> str:
        """Make one more migrated database on the same server; returns its address."""
        url = self._postgres.create_database(name)
        migrate.upgrade(url)
        return url

    def pids(self) -> dict[str, int]:
        """The servers' process ids."""
        parts = {part.name: part.pid for part in self._stack.parts if part.pid is not None}
        return {**parts, "postgres": self._postgres.pid}

    def worker(
        self, name: str = "worker", *, roles: str | None = None, **variables: str
    ) -> LocalProcess:
        """A worker that is not started yet, of all roles or of one, with settings of its own."""
        only = () if roles is None else ("--roles", roles)
        return self._own(name, ("worker", *only), variables)

    def sink(self, **variables: str) -> LocalProcess:
        """The sink, not started yet."""
        return self._own("sink", ("sink",), variables)

    def by_hand(self, role: str, url: str | None = None) -> LocalProcess:
        """One process of the hand-written chain, ``worker`` or ``sink``, not started yet."""
        return LocalProcess(
            role,
            [sys.executable, str(HERE / "baseline.py"), role, self.bootstrap, url or self.url, ""],
            folder=self._folder / f"by-hand-{role}",
            environment=self.environment,
            ready=lambda: True,
            stop_timeout=15.0,
        )

    def chain(self, *, by_hand: bool) -> dict[str, LocalProcess]:
        """Start what is compared: a worker of all roles and a sink, ours or written by hand."""
        if by_hand:
            chain = {"worker": self.by_hand("worker"), "sink": self.by_hand("sink")}
        else:
            chain = {"worker": self.worker(), "sink": self.sink()}
        self.start(*chain.values())
        return chain

    def start(self, *processes: LocalProcess) -> None:
        """Start processes together and wait until all are ready; they end with the servers."""
        self._started += [each for each in processes if each not in self._started]
        for process in processes:
            (process.folder / "ready").unlink(missing_ok=True)
        with ThreadPoolExecutor(len(processes)) as pool:
            for future in [pool.submit(process.start) for process in processes]:
                future.result()

    def metrics_url(self, process: LocalProcess) -> str:
        """Where a process of ours tells what it counts."""
        return f"http://127.0.0.1:{self._ports[process.name]}/metrics"

    def _own(self, name: str, command: Sequence[str], variables: Mapping[str, str]) -> LocalProcess:
        folder = self._folder / name
        ready = folder / "ready"
        port = self._ports.setdefault(name, free_port())
        return LocalProcess(
            name,
            [
                *(sys.executable, "-m", "ops.cli", "--state", str(self._folder)),
                *(*command, "--ready-file", str(ready)),
            ],
            folder=folder,
            environment={
                **self.environment,
                "MILLSTREAM_HEALTH_PORT": str(port),
                **{f"MILLSTREAM_{key.upper()}": value for key, value in variables.items()},
            },
            ready=ready.exists,
            start_timeout=_START_SECONDS,
            stop_timeout=15.0,
        )

    def _end_all(self) -> None:
        for process in reversed(self._started):
            process.stop()


def cpu_seconds(pids: Mapping[str, int]) -> dict[str, float]:
    """CPU seconds so far of each process, its children included."""
    return {name: _cpu_seconds(psutil.Process(pid)) for name, pid in pids.items()}


def _cpu_seconds(process: psutil.Process) -> float:
    while True:
        try:
            times = [member.cpu_times() for member in [process, *process.children(recursive=True)]]
        except psutil.NoSuchProcess:
            if not process.is_running():
                raise
            continue  # a child has just ended, and is in its parent's children_* figures now
        return sum(
            each.user + each.system + each.children_user + each.children_system for each in times
        )


def peak_megabytes(pid: int) -> float | None:
    """The most memory that a process has had resident, in MB; ``None`` where Linux is missing."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return None
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024 / 1e6


def cpu_per(
    before: Mapping[str, float], after: Mapping[str, float], count: int
) -> dict[str, float]:
    """CPU milliseconds of each process per one of ``count``."""
    return {name: (after[name] - before.get(name, 0.0)) / count * 1000 for name in after}

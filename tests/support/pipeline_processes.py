"""``millstream worker`` and ``millstream sink`` as processes of their own, with a health port."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx

from agents.runtime.kafka_admin import KafkaAdmin
from agents.runtime.settings import ROOT, Settings
from agents.runtime.topology import load_topology
from ops.local import free_port
from ops.topic_changes import ensure_topics

_STOP_SECONDS: Final = 20.0
_END_SECONDS: Final = 120.0


def create_topics(bootstrap_servers: str, lane: str) -> None:
    topology = load_topology(Settings().topics_file)
    ensure_topics(KafkaAdmin(bootstrap_servers), topology, lane, replication_factor=1)


def variables(bootstrap_servers: str, database_url: str, lane: str) -> dict[str, str]:
    """The settings of a process, as local runs have them."""
    return {
        "MILLSTREAM_KAFKA_BOOTSTRAP": bootstrap_servers,
        "MILLSTREAM_DATABASE_URL": database_url,
        "MILLSTREAM_LANE": lane,
        "MILLSTREAM_KAFKA_SESSION_TIMEOUT": "6",
        "MILLSTREAM_KAFKA_FETCH_WAIT_MS": "20",
    }


class PipelineProcess:
    """A worker or a sink; killed at the end of the block, if it still runs.

    Args:
        arguments: The command with its arguments, such as ``("worker", "--roles", "planner")``.
        settings: Its ``MILLSTREAM_`` variables; a health port is added.
        log: The file that it writes to.
    """

    def __init__(self, *arguments: str, settings: Mapping[str, str], log: Path) -> None:
        self.port = free_port()
        self._log = log
        own = {name: text for name, text in os.environ.items() if not name.startswith("MILLSTREAM")}
        with log.open("ab") as stream:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                [sys.executable, "-m", "ops.cli", *arguments],
                stdout=stream,
                stderr=stream,
                stdin=subprocess.DEVNULL,
                cwd=ROOT,
                env={**own, **settings, "MILLSTREAM_HEALTH_PORT": str(self.port)},
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def ask(self, path: str) -> httpx.Response | None:
        """What the health port answers; ``None`` where nobody does."""
        assert self.is_running, self.log
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=5.0)
        except httpx.TransportError:
            return None

    def checks(self) -> dict[str, Any]:
        """What ``/readyz`` says of each check; empty where nobody answers."""
        answer = self.ask("/readyz")
        return {} if answer is None else answer.json()["checks"]

    def is_ready(self) -> bool:
        answer = self.ask("/readyz")
        return answer is not None and answer.status_code == 200

    def stop(self) -> int:
        """Ask it to end, and give its exit status."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(_STOP_SECONDS)

    def wait(self) -> int:
        """Wait until it ends by itself, and give its exit status."""
        return self._process.wait(_END_SECONDS)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def lines(self, *parts: str) -> list[str]:
        """The lines of its log that hold all of ``parts``."""
        return [line for line in self.log.splitlines() if all(part in line for part in parts)]

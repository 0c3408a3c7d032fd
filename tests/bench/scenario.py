"""What every scenario gets, and the one measurement that several of them make."""

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

import psycopg
from bench.figures import Result
from bench.load import REPORTS, await_records, submit
from bench.servers import Servers, cpu_per, cpu_seconds
from bench.voice import Voice

from ops.local import LocalProcess

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Bench:
    """How the benchmark is run.

    Attributes:
        kafka: Which broker: ``jars`` or ``embedded``.
        quick: Whether to use counts that show only that a scenario works.
        voice: Says what is going on.
    """

    kafka: str
    quick: bool
    voice: Voice

    def servers(
        self, about: str, postgres: Mapping[str, str] | None = None
    ) -> AbstractContextManager[Servers]:
        """Servers for one measurement, ``about`` what the lines are that they say."""
        self.voice.begin(about)
        return Servers(self.kafka, self.voice, postgres)

    def choose(self, settings: Callable[..., T], **quick: Any) -> T:
        """The settings of a scenario: its own, or the quick ones."""
        return settings(**quick) if self.quick else settings()


Scenario = Callable[[Bench], Result]


@dataclass(frozen=True, slots=True)
class Run:
    """Executions at full speed, from the first request to the last report in Postgres.

    Attributes:
        executions: How many.
        seconds: How long they took together.
        cpu_ms: CPU milliseconds per execution, by process.
    """

    executions: int
    seconds: float
    cpu_ms: Mapping[str, float]

    @property
    def rate(self) -> float:
        """Executions per second."""
        return self.executions / self.seconds

    @property
    def total_cpu_ms(self) -> float:
        """CPU milliseconds per execution of all processes together."""
        return sum(self.cpu_ms.values())


def warm_up(
    servers: Servers, processes: Mapping[str, LocalProcess], count: int, voice: Voice
) -> None:
    """Have ``count`` executions done that nobody counts."""
    wanted = reported(servers.url) + count
    submit(servers.bootstrap, count)
    await_records(servers.url, REPORTS, wanted, voice, [*processes.values()])


def full_speed(
    servers: Servers, processes: Mapping[str, LocalProcess], count: int, voice: Voice
) -> Run:
    """Measure ``count`` executions that are submitted at once."""
    wanted = reported(servers.url) + count
    pids = servers.pids() | {name: process.pid for name, process in processes.items()}
    before, start = cpu_seconds(pids), time.perf_counter()
    submit(servers.bootstrap, count)
    await_records(servers.url, REPORTS, wanted, voice, [*processes.values()])
    seconds = time.perf_counter() - start
    run = Run(count, seconds, cpu_per(before, cpu_seconds(pids), count))
    voice.tell(f"{run.rate:.0f} executions/s, {run.total_cpu_ms:.2f} CPU-ms each")
    return run


def reported(url: str) -> int:
    """How many reports are in Postgres."""
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT coalesce(sum(next_offset), 0) FROM history.sink_offsets WHERE topic = %s",
            (REPORTS,),
        ).fetchone()
    return int(row[0]) if row else 0

"""What looks after a worker process: the watchdog, and the health port where one is wanted.

Both are there before the worker is: a process that waits for Kafka or Postgres to start is alive
and not ready, and says what it waits for.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from agents.runtime.database import Database
from agents.runtime.health import Check, Ping, serving
from agents.runtime.metrics import Metrics
from agents.runtime.outage import Outages
from agents.runtime.settings import Settings
from agents.runtime.watchdog import LEAST_SECONDS, Pulse, Watchdog
from agents.runtime.worker import Worker


class Overseer:
    """The checks of one process, which become more as it starts."""

    def __init__(self, outages: Outages) -> None:
        self._outages = outages
        self._worker: Worker | None = None
        self.checks: dict[str, Check] = {"started": self._started, "kafka": self.kafka}
        """What ``/readyz`` asks."""

    def oversees(self, worker: Worker, database: Database) -> None:
        """The worker is there: what it needs and does is checked from now on."""
        self._worker = worker
        del self.checks["started"]
        self.checks["partitions"] = self._partitions
        self.checks["ledger"] = Ping(database.ping)
        self.checks["accepting"] = self._accepting

    def pulses(self) -> Sequence[Pulse]:
        """What the watchdog looks at."""
        return [] if self._worker is None else self._worker.pulses()

    async def kafka(self) -> str | None:
        """Whether Kafka answers."""
        return self._outages.reason("kafka")

    async def _started(self) -> str | None:
        return self._outages.reason("postgres") or "not yet"

    async def _partitions(self) -> str | None:
        waiting = [] if self._worker is None else self._worker.waiting_roles
        return f"none yet for {', '.join(waiting)}" if waiting else None

    async def _accepting(self) -> str | None:
        is_stopping = self._worker is not None and self._worker.is_stopping
        return "the worker is stopping" if is_stopping else None


@asynccontextmanager
async def overseeing(
    settings: Settings, metrics: Metrics, outages: Outages
) -> AsyncIterator[Overseer]:
    """Look after the process until the block is left.

    Raises:
        ConfigurationError: The health port cannot be had.
    """
    overseer = Overseer(outages)
    async with AsyncExitStack() as stack:
        watchdog = stack.enter_context(
            Watchdog(overseer.pulses, loop_patience=settings.watchdog_seconds or LEAST_SECONDS)
        )
        metrics.stalled = watchdog.stalled
        if settings.health_port:
            await stack.enter_async_context(
                serving(
                    settings.health_host,
                    settings.health_port,
                    metrics=metrics,
                    live=watchdog.check,
                    ready=overseer.checks,
                )
            )
        yield overseer

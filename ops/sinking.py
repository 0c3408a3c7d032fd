"""``millstream sink``: a process that writes every message into Postgres."""

import asyncio
import signal
import threading
from contextlib import AsyncExitStack
from pathlib import Path

from agents.runtime import redaction
from agents.runtime.clock import SystemClock
from agents.runtime.collector import calm_the_collector
from agents.runtime.health import serving
from agents.runtime.host import kafka_config
from agents.runtime.kafka_watch import KafkaWatch
from agents.runtime.metrics import Metrics
from agents.runtime.outage import Outages
from agents.runtime.settings import Settings, load_settings
from agents.runtime.telemetry import configure_logging
from agents.runtime.topology import load_topology
from agents.runtime.watchdog import LEAST_SECONDS, Watchdog
from agents.sink import Sink, assemble_sink


def run(ready_file: Path | None) -> None:
    """Read and write until SIGTERM or SIGINT.

    Args:
        ready_file: Made when the sink begins, removed at the end.

    Raises:
        ConfigurationError: Settings or topics.yaml are wrong, the health port is taken, or
            Postgres refuses us. Where it or Kafka is away it is waited for.
        ConsumerFatalError: Kafka refuses this consumer for good.
    """
    settings = load_settings()
    redaction.learn(settings)
    configure_logging(log_format=settings.log_format, level=settings.log_level)
    metrics = Metrics()
    outages = Outages(SystemClock(), metrics)
    sink = assemble_sink(
        settings,
        load_topology(settings.topics_file),
        kafka_config(settings),
        metrics=metrics,
        outages=outages,
    )
    calm_the_collector()
    try:
        asyncio.run(_host(sink, settings, metrics, outages, ready_file))
    finally:
        if ready_file is not None:
            ready_file.unlink(missing_ok=True)


async def _host(
    sink: Sink, settings: Settings, metrics: Metrics, outages: Outages, ready_file: Path | None
) -> None:
    """Run the sink in a thread, and look after it in the loop."""
    stop = threading.Event()
    loop = asyncio.get_running_loop()
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, stop.set)

    async def reading() -> str | None:
        return None if sink.is_ready else "it has not claimed its partitions"

    async def kafka() -> str | None:
        return outages.reason("kafka")

    async def postgres() -> str | None:
        return outages.reason("postgres")

    async def accepting() -> str | None:
        return "the sink is stopping" if stop.is_set() else None

    async with AsyncExitStack() as stack:
        watchdog = stack.enter_context(
            Watchdog(
                lambda: [] if stop.is_set() else [sink.pulse()],
                loop_patience=settings.watchdog_seconds or LEAST_SECONDS,
            )
        )
        metrics.stalled = watchdog.stalled
        if settings.health_port:
            await stack.enter_async_context(
                serving(
                    settings.health_host,
                    settings.health_port,
                    metrics=metrics,
                    live=watchdog.check,
                    ready={
                        "kafka": kafka,
                        "postgres": postgres,
                        "partitions": reading,
                        "accepting": accepting,
                    },
                )
            )
        stack.enter_context(KafkaWatch(kafka_config(settings), outages))
        if ready_file is not None:
            await asyncio.to_thread(ready_file.touch)
        await asyncio.to_thread(sink.run, stop)

"""A sink as a process of its own, for tests that kill and stop it.

Everything comes from ``MILLSTREAM_*`` variables; the batches are small, so that a fault meets one.
"""

import signal
import threading

from agents.runtime.kafka import KafkaConfig
from agents.runtime.settings import load_settings
from agents.runtime.telemetry import configure_logging
from agents.runtime.topology import load_topology
from agents.sink import SinkOptions, assemble_sink


def main() -> None:
    """Run until SIGTERM."""
    settings = load_settings()
    # Several write to one file: each line must be one write, which structlog's default is not.
    configure_logging(log_format="console", level="info")
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    kafka = KafkaConfig(
        bootstrap_servers=settings.kafka_bootstrap,
        session_timeout=settings.kafka_session_timeout,
        fetch_wait_ms=settings.kafka_fetch_wait_ms,
    )
    options = SinkOptions(batch_records=40, batch_seconds=0.01)
    assemble_sink(settings, load_topology(settings.topics_file), kafka, options=options).run(stop)


if __name__ == "__main__":
    main()

"""``millstream sink``: a process that writes every message into Postgres."""

import signal
import threading
from pathlib import Path

from agents.runtime.host import kafka_config
from agents.runtime.settings import load_settings
from agents.runtime.telemetry import configure_logging
from agents.runtime.topology import load_topology
from agents.sink import assemble_sink


def run(ready_file: Path | None) -> None:
    """Read and write until SIGTERM or SIGINT.

    Args:
        ready_file: Made when the sink begins, removed at the end.

    Raises:
        ConfigurationError: Settings or topics.yaml are wrong.
        ConsumerFatalError: Kafka refuses this consumer for good.
    """
    settings = load_settings()
    configure_logging(log_format=settings.log_format, level=settings.log_level)
    sink = assemble_sink(settings, load_topology(settings.topics_file), kafka_config(settings))
    stop = threading.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda _signal, _frame: stop.set())
    if ready_file is not None:
        ready_file.touch()
    try:
        sink.run(stop)
    finally:
        if ready_file is not None:
            ready_file.unlink(missing_ok=True)

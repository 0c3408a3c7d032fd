"""Logging: structlog everywhere, the standard library's loggers through the same pipeline.

Lines are JSON in production and coloured on a terminal. Secrets are replaced before a line is
rendered, see :mod:`agents.runtime.redaction`, and those that were revealed after it once more, so
that none is left in a nested value or a traceback.
"""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Final

import structlog

from agents.runtime.redaction import REDACTED, is_secret_name, redacted
from agents.runtime.revealed import KNOWN

#: These speak at info about every partition and request; what matters in them is at warning.
_CHATTY: Final = (
    "faust",
    "mode",
    "aiokafka",
    "httpx",
    "httpcore",
    "mcp",
    "httpx2",
    "httpcore2",
    "alembic",
    "librdkafka",
)
_REPETITIVE: Final = ("psycopg",)
"""Warn of every connection that is lost; we say once that Postgres is away."""


def redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace values under secret names, and secrets inside other values."""
    for name, value in event.items():
        if is_secret_name(name):
            event[name] = REDACTED
        elif isinstance(value, str):
            event[name] = redacted(value)
    return event


def strike_out(_logger: Any, _method: str, line: Any) -> str:
    """Strike revealed secrets out of a rendered line."""
    return KNOWN.text(str(line))


def configure_logging(
    *,
    log_format: str = "json",
    level: str = "info",
) -> None:
    """Send every log line of the process to standard error in one format."""
    threshold = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(),
            # The default one prints local variables, and with them secrets.
            exception_formatter=structlog.dev.plain_traceback,
        )
    )
    final: list[structlog.typing.Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        *([structlog.processors.format_exc_info] if log_format == "json" else []),
        redact,
        renderer,
        strike_out,
    ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(processors=final, foreign_pre_chain=shared)
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(threshold)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(threshold, logging.WARNING))
    for name in _REPETITIVE:
        logging.getLogger(name).setLevel(max(threshold, logging.ERROR))
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )

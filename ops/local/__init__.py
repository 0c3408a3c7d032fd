"""Servers as child processes of this one: a broker and a database without Docker or root rights."""

from ops.local.kafka import KafkaBroker
from ops.local.kafka_jars import KafkaJarsUnavailableError, resolve_kafka_jars
from ops.local.ports import free_port, is_listening
from ops.local.postgres import EmbeddedPostgres
from ops.local.process import LocalProcess, ServerStartError
from ops.local.tansu import TansuBroker

__all__ = [
    "EmbeddedPostgres",
    "KafkaBroker",
    "KafkaJarsUnavailableError",
    "LocalProcess",
    "ServerStartError",
    "TansuBroker",
    "free_port",
    "is_listening",
    "resolve_kafka_jars",
]

"""Apache Kafka for tests, from the first place that has one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from support.containers import broker_settings, docker_answers, kafka_container

from agents.runtime.kafka_admin import wait_until_reachable
from ops.local import KafkaBroker, KafkaJarsUnavailableError, resolve_kafka_jars
from ops.local.kafka_jars import KAFKA_FILES

KAFKA_VARIABLE: Final = "MILLSTREAM_TEST_KAFKA"
_REACHABLE_SECONDS: Final = 15.0


class NoRealKafkaError(Exception):
    """There is no Apache Kafka to test on; the message says what to install."""


@dataclass(frozen=True, slots=True)
class KafkaServer:
    """A running broker.

    Attributes:
        bootstrap_servers: Its address.
        is_real: Whether it is Apache Kafka.
        origin: Where it comes from, for messages.
    """

    bootstrap_servers: str
    is_real: bool
    origin: str


@contextmanager
def real_kafka(folder: Path) -> Iterator[KafkaServer]:
    """Give Apache Kafka: that of MILLSTREAM_TEST_KAFKA, else a container, else the jars.

    Raises:
        NoRealKafkaError: None of them can be had.
        KafkaUnavailableError: MILLSTREAM_TEST_KAFKA names a broker that does not answer.
    """
    address = os.environ.get(KAFKA_VARIABLE)
    if address:
        wait_until_reachable(address, _REACHABLE_SECONDS)
        yield KafkaServer(address, is_real=True, origin=KAFKA_VARIABLE)
    elif docker_answers():
        settings = broker_settings(KAFKA_FILES / "server.properties.template")
        with kafka_container(settings) as address:
            yield KafkaServer(address, is_real=True, origin="container")
    else:
        with KafkaBroker(folder, kafka_jars(), fast_start=True) as broker:
            yield KafkaServer(broker.bootstrap_servers, is_real=True, origin="jars")


def kafka_jars() -> Path:
    """Return the folder of Kafka's jars.

    Raises:
        NoRealKafkaError: Java or Maven is missing, or no repository was reachable.
    """
    try:
        return resolve_kafka_jars()
    except KafkaJarsUnavailableError as error:
        raise NoRealKafkaError(f"no {KAFKA_VARIABLE}, no Docker daemon, and {error}") from error

"""How to reach a Kafka cluster, and the librdkafka settings that all clients share."""

import logging
import os
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

Assignor = Literal["cooperative-sticky", "range"]

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
"""Largest record a client sends: the 3 MB that the intake takes, plus what a dead letter adds."""

_CLIENT_LOGGER = logging.getLogger("librdkafka")
_QUIET_SECONDS = 600.0
_REMEMBERED_MESSAGES = 1000
#: As in "FAIL [name#consumer-3] [thrd:localhost:9092/1]: localhost:9092/1: Connect to ... failed".
_SPEAKER = re.compile(r"^(\w+) (?:\[[^\]]*\]:? ?)*(?:[^ ]+: )?")


class SaidBefore(logging.Filter):
    """Lets a message of librdkafka through once in a while.

    It repeats one at each new attempt, in each client, and for each name that it has for a broker.
    That a broker is away, and that it is back, we say ourselves.
    """

    def __init__(self) -> None:
        super().__init__()
        self._said_at: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether this has not been said for a while."""
        # What differs between repetitions is at the end: "(after 12ms in state CONNECT)".
        what = _SPEAKER.sub(r"\1 ", record.getMessage()).partition(" (")[0]
        now = time.monotonic()
        if now - self._said_at.get(what, -_QUIET_SECONDS) < _QUIET_SECONDS:
            return False
        if len(self._said_at) >= _REMEMBERED_MESSAGES:
            self._said_at.clear()
        self._said_at[what] = now
        return True


_CLIENT_LOGGER.addFilter(SaidBefore())


def _default_client_id() -> str:
    return f"millstream-{socket.gethostname()}-{os.getpid()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaConfig:
    """How to reach a cluster, and the client settings that every producer and consumer shares.

    Args:
        bootstrap_servers: Comma-separated ``host:port`` list.
        security: librdkafka settings such as ``security.protocol`` and ``sasl.mechanism``.
        session_timeout: Seconds without a heartbeat after which the group drops a member. Short
            values find a dead worker sooner; long ones forgive a paused one.
        fetch_wait_ms: How long a broker holds a fetch that finds nothing. Use 20 with Tansu, which
            always waits it out.
        delivery_timeout: Seconds in which librdkafka retries a record before it gives it up.
        topic_propagation: Seconds in which every broker hears of a new topic. For as long, and then
            as long again, a topic that is unknown may just be news on its way.
        max_message_bytes: Largest record that a producer accepts.
        idempotence: Whether the producer numbers its records so that its own retries neither
            repeat nor reorder. Switch it off for Tansu: when that has been started anew, it takes
            a producer's old number for a fenced one and confirms nothing more.
        producer_queue: How many records librdkafka holds for sending; more wait in our own queue.
        group_instance_id: Names this process in its groups over restarts (KIP-345): one that comes
            back within the session timeout has its partitions back without a rebalance.
        client_id: Name of this process in broker logs and quotas.
    """

    bootstrap_servers: str
    security: Mapping[str, str] = field(default_factory=dict)
    session_timeout: float = 30.0
    fetch_wait_ms: int = 500
    delivery_timeout: float = 120.0
    topic_propagation: float = 30.0
    max_message_bytes: int = MAX_MESSAGE_BYTES
    idempotence: bool = True
    producer_queue: int = 100_000
    group_instance_id: str | None = None
    client_id: str = field(default_factory=_default_client_id)

    #: A heartbeat is due this many times per session timeout.
    heartbeats_per_session: ClassVar[int] = 5

    def client(self) -> dict[str, Any]:
        """Return the librdkafka settings of any client, such as an admin client."""
        return {
            "bootstrap.servers": self.bootstrap_servers,
            "client.id": self.client_id,
            "logger": _CLIENT_LOGGER,
            # An idle connection that the broker closes is no news.
            "log.connection.close": False,
            # The default of 10 s would add as much to every return of a broker.
            "reconnect.backoff.max.ms": 2_000,
            "socket.keepalive.enable": True,
            **self.security,
        }

    def producer(self) -> dict[str, Any]:
        """Return the librdkafka settings of a producer."""
        return {
            **self.client(),
            "acks": "all",
            "enable.idempotence": self.idempotence,
            "linger.ms": 5,
            "message.max.bytes": self.max_message_bytes,
            "delivery.timeout.ms": round(self.delivery_timeout * 1000),
            "topic.metadata.propagation.max.ms": round(self.topic_propagation * 1000),
            # Same key, same partition as Kafka's Java client and console tools.
            "partitioner": "murmur2_random",
            "queue.buffering.max.messages": self.producer_queue,
            "queue.buffering.max.kbytes": 65_536,
        }

    def consumer(self, group: str, *, assignor: Assignor = "cooperative-sticky") -> dict[str, Any]:
        """Return the librdkafka settings of a consumer that commits by hand.

        Args:
            group: Consumer group id.
            assignor: How partitions are shared out. ``cooperative-sticky`` moves only what must
                move. ``range`` gives one member the same partition numbers of every topic, so that
                a key that lives on several topics meets one member.
        """
        session_ms = round(self.session_timeout * 1000)
        # The group's name holds the role's.
        name = self.group_instance_id
        static = {} if name is None else {"group.instance.id": f"{name}.{group}"}
        return {
            **self.client(),
            **static,
            "group.id": group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "partition.assignment.strategy": assignor,
            "session.timeout.ms": session_ms,
            "heartbeat.interval.ms": session_ms // self.heartbeats_per_session,
            "fetch.wait.max.ms": self.fetch_wait_ms,
            # Read ahead little and refill at once: what was read ahead of a paused partition is
            # thrown away and fetched again.
            "fetch.queue.backoff.ms": 10,
            "queued.min.messages": 2_000,
            "queued.max.messages.kbytes": 8_192,
            "topic.metadata.refresh.interval.ms": 30_000,
        }

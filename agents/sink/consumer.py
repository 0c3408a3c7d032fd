"""The sink: reads every topic and writes history, each record's rows exactly once.

The positions live in Postgres and move in the transaction that writes the rows, so a crash loses
nothing and repeats nothing. Who may move them is decided by an epoch per partition, which rises
with each claim: a sink that was stopped, lost its partitions and wakes up cannot write any more.
The group's offsets in Kafka are committed too, so that lag tools work, and are never read.

::

    assigned ──claim──▶ reading ──write──▶ reading
       ▲  ▲                │ │
       │  └─ Postgres away ┘ └─ fenced: leave the group and join anew
       └──────── rebalance, or a topic was made anew ─────────┘
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from agents.runtime.clock import SystemClock
from agents.runtime.errors import InfrastructureError
from agents.runtime.kafka import ConsumerFatalError, KafkaConfig
from agents.runtime.kafka_consumer import BatchConsumer
from agents.runtime.metrics import Metrics
from agents.runtime.outage import Outage, Outages
from agents.runtime.records import Record, TopicPartition
from agents.runtime.watchdog import LEAST_SECONDS, Pulse
from agents.sink.batch import Decode, Sorter
from agents.sink.store import Claim, FencedError, Store
from agents.sink.writer import Writer

TopicIds = Callable[[], Mapping[str, str | None]]
"""Asks the broker for the id of every topic; raises ``KafkaUnavailableError``."""

_ROLE: Final = "sink"
_WAITING_SECONDS: Final = 0.1
"""How long one poll may take while there is nothing to read."""
_PIECE_RECORDS: Final = 500
_MOST_BYTES: Final = 8_000_000
"""A batch that has reached this size takes no more pieces, however few its records are."""
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkOptions:
    """Durations are in seconds."""

    batch_records: int = 2_000
    batch_seconds: float = 0.05
    """How long a batch waits for more records."""
    busy_records: int = 200
    """A batch with as many has the next one wait longer: fewer rows and commits for as much."""
    busy_seconds: float = 0.25
    commit_interval: float = 1.0
    """How often the group's offsets in Kafka are brought up to date."""
    topic_check_interval: float = 30.0
    """How often a busy sink asks whether its topics are still the same ones."""
    first_retry: float = 0.2
    last_retry: float = 5.0
    database_timeout: float = 30.0
    """How long Postgres may take over one statement."""
    patience: float = LEAST_SECONDS
    """How long the sink may be at one thing before it counts as a hang."""
    """While Postgres is away it is tried after ``first_retry``, then at doubled intervals up to
    ``last_retry``."""


class Sink:
    """One consumer with one connection to Postgres.

    Several may run, in one process or many; the group shares the partitions out.

    Args:
        lane: Whose records it reads; the prefix of topics and group.
        topics: The topics to read, with their lane.
        dead_letter_topic: Which of them holds dead letters.
        decode: Finds the message in a record of any other topic.
        topic_ids: Asks the broker for the ids of topics.
        kafka: How to reach the broker.
        database_url: Where history is.
        options: Sizes and durations.
        metrics: What it counts.
        outages: Who says that Kafka or Postgres is away.
    """

    def __init__(
        self,
        *,
        lane: str,
        topics: Sequence[str],
        dead_letter_topic: str,
        decode: Decode,
        topic_ids: TopicIds,
        kafka: KafkaConfig,
        database_url: str,
        options: SinkOptions | None = None,
        metrics: Metrics | None = None,
        outages: Outages | None = None,
    ) -> None:
        self._lane = lane
        self._topics = list(topics)
        self._sorter = Sorter(lane=lane, decode=decode, dead_letter_topic=dead_letter_topic)
        self._ask_topic_ids = topic_ids
        self._kafka = kafka
        self._database_url = database_url
        self._options = options or SinkOptions()
        self._metrics = metrics or Metrics()
        self._role = self._metrics.role(_ROLE)
        self._outage = Outage(_ROLE, outages or Outages(SystemClock(), self._metrics), self._role)
        self._turns = 0
        self._stands_by = False
        self._writer: Writer | None = None
        self._batch_seconds = self._options.batch_seconds
        self._generation = -1
        self._claims: dict[TopicPartition, Claim] = {}
        self._positions: dict[TopicPartition, int] = {}
        self._read_to: dict[TopicPartition, int] = {}
        self._topic_ids: Mapping[str, str | None] = {}
        self._retry_delay = 0.0
        self._retry_at = 0.0
        self._checked_at = 0.0
        self._committed: Mapping[TopicPartition, int] = {}
        self._committed_at = 0.0

    def run(self, stop: threading.Event) -> None:
        """Read and write until ``stop`` is set; what was read but not written is read again.

        Blocks the calling thread. Postgres or Kafka being away is waited out.

        Raises:
            ConsumerFatalError: Kafka refuses this consumer for good.
        """
        settings = self._kafka.consumer(f"{self._lane}millstream-sink", assignor="range")
        with BatchConsumer(settings, self._topics) as consumer:
            _log.info("sink_started", topics=len(self._topics), lane=self._lane)
            try:
                while not stop.is_set():
                    self._turn(consumer, self._step)
                self._turn(consumer, self._finish)
            finally:
                self._disconnect()
            if self._claims:
                consumer.commit(self._positions)
        _log.info("sink_stopped", lane=self._lane)

    def pulse(self) -> Pulse:
        """How the sink is, for the watchdog; may be called in any thread."""
        return Pulse(
            role=_ROLE,
            attempts=self._turns,
            has_work=True,  # a turn ends soon, also where there is nothing to read
            is_away=self._role.is_away,
            turns=None,
            poll_thread_is_dead=False,
            patience=self._options.patience,
        )

    @property
    def is_ready(self) -> bool:
        """Whether it reads, or stands by since the group has no partitions left for it."""
        return bool(self._claims) or self._stands_by

    def _turn(self, consumer: BatchConsumer, step: Callable[[BatchConsumer], None]) -> None:
        self._turns += 1
        try:
            step(consumer)
        except FencedError as error:
            _log.warning("sink_fenced", reason=error.reason)
            self._claims = {}
            consumer.rejoin()
        except ConsumerFatalError:
            raise
        except InfrastructureError as error:
            self._interrupt(consumer, error)

    def _step(self, consumer: BatchConsumer) -> None:
        if self._claims:
            self._read(consumer)
        else:
            self._wait(consumer)

    def _wait(self, consumer: BatchConsumer) -> None:
        """Keep the membership alive, and begin as soon as there is something to read."""
        consumer.poll(1, _WAITING_SECONDS)
        self._stands_by = consumer.generation > 0 and not consumer.assignment
        if consumer.assignment and time.monotonic() >= self._retry_at:
            self._claim(consumer)

    def _claim(self, consumer: BatchConsumer) -> None:
        self._topic_ids = self._ask_topic_ids()
        self._checked_at = time.monotonic()
        if self._writer is None:
            store = Store(
                self._database_url,
                lane=self._lane,
                statement_timeout=self._options.database_timeout,
            )
            self._writer = Writer(store, self._sorter, self._metrics)
        self._writer.prepare()
        claims = self._writer.store.claim(consumer.assignment, self._topic_ids)
        self._positions = {partition: claim.position for partition, claim in claims.items()}
        self._read_to = dict(self._positions)
        consumer.start(self._positions)
        self._claims = claims
        self._generation = consumer.generation
        self._outage.ends(failures_before=self._outage.failures)
        self._retry_delay = 0.0
        _log.info("sink_claimed", partitions=len(claims))

    def _read(self, consumer: BatchConsumer) -> None:
        records = self._gather(consumer)
        if consumer.generation != self._generation:
            self._lose(consumer)
            return
        if not records:
            self._finish(consumer)
            self._commit(consumer)
            return
        if self._is_suspicious(records) and self._ask_topic_ids() != self._topic_ids:
            _log.warning("sink_topics_changed")
            consumer.pause()
            self._finish(consumer)
            self._claims = {}
            return
        self._send(records)
        self._commit(consumer)

    def _gather(self, consumer: BatchConsumer) -> list[Record]:
        """A batch: full, or what comes until it has waited long enough.

        It is read in pieces, so that neither many records nor great ones fill the memory.
        """
        ends = time.monotonic() + self._batch_seconds
        most = self._options.batch_records
        records: list[Record] = []
        size = 0
        while len(records) < most and size < _MOST_BYTES:
            remaining = ends - time.monotonic()
            if records and remaining <= 0:
                break
            piece = consumer.poll(min(_PIECE_RECORDS, most - len(records)), max(remaining, 0.0))
            if consumer.generation != self._generation or not (piece or records):
                break
            records += piece
            size += sum(len(record.value or b"") for record in piece)
        self._batch_seconds = (
            self._options.busy_seconds
            if len(records) >= self._options.busy_records
            else self._options.batch_seconds
        )
        return records

    def _send(self, records: Sequence[Record]) -> None:
        if self._writer is None:
            raise RuntimeError("a batch without a connection")
        self._positions.update(self._writer.send(records, self._topic_ids, self._claims))
        for record in records:
            self._read_to[record.topic, record.partition] = record.offset + 1

    def _finish(self, _consumer: BatchConsumer) -> None:
        """Wait for what is on its way."""
        if self._writer is not None:
            self._positions.update(self._writer.finish())

    def _lose(self, consumer: BatchConsumer) -> None:
        """Stop reading, as the partitions may be somebody else's by now."""
        self._claims = {}
        try:
            self._finish(consumer)
        except FencedError as error:
            # Whoever has them now was quicker. The group knows, so there is nothing to rejoin.
            _log.warning("sink_fenced", reason=error.reason)

    def _is_suspicious(self, records: Sequence[Record]) -> bool:
        """Whether a topic may be another one than when it was claimed."""
        now = time.monotonic()
        if now - self._checked_at >= self._options.topic_check_interval or any(
            record.offset < self._read_to[record.topic, record.partition] for record in records
        ):
            self._checked_at = now
            return True
        return False

    def _commit(self, consumer: BatchConsumer) -> None:
        now = time.monotonic()
        if (
            self._positions != self._committed
            and now - self._committed_at >= self._options.commit_interval
        ):
            self._committed, self._committed_at = dict(self._positions), now
            consumer.commit(self._positions)

    def _interrupt(self, consumer: BatchConsumer, error: InfrastructureError) -> None:
        """Read nothing and try again later; what was not written is read again then."""
        self._outage.begins(error)
        consumer.pause()
        self._claims = {}
        self._disconnect()
        self._retry_delay = min(
            max(self._options.first_retry, 2 * self._retry_delay), self._options.last_retry
        )
        self._retry_at = time.monotonic() + self._retry_delay

    def _disconnect(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

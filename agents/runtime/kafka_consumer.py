"""A consumer that reads batches from positions which its caller keeps.

For readers that store their positions themselves, together with what they have read. Of what the
group assigns nothing is fetched until :meth:`BatchConsumer.start` says where to begin. All calls
belong to one thread: librdkafka may block for good when a consumer is called from a second one.

Nothing is ever paused. A pause or resume takes its number in the calling thread, a change of the
assignment in librdkafka's own, and of two for one partition that are made at the same time the
lower number is dropped if it is carried out last: the partition stays stopped, or paused, for good
and without a word (confluentinc/librdkafka#5591). Assignments alone are all made in one thread.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Self

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException

from agents.runtime.kafka import ConsumerFatalError, is_fatal, record_of
from agents.runtime.records import Record, TopicPartition

_log = logging.getLogger(__name__)

_CONNECTION_CODES = frozenset(
    {
        KafkaError._ALL_BROKERS_DOWN,  # noqa: SLF001 - the underscore marks librdkafka's own codes
        KafkaError._RESOLVE,  # noqa: SLF001 - as above
        KafkaError._TIMED_OUT,  # noqa: SLF001 - as above
        KafkaError._TRANSPORT,  # noqa: SLF001 - as above
    }
)


class BatchConsumer:
    """One member of a consumer group.

    Args:
        settings: librdkafka settings with an eager assignor, such as
            ``KafkaConfig.consumer(group, assignor="range")``.
        topics: What to read.
    """

    def __init__(self, settings: Mapping[str, Any], topics: Sequence[str]) -> None:
        self._topics = list(topics)
        self._assignment: frozenset[TopicPartition] = frozenset()
        self._generation = 0
        self._complaints: set[int] = set()
        self._fatal: KafkaError | None = None
        self._consumer = confluent_kafka.Consumer(
            {
                **settings,
                "enable.auto.commit": False,
                # A position below the oldest record means that retention was faster than we.
                "auto.offset.reset": "earliest",
                "error_cb": self._complain,
            }
        )
        self._subscribe()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def assignment(self) -> frozenset[TopicPartition]:
        """The partitions that the group has given to this member."""
        return self._assignment

    @property
    def generation(self) -> int:
        """Rises whenever the assignment changes, even to the same partitions."""
        return self._generation

    def poll(self, max_records: int, seconds: float) -> list[Record]:
        """Read up to ``max_records``, or what has come after ``seconds``.

        Rebalances happen in here. Records that were read before one are dropped, as their
        partitions may belong to somebody else by now. While the broker is away the answer is
        empty; the client reconnects by itself.

        Raises:
            ConsumerFatalError: The client cannot go on, such as for lack of rights.
        """
        generation = self._generation
        try:
            messages = self._consumer.consume(max_records, seconds)
        except KafkaException as error:
            raise ConsumerFatalError(f"cannot read: {error}") from error
        records = []
        for message in messages:
            if (problem := message.error()) is not None:
                self._complain(problem)
            else:
                records.append(record_of(message))
        if self._fatal is not None:
            raise ConsumerFatalError(f"cannot read: {self._fatal.str()}")
        if records:
            self._complaints.clear()
        return records if generation == self._generation else []

    def start(self, positions: Mapping[TopicPartition, int]) -> None:
        """Read the assigned partitions from the given offsets on.

        A position that does not exist any more is replaced by the oldest record.
        """
        partitions = [
            confluent_kafka.TopicPartition(topic, partition, offset)
            for (topic, partition), offset in positions.items()
        ]
        self._consumer.assign(partitions)

    def pause(self) -> None:
        """Read nothing until the next :meth:`start`; polling keeps the membership alive."""
        if self._assignment:
            self._consumer.assign([])

    def commit(self, positions: Mapping[TopicPartition, int]) -> None:
        """Tell the broker how far we are, for those who watch the lag; nobody waits for it.

        While the broker is away nothing is sent, since :meth:`close` would wait for the answer.
        """
        offsets = [
            confluent_kafka.TopicPartition(topic, partition, offset)
            for (topic, partition), offset in positions.items()
        ]
        if offsets and not self._complaints:
            try:
                self._consumer.commit(offsets=offsets, asynchronous=True)
            except KafkaException as error:
                _log.debug("commit for information only failed: %s", error)

    def rejoin(self) -> None:
        """Leave the group and join it anew, since another member has our partitions."""
        self._consumer.unsubscribe()
        self._forget()
        self._subscribe()

    def close(self) -> None:
        """Leave the group."""
        self._consumer.close()

    def _subscribe(self) -> None:
        self._consumer.subscribe(
            self._topics, on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked
        )

    def _assigned(
        self, consumer: confluent_kafka.Consumer, parts: list[confluent_kafka.TopicPartition]
    ) -> None:
        # To the group they are ours, whatever the client fetches; without this call it would assign
        # them by itself, and begin where the group's committed offsets are.
        consumer.assign([])
        self._assignment = frozenset((each.topic, each.partition) for each in parts)
        self._generation += 1

    def _revoked(
        self, _consumer: confluent_kafka.Consumer, _parts: list[confluent_kafka.TopicPartition]
    ) -> None:
        # The client unassigns by itself after this. Nothing is committed here: a commit hangs
        # while the broker is away.
        self._forget()

    def _forget(self) -> None:
        self._assignment = frozenset()
        self._generation += 1

    def _complain(self, error: KafkaError) -> None:
        """Say once what is wrong, until records come again. Runs within ``consume``."""
        code = error.code()
        if is_fatal(error):
            self._fatal = error
        elif code not in self._complaints:
            self._complaints.add(code)
            # That a broker is away is said for the whole process, by `kafka_watch`.
            level = logging.DEBUG if code in _CONNECTION_CODES else logging.WARNING
            _log.log(level, "kafka consumer: %s (the client goes on by itself)", error.str())

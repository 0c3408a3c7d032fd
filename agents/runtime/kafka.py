"""Kafka clients: the producer, and what everything that reads needs of confluent-kafka.

confluent-kafka's errors are translated here; settings are in :mod:`agents.runtime.kafka_config`.
"""

import asyncio
import functools
import logging
import threading
from collections import deque
from collections.abc import Iterable

import confluent_kafka

from agents.runtime.errors import (
    DeliveryError,
    FatalInfrastructureError,
    MillstreamError,
)
from agents.runtime.kafka_config import MAX_MESSAGE_BYTES, Assignor, KafkaConfig
from agents.runtime.kafka_produce_errors import (
    KafkaRefusesError,
    MessageTooLargeError,
    ProducerFatalError,
    RecordRejectedError,
    delivery_failure,
    is_unknown_topic,
)
from agents.runtime.records import Headers, Outgoing, Record

__all__ = [
    "MAX_MESSAGE_BYTES",
    "Assignor",
    "ConsumerFatalError",
    "Headers",
    "KafkaConfig",
    "KafkaRefusesError",
    "MessageTooLargeError",
    "Outgoing",
    "Producer",
    "ProducerFatalError",
    "Record",
    "RecordRejectedError",
    "is_fatal",
    "record_of",
]

_log = logging.getLogger(__name__)

_POLL_SECONDS = 0.2

_FATAL_CODES = frozenset(
    {
        confluent_kafka.KafkaError._FATAL,  # noqa: SLF001 - the underscore marks librdkafka's own error codes
        confluent_kafka.KafkaError._AUTHENTICATION,  # noqa: SLF001 - as above
        confluent_kafka.KafkaError.TOPIC_AUTHORIZATION_FAILED,
        confluent_kafka.KafkaError.GROUP_AUTHORIZATION_FAILED,
        confluent_kafka.KafkaError.INCONSISTENT_GROUP_PROTOCOL,
        confluent_kafka.KafkaError.FENCED_INSTANCE_ID,
        confluent_kafka.KafkaError.UNSUPPORTED_SASL_MECHANISM,
    }
)


class ConsumerFatalError(FatalInfrastructureError):
    """A consumer met an error that retrying inside the client does not mend."""

    default_code = "kafka_unavailable"


def is_fatal(error: confluent_kafka.KafkaError) -> bool:
    """Return whether a consumer that met ``error`` cannot go on by itself."""
    return error.fatal() or error.code() in _FATAL_CODES


def record_of(message: confluent_kafka.Message) -> Record:
    """Return a message that a consumer has read, and that carries no error, as a record.

    Raises:
        ConsumerFatalError: The message does not say where it comes from.
    """
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    if topic is None or partition is None or offset is None:
        raise ConsumerFatalError("the client returned a record without its place")
    headers = message.headers()
    return Record(
        topic,
        partition,
        offset,
        message.timestamp()[1],
        message.key(),
        message.value(),
        tuple(headers) if headers else (),  # type: ignore[arg-type] # read headers are pairs of str and bytes
    )


def _note(error: confluent_kafka.KafkaError) -> None:
    """Take what is no record's own failure: a broker that is away, which `kafka_watch` says."""
    _log.debug("kafka producer: %s", error.str())


class Producer:
    """An asyncio face of librdkafka's producer, for one event loop.

    Create it inside a running loop and :meth:`close` it there. One thread waits for delivery
    reports; reports that arrive together wake the loop once. When librdkafka's queue is full,
    records wait here, in order, until reports make room.
    """

    def __init__(self, config: KafkaConfig) -> None:
        self._loop = asyncio.get_running_loop()
        self._client = confluent_kafka.Producer({**config.producer(), "error_cb": _note})
        self._fatal: ProducerFatalError | None = None
        self._propagation = config.topic_propagation
        # A broker that has just started may not know every topic at once.
        self._unknown_since: dict[str, float] = {}
        # Filled by the poll thread, emptied by the loop: deque operations are atomic.
        self._reports: deque[tuple[asyncio.Future[None], confluent_kafka.KafkaError | None, str]]
        self._reports = deque()
        self._wake_scheduled = False
        self._waiting: deque[tuple[Outgoing, asyncio.Future[None]]] = deque()
        self._pending = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing = False
        self._closing_thread = threading.Event()
        self._thread_ended = asyncio.Event()
        threading.Thread(target=self._poll, name="kafka-producer", daemon=True).start()

    @property
    def pending(self) -> int:
        """How many records are neither confirmed nor failed."""
        return self._pending

    @property
    def fatal_error(self) -> ProducerFatalError | None:
        """Why this producer takes no more records, or None while it does."""
        return self._fatal

    async def send(self, message: Outgoing) -> None:
        """Produce a record and return when the broker has confirmed it.

        Raises:
            MessageTooLargeError, RecordRejectedError: The record can never be sent.
            DeliveryError: It was not confirmed within the delivery timeout.
            KafkaRefusesError: Kafka takes none of our records; the process should end.
            ProducerFatalError: The producer is broken for good; the process should end.
        """
        await self.enqueue(message)

    async def send_all(self, messages: Iterable[Outgoing]) -> None:
        """Produce records together and return when all are confirmed.

        Raises:
            MillstreamError: As :meth:`send`, for the first record that failed; the outcome of
                every other record is known by then, too.
        """
        futures = [self.enqueue(message) for message in messages]
        first_failure: MillstreamError | None = None
        try:
            for future in futures:
                try:
                    await future
                except MillstreamError as error:
                    first_failure = first_failure or error
        finally:
            for future in futures:  # when we are cancelled, nobody waits for the rest
                future.cancel()
        if first_failure is not None:
            raise first_failure

    def enqueue(self, message: Outgoing) -> asyncio.Future[None]:
        """Hand a record over and return a future that resolves on confirmed delivery.

        The future fails with the errors that :meth:`send` raises.
        """
        future: asyncio.Future[None] = self._loop.create_future()
        if self._fatal is not None:
            future.set_exception(self._fatal)
        elif self._closing:
            future.set_exception(DeliveryError("the producer is closed"))
        else:
            self._pending += 1
            self._idle.clear()
            if self._waiting or not self._produce(message, future):
                self._waiting.append((message, future))
        return future

    async def flush(self, timeout: float) -> int:  # noqa: ASYNC109 - what is left is an answer, not an error
        """Wait until nothing is pending and return how many records still are.

        Args:
            timeout: Seconds to wait at most.
        """
        try:
            await asyncio.wait_for(self._idle.wait(), timeout)
        except TimeoutError:
            return self._pending
        return 0

    async def close(self, timeout: float = 10.0) -> None:  # noqa: ASYNC109 - unconfirmed records fail on their own futures
        """Flush for up to ``timeout`` seconds, fail what is left, and end the poll thread."""
        if self._closing:
            return
        self._closing = True
        if await self.flush(timeout):
            while self._waiting:
                _, future = self._waiting.popleft()
                self._settle(future, DeliveryError("the producer was closed before delivery"))
            self._client.purge()
            # Purged records report their failure through the poll thread.
            await self.flush(_POLL_SECONDS * 5)
        self._closing_thread.set()
        await self._thread_ended.wait()

    def _produce(self, message: Outgoing, future: asyncio.Future[None]) -> bool:
        """Give a record to librdkafka; False when its queue is full."""
        try:
            self._client.produce(
                message.topic,
                message.value,
                message.key,
                headers=list(message.headers),
                on_delivery=functools.partial(self._reported, future, message.topic),
            )
        except BufferError:
            return False
        except confluent_kafka.KafkaException as raised:
            self._fail(future, raised.args[0], message.topic)
        return True

    def _poll(self) -> None:
        """Serve delivery reports until closed. Runs in the poll thread."""
        while not self._closing_thread.is_set():
            self._client.poll(_POLL_SECONDS)
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._thread_ended.set)

    def _reported(
        self,
        future: asyncio.Future[None],
        topic: str,
        error: confluent_kafka.KafkaError | None,
        _message: confluent_kafka.Message,
    ) -> None:
        """Take one delivery report. Runs in the poll thread."""
        self._reports.append((future, error, topic))
        if not self._wake_scheduled:
            self._wake_scheduled = True
            try:
                self._loop.call_soon_threadsafe(self._take_reports)
            except RuntimeError:  # the loop is closed: nobody waits any more
                self._closing_thread.set()

    def _take_reports(self) -> None:
        # Cleared first: a report that comes in while we drain schedules another turn.
        self._wake_scheduled = False
        while self._reports:
            future, error, topic = self._reports.popleft()
            if error is None:
                if self._unknown_since:
                    self._unknown_since.pop(topic, None)
                self._settle(future, None)
            else:
                self._fail(future, error, topic)
        while self._waiting and self._produce(*self._waiting[0]):
            self._waiting.popleft()

    def _fail(
        self, future: asyncio.Future[None], error: confluent_kafka.KafkaError, topic: str
    ) -> None:
        is_settled = False
        if is_unknown_topic(error):
            now = self._loop.time()
            since = self._unknown_since.setdefault(topic, now)
            is_settled = now - since >= self._propagation
        failure = delivery_failure(error, topic, is_settled=is_settled)
        if isinstance(failure, ProducerFatalError):
            self._fatal = failure
        self._settle(future, failure)

    def _settle(self, future: asyncio.Future[None], failure: MillstreamError | None) -> None:
        self._pending -= 1
        if not self._pending:
            self._idle.set()
        if future.done():  # its waiter was cancelled
            return
        if failure is None:
            future.set_result(None)
        else:
            future.set_exception(failure)

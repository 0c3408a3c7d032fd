"""Runs roles: one Faust app per subscription, all in one event loop.

The handler of a subscription gets one record at a time per key. The record is acked when the
handler returns, so the handler returns when everything the record caused is confirmed. What a
handler raises is a bug of its policy: the worker stops without acking that record.
"""

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from faust import Stream
from faust.types import StreamT

from agents.runtime.errors import KafkaUnavailableError
from agents.runtime.kafka import KafkaConfig
from agents.runtime.metrics import Load, RoleMetrics
from agents.runtime.pool import KeyedPool, record_key
from agents.runtime.records import Record, TopicPartition
from agents.runtime.transport import BatchConsumer, Delivery, DeliveryApp
from agents.runtime.watchdog import LEAST_SECONDS, Pulse

_log = logging.getLogger(__name__)

#: Seconds that running handlers have when their partition moves to another worker. The whole
#: group waits for it.
_REVOKE_GRACE = 5.0
#: Seconds for leaving the groups and stopping Faust's services, after handlers have ended.
_LEAVE_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class Subscription:
    """What one role reads, and what it does with a record.

    Args:
        role: Name of the role, for logs and errors.
        group: Consumer group; also the id of the Faust app.
        topics: Topics to read. Several topics are assigned so that one worker has the same
            partition numbers of each.
        handler: Awaited once per record; returns when the record may be acked.
        key_of: What must stay in order.
        window: Most records of a partition that a crash can repeat.
        concurrency: Most handlers that run at the same time.
        metrics: What the role counts.
        patience: Seconds without the end of an attempt that count as a hang.
        finishes: Whether handlers go on when their partition moves, for what must not be broken
            off in the middle. Their records come to the new owner all the same.
    """

    role: str
    group: str
    topics: tuple[str, ...]
    handler: Callable[[Record], Awaitable[None]]
    key_of: Callable[[Record], bytes | None] = record_key
    window: int = 1000
    concurrency: int = 256
    metrics: RoleMetrics = field(default_factory=RoleMetrics)
    patience: float = LEAST_SECONDS
    finishes: bool = False


class _Station:
    """One subscription at work: its app and its pool."""

    def __init__(
        self,
        kafka: KafkaConfig,
        subscription: Subscription,
        *,
        revoke_grace: float,
        on_crash: Callable[[BaseException], None],
    ) -> None:
        self.subscription = subscription
        self.pool = KeyedPool(
            subscription.handler,
            on_finished=self._finished,
            on_crash=on_crash,
            key_of=subscription.key_of,
            concurrency=subscription.concurrency,
            finishes=subscription.finishes,
        )
        self.app = _new_app(
            kafka, subscription, self.pool, revoke_grace=revoke_grace, on_crash=on_crash
        )
        self._on_crash = on_crash
        subscription.metrics.load = self._load
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def consumer(self) -> BatchConsumer:
        consumer = self.app.consumer
        assert isinstance(consumer, BatchConsumer)  # noqa: S101 - our transport makes no other
        return consumer

    def _finished(self, partition: TopicPartition, epoch: int, next_offset: int) -> None:
        self.consumer.finished(partition, epoch, next_offset)

    def pulse(self) -> Pulse:
        """How this subscription is now."""
        poller, metrics = self.consumer.poller, self.subscription.metrics
        return Pulse(
            role=self.subscription.role,
            attempts=metrics.attempts + self.pool.ended,
            has_work=poller.is_busy,
            is_away=metrics.is_away,
            turns=poller.turns or None,
            poll_thread_is_dead=poller.is_dead,
            patience=self.subscription.patience,
        )

    def _load(self) -> Load:
        return Load(
            running=self.pool.running,
            unfinished=self.pool.unfinished,
            uncommitted=self.consumer.poller.uncommitted,
            oldest_seconds=self.pool.oldest_seconds,
        )

    def start(self) -> None:
        # Faust's start returns after the first assignment, which a broker that is away delays.
        self._tasks = [asyncio.create_task(self._start()), asyncio.create_task(self._watch())]

    async def _start(self) -> None:
        try:
            await self.app.start()
        except Exception as error:  # noqa: BLE001 - whatever ends an app ends the worker
            self._on_crash(error)

    async def _watch(self) -> None:
        await self.app.wait_until_stopped()
        if self.app.crash_reason is not None:
            self._on_crash(self.app.crash_reason)

    async def stop(self, grace: float) -> None:
        self.consumer.stop_delivery()
        if not await self.pool.drain(grace):
            _log.warning(
                "%s: handlers did not finish in time; their records will come again",
                self.subscription.role,
            )
        try:
            async with asyncio.timeout(_LEAVE_TIMEOUT):
                await self.app.stop()
        except TimeoutError:
            _log.warning("%s: could not leave the group in time", self.subscription.role)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _new_app(
    kafka: KafkaConfig,
    subscription: Subscription,
    pool: KeyedPool,
    *,
    revoke_grace: float,
    on_crash: Callable[[BaseException], None],
) -> DeliveryApp:
    # Cooperative rebalances let work on partitions that stay go on. They do not give one worker
    # the same partition numbers of several topics, so a key could be at two workers at once.
    assignor: Any = "cooperative-sticky" if len(subscription.topics) == 1 else "range"
    app = DeliveryApp(
        subscription.group,
        delivery=Delivery(
            settings=kafka.consumer(subscription.group, assignor=assignor),
            pool=pool,
            window=subscription.window,
            revoke_grace=revoke_grace,
        ),
        broker=f"kafka://{kafka.bootstrap_servers.replace(',', ';')}",
        store="memory://",
        autodiscover=False,
        # Batches, not records.
        stream_buffer_maxsize=64,
        stream_wait_empty=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        web_enabled=False,
        # Faust's commit loop finds nothing to do.
        broker_commit_interval=3600.0,
        broker_session_timeout=kafka.session_timeout,
    )
    app.boot_strategy.enable_kafka_producer = False
    app.boot_strategy.enable_web = False
    app.boot_strategy.enable_sensors = False
    topic = app.topic(
        *subscription.topics, key_serializer="raw", value_serializer="raw", acks=False
    )

    consumed = subscription.metrics.consumed

    @app.agent(topic, name=subscription.role)
    async def deliver(stream: StreamT[Any]) -> None:
        try:
            async for event in cast("Stream[Any]", stream).noack().events():
                batch = event.value
                if not batch.taken:  # Faust may bring a batch twice around a rebalance
                    batch.taken = True
                    consumed[batch.partition[0]] += len(batch.records)
                    pool.submit(batch)
        except Exception as error:  # noqa: BLE001 - Faust would restart the agent and lose the batch
            on_crash(error)

    return app


class Worker:
    """Runs subscriptions until it is told to stop or something breaks.

    Args:
        kafka: How to reach the cluster.
        subscriptions: What to read; each gets an app, a consumer and a poll thread of its own.
        drain_timeout: Seconds that running handlers have when the worker stops.
    """

    def __init__(
        self,
        kafka: KafkaConfig,
        subscriptions: Sequence[Subscription],
        *,
        drain_timeout: float = 10.0,
    ) -> None:
        self._kafka = kafka
        self._subscriptions = subscriptions
        self._drain_timeout = drain_timeout
        self._stations: list[_Station] = []
        self._wanted_stop = asyncio.Event()
        self._crash: BaseException | None = None
        self._stopped = False

    async def start(self) -> None:
        """Start reading. Returns at once; a broker that is away is waited for in the background."""
        for name in ("faust", "mode", "aiokafka"):
            logging.getLogger(name).setLevel(logging.WARNING)
        for subscription in self._subscriptions:
            station = _Station(
                self._kafka,
                subscription,
                revoke_grace=min(_REVOKE_GRACE, self._drain_timeout),
                on_crash=self.crash,
            )
            self._stations.append(station)
            station.start()

    async def wait_assigned(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - its expiry is our own error
        """Wait until every subscription has its partitions, which may be none.

        Args:
            timeout: Seconds to wait; for ever if not given.

        Raises:
            KafkaUnavailableError: Time is up, or the worker stops; the message names the roles
                that still wait.
            Exception: What broke the worker meanwhile.
        """
        assigned = asyncio.create_task(self._all_assigned())
        stopping = asyncio.create_task(self._wanted_stop.wait())
        try:
            await asyncio.wait(
                (assigned, stopping), timeout=timeout, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            assigned.cancel()
            stopping.cancel()
        if self._crash is not None:
            raise self._crash
        if waiting := self.waiting_roles:
            within = "" if timeout is None else f" after {timeout:g} s"
            raise KafkaUnavailableError(f"no partitions{within} for {', '.join(waiting)}")

    @property
    def waiting_roles(self) -> list[str]:
        """Roles that have not been given their partitions yet."""
        ready = {each.subscription.role for each in self._stations if each.consumer.ready.is_set()}
        roles = (each.role for each in self._subscriptions)
        return [role for role in roles if role not in ready]

    @property
    def is_stopping(self) -> bool:
        """Whether the worker drains or has ended."""
        return self._wanted_stop.is_set()

    def pulses(self) -> list[Pulse]:
        """What the watchdog looks at; nothing once the worker stops, which has its own limits."""
        return [] if self.is_stopping else [each.pulse() for each in self._stations]

    async def _all_assigned(self) -> bool:
        for station in self._stations:
            await station.consumer.ready.wait()
        return True

    async def run(self) -> None:
        """Work until told to stop, then stop.

        Raises:
            Exception: What a handler raised, or what ended the transport.
        """
        await self._wanted_stop.wait()
        await self.stop()
        if self._crash is not None:
            raise self._crash

    def request_stop(self) -> None:
        """Ask :meth:`run` to stop; asked a second time, running handlers are cancelled."""
        if self._wanted_stop.is_set():
            for station in self._stations:
                station.pool.abandon()
        self._wanted_stop.set()

    async def stop(self) -> None:
        """Stop reading, let handlers finish, commit what is finished, and leave the groups."""
        self._wanted_stop.set()
        if self._stopped:
            return
        self._stopped = True
        await asyncio.gather(*(each.stop(self._drain_timeout) for each in self._stations))

    def crash(self, error: BaseException) -> None:
        """End the worker because of ``error``, which :meth:`run` then raises; the first counts."""
        if self._crash is None:
            self._crash = error
            _log.error("the worker stops", exc_info=error)
        self._wanted_stop.set()


async def run_worker(worker: Worker) -> None:
    """Run a worker until SIGTERM or SIGINT: the first stops gracefully, the second at once.

    Raises:
        Exception: As :meth:`Worker.run`.
    """
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)
    for each in signals:
        loop.add_signal_handler(each, worker.request_stop)
    try:
        await worker.start()
        await worker.run()
    finally:
        for each in signals:
            loop.remove_signal_handler(each)

"""Faust over librdkafka: what a stock ``faust.App`` needs in place of its own Kafka drivers.

Records come from a :class:`~agents.runtime.poller.Poller` and go through Faust as batches of one
partition, so that Faust's cost per event is paid per batch. Faust's ack and commit paths are not
used: they ack an event whose handler raised, and commit past unfinished events. Offsets go from
the pool straight back to the poll thread.

What Faust does around a rebalance is made for tables and for assignments that stop the world. Of
that, only its assignment step is used, with all partitions assigned at that time: it rebuilds the
index of topics. A revocation is between the poll thread and the pool; work on partitions that stay
goes on meanwhile.
"""

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import faust
from faust.transport.base import Transport
from faust.transport.conductor import Conductor
from faust.transport.consumer import Consumer, Fetcher, TransactionManager
from faust.transport.producer import Producer
from faust.types import TP, ConsumerMessage
from mode import get_logger

from agents.runtime.poller import Poller
from agents.runtime.pool import KeyedPool
from agents.runtime.records import TopicPartition
from agents.runtime.window import Batch

#: What Faust says of itself goes where its other loggers go.
_log = get_logger("faust.transport")

#: Faust compares the generation of an event with its app's and drops what differs. Epochs of
#: batches do that work here, for each partition, so Faust's number stays the same.
_GENERATION = 1


@dataclass(frozen=True, slots=True)
class Delivery:
    """What the transport of one app needs to know.

    Args:
        settings: librdkafka consumer settings, with the group.
        pool: Takes the records.
        window: Most records of a partition that a crash can repeat.
        revoke_grace: Seconds that running handlers have when their partition moves.
    """

    settings: Mapping[str, Any]
    pool: KeyedPool
    window: int
    revoke_grace: float


def _refuse(feature: str) -> NoReturn:
    raise NotImplementedError(f"{feature} belongs to the poll thread and is closed to Faust")


class DetachedConsumer(Consumer):
    """Faust's consumer service without its bookkeeping of acks and offsets.

    Faust asks for a commit or a seek as part of its routine; those do nothing. The rest it needs
    for tables and for reading by itself, which we do not use; those raise NotImplementedError.
    """

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:  # noqa: ARG002 - Faust's signature
        """Commit nothing: the poll thread does."""
        return True

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:  # noqa: ARG002 - Faust's signature
        return True

    async def perform_seek(self) -> None:
        """Seek nowhere: librdkafka starts at the committed offset by itself."""

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Seek nowhere, as :meth:`perform_seek`."""
        return {}

    async def wait_empty(self) -> None:
        """Return at once: the worker drains the pool itself."""

    def close(self) -> None:
        """Close nothing: stopping the service ends the poll thread."""

    async def _seek(self, partition: TP, offset: int) -> None:  # noqa: ARG002 - Faust's signature
        _refuse("seeking")

    async def seek_wait(self, partitions: Mapping[TP, int]) -> None:  # noqa: ARG002 - Faust's signature
        """Refuse."""
        _refuse("seeking")

    async def position(self, tp: TP) -> int | None:  # noqa: ARG002 - Faust's signature
        """Refuse."""
        _refuse("the position")

    def highwater(self, tp: TP) -> int:  # noqa: ARG002 - Faust's signature
        """Refuse."""
        _refuse("the end offset")

    async def highwaters(self, *partitions: TP) -> Mapping[TP, int]:  # noqa: ARG002 - Faust's signature
        """Refuse."""
        _refuse("the end offset")

    async def earliest_offsets(self, *partitions: TP) -> Mapping[TP, int]:  # noqa: ARG002 - Faust's signature
        """Refuse."""
        _refuse("the first offset")

    def topic_partitions(self, topic: str) -> int | None:  # noqa: ARG002 - Faust's signature
        """Refuse."""
        _refuse("topic metadata")

    def key_partition(
        self,
        topic: str,  # noqa: ARG002 - Faust's signature
        key: bytes | None,  # noqa: ARG002 - Faust's signature
        partition: int | None = None,  # noqa: ARG002 - Faust's signature
    ) -> int | None:
        """Refuse."""
        _refuse("partitioning")

    async def create_topic(self, *args: Any, **kwargs: Any) -> None:  # noqa: ARG002 - Faust's signature
        """Refuse."""
        _refuse("making topics")

    async def _getmany(
        self,
        active_partitions: set[TP] | None,  # noqa: ARG002 - Faust's signature
        timeout: float,  # noqa: ARG002, ASYNC109 - Faust's signature
    ) -> NoReturn:
        _refuse("fetching")

    def _to_message(self, tp: TP, record: Any) -> NoReturn:  # noqa: ARG002 - Faust's signature
        _refuse("fetching")

    def _new_topicpartition(self, topic: str, partition: int) -> TP:
        return TP(topic, partition)


class BatchConsumer(DetachedConsumer):
    """Faust's consumer service, fed by a poll thread. It is that thread's listener."""

    logger = _log
    mundane_level = "debug"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        app = self.app
        if not isinstance(app, DeliveryApp):
            raise TypeError("this transport serves a DeliveryApp only")
        app.consumer_generation_id = _GENERATION
        self._pool = app.delivery.pool
        self._poller = Poller(
            app.delivery.settings,
            self,
            asyncio.get_running_loop(),
            window=app.delivery.window,
            revoke_grace=app.delivery.revoke_grace,
        )
        self._revoke_grace = app.delivery.revoke_grace
        self._polling = False
        self._partitions: frozenset[TopicPartition] = frozenset()
        self._arrived: deque[Batch] = deque()
        self._offered: deque[Batch] = deque()
        self._arrival = asyncio.Event()
        self._assigning = asyncio.Lock()
        self._thread_ended = asyncio.Event()
        #: Set while the group has given this app its partitions, which may be none, and Faust has
        #: opened the flow; not while it has lost them all.
        self.ready = asyncio.Event()

    # What the worker uses.

    def finished(self, partition: TopicPartition, epoch: int, next_offset: int) -> None:
        """Pass on that the pool has finished everything before ``next_offset``."""
        self._poller.finished(partition, epoch, next_offset)

    @property
    def poller(self) -> Poller:
        """The poll thread, to see how it is."""
        return self._poller

    def stop_delivery(self) -> None:
        """Bring no more records; commits go on."""
        self._poller.pause()
        self._arrived.clear()

    # What the poll thread brings, in the event loop.

    def on_batches(self, batches: list[Batch]) -> None:
        """Queue batches for Faust's fetcher."""
        self._arrived.extend(batches)
        self._arrival.set()

    def on_assigned(
        self, added: Mapping[TopicPartition, int], assignment: frozenset[TopicPartition]
    ) -> None:
        """Open the pool for new partitions and have Faust index them before records flow."""
        for partition, epoch in added.items():
            self._pool.assign(partition, epoch)
        self._partitions = assignment
        self.stop_flow()  # Faust opens it again when it knows the partitions
        self.add_future(self._assign_in_faust())

    async def on_revoked(self, partitions: frozenset[TopicPartition]) -> None:
        """Let running handlers finish for the grace time, then give the partitions up."""
        self._without(partitions)
        await self._pool.revoke(partitions, grace=self._revoke_grace)

    def on_lost(self, partitions: frozenset[TopicPartition]) -> None:
        """Give partitions up at once."""
        self._without(partitions)
        self.add_future(self._pool.revoke(partitions, grace=0))

    def on_closed(self, failure: BaseException | None) -> None:
        """Crash the app when the thread has ended by itself."""
        self._thread_ended.set()
        if failure is not None:
            self.add_future(self.crash(failure))

    def _without(self, partitions: frozenset[TopicPartition]) -> None:
        self._partitions -= partitions
        if not self._partitions:
            # The group has the last word: it assigns again, and be it nothing.
            self.ready.clear()

    async def _assign_in_faust(self) -> None:
        async with self._assigning:
            self.app.on_rebalance_start()
            assigned = {TP(*partition) for partition in self._partitions}
            await self.on_partitions_assigned(assigned, _GENERATION)

    # What Faust calls.

    async def subscribe(self, topics: Iterable[str]) -> None:
        """Start the poll thread; the topics of an app never change afterwards."""
        if not self._polling:
            self._polling = True
            self._poller.start(topics)

    def resume_flow(self) -> None:
        """Open the flow, offering again what Faust dropped from its queues meanwhile."""
        self._arrived.extendleft(batch for batch in reversed(self._offered) if not batch.taken)
        self._offered.clear()
        super().resume_flow()
        self._arrival.set()
        self.ready.set()

    async def _drain_messages(self, fetcher: Any) -> None:
        """Pass batches to Faust's conductor until the fetcher is cancelled."""
        while not (self.should_stop or fetcher.should_stop):
            if not self.flow_active:
                await self.can_resume_flow.wait()
            if not self._arrived:
                self._arrival.clear()
                await self._arrival.wait()
                continue
            batch = self._arrived.popleft()
            if batch.taken or batch.partition not in self._partitions:
                continue
            while self._offered and self._offered[0].taken:
                self._offered.popleft()
            self._offered.append(batch)
            await self.callback(_message(batch))

    def assignment(self) -> set[TP]:
        """Return the partitions assigned now."""
        return {TP(*partition) for partition in self._partitions}

    async def on_stop(self) -> None:
        """Have the poll thread commit, leave the group and end."""
        if self._polling:
            self._poller.stop()
            await self._thread_ended.wait()


def _message(batch: Batch) -> ConsumerMessage:
    topic, partition = batch.partition
    return ConsumerMessage(
        topic,
        partition,
        batch.records[0].offset,
        time.time(),
        1,
        None,
        None,
        batch,  # type: ignore[arg-type] # Faust passes a value through when no serializer is set
        None,
        0,
        0,
        TP(topic, partition),
        generation_id=_GENERATION,
    )


class NoProducer(Producer):
    """Faust wants a producer object; records leave through :mod:`agents.runtime.kafka` only."""

    async def flush(self) -> None:
        """Flush nothing."""


class BatchTransport(Transport):
    """The parts of a transport, as Faust looks them up."""

    Consumer = BatchConsumer
    Producer = NoProducer
    Conductor = Conductor
    TransactionManager = TransactionManager
    Fetcher = Fetcher
    driver_version = "librdkafka"


class DeliveryApp(faust.App):
    """A stock app on our transport."""

    logger = _log
    mundane_level = "debug"

    def __init__(self, id: str, *, delivery: Delivery, **options: Any) -> None:  # noqa: A002 - Faust's signature
        self.delivery = delivery
        super().__init__(id, **options)

    def _new_transport(self) -> BatchTransport:
        return BatchTransport([], self)

    def _new_producer_transport(self) -> BatchTransport:
        return BatchTransport([], self)

    def _create_directories(self) -> None:
        """Make no folder: there are no tables to keep."""

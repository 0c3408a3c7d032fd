"""The poll thread: the only place where a librdkafka consumer is called.

librdkafka may block for good when a consumer is called from a second thread, so polling, pausing,
committing and closing all happen here, and rebalance callbacks run here, too. The event loop talks
to this thread through one deque, this thread to the loop through ``call_soon_threadsafe``.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Coroutine, Iterable, Mapping
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, Protocol

import confluent_kafka
from confluent_kafka import KafkaError

from agents.runtime.commits import Commits
from agents.runtime.kafka import ConsumerFatalError, is_fatal, record_of
from agents.runtime.pauses import Pauses
from agents.runtime.records import Record, TopicPartition
from agents.runtime.window import Batch, PartitionWindow

_log = logging.getLogger(__name__)

#: Most records taken from librdkafka at once.
_BURST = 500
#: Seconds that the last commit before leaving may take.
_LAST_COMMIT_TIMEOUT = 3.0
#: Seconds that a poll waits for records: when nothing is going on, while handlers run, and while
#: records wait for permits. A record that arrives ends the wait.
_POLL_IDLE, _POLL_BUSY, _POLL_BLOCKED = 0.25, 0.05, 0.004
#: Seconds beyond the grace in which the loop must have answered a revocation.
_LOOP_ANSWER_SECONDS = 5.0
#: Bytes of one partition that may wait for permits.
_BACKLOG_BYTES = 8 * 1024 * 1024


class Listener(Protocol):
    """Who takes what the poll thread brings. All methods are called in the event loop."""

    def on_batches(self, batches: list[Batch]) -> None:
        """Take records that were read."""

    def on_assigned(
        self, added: Mapping[TopicPartition, int], assignment: frozenset[TopicPartition]
    ) -> None:
        """Learn of new partitions with their epochs, and of all that are assigned now."""

    def on_revoked(self, partitions: frozenset[TopicPartition]) -> Coroutine[Any, Any, None]:
        """Finish work on partitions that are about to move; they move when this returns."""

    def on_lost(self, partitions: frozenset[TopicPartition]) -> None:
        """Drop work on partitions that others may have already."""

    def on_closed(self, failure: BaseException | None) -> None:
        """Learn that the thread has ended, and what ended it unless it was told to."""


class Poller:
    """Reads the topics of one consumer group in a thread of its own.

    Args:
        settings: librdkafka consumer settings.
        listener: Called in ``loop``.
        loop: The loop that the listener lives in.
        window: Most records of a partition that may be handed over and not yet committed: what a
            crash can repeat.
        revoke_grace: Seconds that the listener may take to finish work on revoked partitions.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        listener: Listener,
        loop: asyncio.AbstractEventLoop,
        *,
        window: int,
        revoke_grace: float,
    ) -> None:
        self._settings = {**settings, "error_cb": self._client_error}
        self._listener = listener
        self._loop = loop
        self._window = window
        self._revoke_grace = revoke_grace
        # Appended by the loop, emptied by the thread: deque operations are atomic.
        self._finished: deque[tuple[TopicPartition, int, int]] = deque()
        #: Set by the loop, so that a thread whose partitions are all full need not look often.
        self._progress = threading.Event()
        self._delivering = True
        self._stopping = False
        self._told_to_stop = False
        # Written by the thread, for whoever wants to know how it is.
        #: How often it has come round.
        self.turns = 0
        #: Whether handlers have not finished all that was handed over.
        self.is_busy = False
        #: How many records are handed over and not covered by a committed offset.
        self.uncommitted = 0
        # Everything below belongs to the thread.
        self._windows: dict[TopicPartition, PartitionWindow] = {}
        self._epoch = 0
        self._commits: Commits
        self._pauses: Pauses
        self._told_closed = False
        self._fatal: KafkaError | None = None
        self._consumer: confluent_kafka.Consumer
        self._thread: threading.Thread | None = None

    @property
    def is_dead(self) -> bool:
        """Whether the thread has ended, although nobody told it to."""
        thread = self._thread
        return thread is not None and not self._told_to_stop and not thread.is_alive()

    def start(self, topics: Iterable[str]) -> None:
        """Start the thread and join the group for ``topics``."""
        self._thread = threading.Thread(
            target=self._run, args=(list(topics),), name="kafka-poll", daemon=True
        )
        self._thread.start()

    def finished(self, partition: TopicPartition, epoch: int, next_offset: int) -> None:
        """Note that all records before ``next_offset`` are done, to be committed soon."""
        self._finished.append((partition, epoch, next_offset))
        self._progress.set()

    def pause(self) -> None:
        """Hand no more records over; commits go on."""
        self._delivering = False

    def stop(self) -> None:
        """Commit what is finished, leave the group and end; ``on_closed`` tells when."""
        self._delivering = False
        self._told_to_stop = self._stopping = True
        self._progress.set()

    # What follows runs in the poll thread.

    def _run(self, topics: list[str]) -> None:
        failure: BaseException | None = None
        try:
            self._consumer = confluent_kafka.Consumer(
                {**self._settings, "on_commit": self._commit_answered}
            )
            self._commits = Commits(self._consumer, self._windows)
            self._pauses = Pauses(self._consumer, self._windows)
            try:
                self._consumer.subscribe(
                    topics,
                    on_assign=self._assigned,
                    on_revoke=self._revoked,
                    on_lost=self._lost,
                )
                while not self._stopping:
                    self._turn()
                self._collect_finished()
                if not self._commits.finish(_LAST_COMMIT_TIMEOUT):
                    # With a commit on its way to a broker that is away, closing takes for ever.
                    # Nobody has to wait for it: the group drops us when the session expires.
                    self._tell_closed(None)
            finally:
                self._stopping = True
                self._consumer.close()
        except confluent_kafka.KafkaException as raised:
            failure = ConsumerFatalError(raised.args[0].str())
        except BaseException as error:  # noqa: BLE001 - a thread that dies unseen would stall the worker
            failure = error
        self._tell_closed(failure)

    def _tell_closed(self, failure: BaseException | None) -> None:
        if not self._told_closed and not self._loop.is_closed():
            self._told_closed = True
            self._call_loop(self._listener.on_closed, failure)

    def _turn(self) -> None:
        """Read what there is, hand over what may go, commit what is due."""
        self._read()
        if self._fatal is not None:
            raise ConsumerFatalError(self._fatal.str())
        self._collect_finished()
        self._commits.send_if_due()
        if self._delivering:
            batches = [
                Batch(window.partition, window.epoch, records)
                for window in self._windows.values()
                if (records := window.hand_over())
            ]
            if batches:
                self._call_loop(self._listener.on_batches, batches)
        self._pauses.adjust()
        windows = self._windows.values()
        self.is_busy = any(window.busy for window in windows)
        self.uncommitted = sum(window.uncommitted for window in windows)
        self.turns += 1

    def _read(self) -> None:
        """Serve callbacks and take in a burst of records, or one when no partition wants more."""
        windows = self._windows.values()
        if not windows or any(window.hungry for window in windows):
            first = self._consumer.poll(self._poll_seconds())
            if first is not None:
                self._sort([first, *self._consumer.consume(_BURST - 1, 0)])
        else:
            # Records stay in librdkafka's queue, which is bounded. There is no way to serve its
            # callbacks without taking a record, too.
            self._progress.wait(_POLL_BLOCKED if self._commits.pending else _POLL_BUSY)
            self._progress.clear()
            first = self._consumer.poll(0)
            if first is not None:
                self._sort([first])

    def _poll_seconds(self) -> float:
        seconds = _POLL_IDLE
        for window in self._windows.values():
            if window.blocked:
                return _POLL_BLOCKED
            if window.uncommitted:
                seconds = _POLL_BUSY
        return seconds

    def _sort(self, messages: list[confluent_kafka.Message]) -> None:
        """Put records into the windows of their partitions."""
        by_partition: dict[TopicPartition, list[Record]] = {}
        for message in messages:
            error = message.error()
            if error is not None:
                self._client_error(error)
                continue
            record = record_of(message)
            by_partition.setdefault((record.topic, record.partition), []).append(record)
        for place, records in by_partition.items():
            # None: the partition was revoked after these records were read.
            if (window := self._windows.get(place)) is not None:
                window.add(records)

    def _collect_finished(self) -> None:
        while self._finished:
            partition, epoch, next_offset = self._finished.popleft()
            window = self._windows.get(partition)
            if window is not None and window.epoch == epoch:
                window.finished = next_offset

    def _commit_answered(
        self, error: KafkaError | None, offsets: list[confluent_kafka.TopicPartition]
    ) -> None:
        self._commits.answered(error, offsets)

    # Rebalance callbacks; librdkafka calls them from within poll, consume and close. The client
    # assigns and unassigns by itself after them, incrementally where the assignor asks for it.

    def _assigned(
        self, _consumer: confluent_kafka.Consumer, parts: list[confluent_kafka.TopicPartition]
    ) -> None:
        # The epoch rises here, not in the loop: whatever is polled from now on belongs to it.
        self._epoch += 1
        added = {(each.topic, each.partition): self._epoch for each in parts}
        for partition in added:
            window = PartitionWindow(
                partition, self._epoch, limit=self._window, backlog_bytes=_BACKLOG_BYTES
            )
            self._windows[partition] = window
        self._pauses.rebalanced()
        self._call_loop(self._listener.on_assigned, added, frozenset(self._windows))

    def _revoked(
        self, _consumer: confluent_kafka.Consumer, parts: list[confluent_kafka.TopicPartition]
    ) -> None:
        partitions = frozenset((each.topic, each.partition) for each in parts)
        if self._stopping:  # the last commit has been made, and nothing runs any more
            self._forget(partitions)
            return
        done = asyncio.run_coroutine_threadsafe(self._listener.on_revoked(partitions), self._loop)
        try:
            done.result(self._revoke_grace + _LOOP_ANSWER_SECONDS)
        except FutureTimeoutError:
            _log.warning("the event loop did not answer a revocation in time")
        self._collect_finished()
        # The group waits for us, so its coordinator is there: this commit does not hang.
        self._commits.send_and_wait(w for p in partitions if (w := self._windows.get(p)))
        self._forget(partitions)

    def _lost(
        self, _consumer: confluent_kafka.Consumer, parts: list[confluent_kafka.TopicPartition]
    ) -> None:
        # Never commit here: others may own the partitions, and a commit would hang while the
        # broker is away.
        partitions = frozenset((each.topic, each.partition) for each in parts)
        self._forget(partitions)
        self._call_loop(self._listener.on_lost, partitions)

    def _forget(self, partitions: frozenset[TopicPartition]) -> None:
        self._pauses.leave(partitions)
        for partition in partitions:
            self._windows.pop(partition, None)

    def _client_error(self, error: KafkaError) -> None:
        if is_fatal(error):
            self._fatal = error
        else:  # such as a broker that is away: the client logs it and goes on by itself
            _log.debug("kafka consumer: %s", error.str())

    def _call_loop(self, call: Any, *args: Any) -> None:
        """Call a listener method in the loop, in the order of these calls."""
        self._loop.call_soon_threadsafe(call, *args)

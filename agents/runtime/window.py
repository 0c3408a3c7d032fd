"""What a worker may have of one partition beyond the committed offset.

Everything that was handed to handlers and is not committed comes again after a crash. A
:class:`PartitionWindow` bounds that number exactly: a record takes a permit when it is handed over
and gives it back when the broker has confirmed a commit that covers it.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from agents.runtime.records import Record, TopicPartition

#: Permits come back in steps of this fraction of the window.
_STEPS_PER_WINDOW = 8
#: Fetching pauses when this many windows of records wait. It is generous because a pause is dear:
#: what librdkafka has read ahead is thrown away, and the next fetch waits for the one under way.
_BACKLOG_WINDOWS = 4


@dataclass(slots=True)
class Batch:
    """Records of one partition, in order, on their way from the poll thread to the pool.

    Args:
        partition: Where the records come from.
        epoch: Which assignment of the partition they belong to.
        records: One record or more.
        taken: Whether the pool has them. Faust may drop or repeat what is in its queues while
            partitions move; the transport offers what was not taken again.
    """

    partition: TopicPartition
    epoch: int
    records: Sequence[Record]
    taken: bool = False


class PartitionWindow:
    """Books of one partition for as long as one assignment lasts. Belongs to the poll thread.

    Args:
        partition: The partition.
        epoch: Number of this assignment, unique within the consumer.
        limit: Most records that may be handed over and not yet committed.
        backlog_bytes: Most bytes of keys and values that may wait here to be handed over.
    """

    __slots__ = (
        "_backlog",
        "_backlog_bytes",
        "_backlog_bytes_limit",
        "_limit",
        "_requested",
        "_spans",
        "epoch",
        "finished",
        "handed_over",
        "partition",
        "paused",
        "uncommitted",
    )

    def __init__(
        self, partition: TopicPartition, epoch: int, *, limit: int, backlog_bytes: int
    ) -> None:
        self.partition = partition
        self.epoch = epoch
        self.paused = False
        #: Records handed over and not yet committed.
        self.uncommitted = 0
        #: Next offset to commit, as far as handlers have finished, or None before the first.
        self.finished: int | None = None
        #: Next offset to hand over, or None before the first.
        self.handed_over: int | None = None
        self._requested: int | None = None
        self._limit = limit
        self._backlog: deque[Record] = deque()
        self._backlog_bytes = 0
        self._backlog_bytes_limit = backlog_bytes
        # (last offset, number of records) of what was handed over: permits by the span.
        self._spans: deque[tuple[int, int]] = deque()

    @property
    def overfull(self) -> bool:
        """Whether so much waits here that fetching should pause."""
        return (
            len(self._backlog) >= self._limit * _BACKLOG_WINDOWS
            or self._backlog_bytes >= self._backlog_bytes_limit
        )

    @property
    def drained(self) -> bool:
        """Whether so little waits here that fetching should go on after a pause."""
        return len(self._backlog) <= self._limit and (
            self._backlog_bytes * _BACKLOG_WINDOWS <= self._backlog_bytes_limit
        )

    @property
    def hungry(self) -> bool:
        """Whether more records should be read for this partition."""
        return len(self._backlog) * 2 < self._limit and not self.paused

    @property
    def blocked(self) -> bool:
        """Whether records wait here for permits."""
        return bool(self._backlog)

    @property
    def busy(self) -> bool:
        """Whether handlers have not finished all that was handed over."""
        return self.handed_over != self.finished

    @property
    def crowded(self) -> bool:
        """Whether half the permits are out and a commit would bring some back."""
        return self.uncommitted * 2 >= self._limit and self.dirty

    @property
    def dirty(self) -> bool:
        """Whether handlers have finished more than what a commit was asked for."""
        return self.finished != self._requested

    def add(self, records: list[Record]) -> None:
        """Take in records that were read, in order."""
        self._backlog.extend(records)
        self._backlog_bytes += sum(map(_size, records))

    def hand_over(self) -> list[Record]:
        """Return the records that may go to handlers now; each takes a permit."""
        room = self._limit - self.uncommitted
        backlog = self._backlog
        if room <= 0 or not backlog:
            return []
        if room >= len(backlog):
            records = list(backlog)
            backlog.clear()
            self._backlog_bytes = 0
        else:
            records = [backlog.popleft() for _ in range(room)]
            self._backlog_bytes -= sum(map(_size, records))
        step = max(1, self._limit // _STEPS_PER_WINDOW)
        for start in range(0, len(records), step):
            span = records[start : start + step]
            self._spans.append((span[-1].offset, len(span)))
        self.uncommitted += len(records)
        self.handed_over = records[-1].offset + 1
        return records

    def commit_requested(self) -> int | None:
        """Note that a commit of what is finished was sent; return its offset."""
        self._requested = self.finished
        return self.finished

    def commit_failed(self) -> None:
        """Note that the last commit did not arrive, so that it is sent again."""
        self._requested = None

    def committed(self, offset: int) -> None:
        """Give back the permits of records before ``offset``, the next one to read."""
        spans = self._spans
        while spans and spans[0][0] < offset:
            self.uncommitted -= spans.popleft()[1]


def _size(record: Record) -> int:
    return len(record.key or b"") + len(record.value or b"")

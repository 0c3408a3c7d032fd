"""Writes batches while the next one is read.

Postgres merges a batch on a processor of its own, so the sink does not stand beside it: a batch is
sent, and what became of it is asked for before the next one follows. So at most two batches are in
memory: one on its way, one being read.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Final

import structlog

from agents.runtime.errors import InvalidMessageError
from agents.runtime.metrics import Metrics
from agents.runtime.records import Record, TopicPartition
from agents.sink.batch import Batch, Sorter
from agents.sink.store import Claim, Store, UnstorableError

Claims = Mapping[TopicPartition, Claim]
TopicIds = Mapping[str, str | None]
Positions = Mapping[TopicPartition, int]

_LOOKAHEAD: Final = timedelta(days=7)
"""How far ahead the daily partitions of the events are made."""
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Sent:
    """A batch on its way."""

    records: Sequence[Record]
    batch: Batch
    topic_ids: TopicIds
    claims: Claims
    seconds: float
    """What it took so far, but for what others took meanwhile."""


class Writer:
    """Batches on their way into one store; for one thread.

    Every method raises what the store raises, but for ``UnstorableError``: a message that Postgres
    refuses is kept as it came.

    Args:
        store: Where they go; closed with the writer.
        sorter: Makes rows of records.
        metrics: What it counts.
    """

    def __init__(self, store: Store, sorter: Sorter, metrics: Metrics) -> None:
        self.store = store
        self._sorter = sorter
        self._metrics = metrics
        self._sent: _Sent | None = None
        self._partitioned_on: date | None = None

    def close(self) -> None:
        """Close the store. What was on its way may be written or not; the next claim shows it."""
        self._sent = None
        self.store.close()

    def prepare(self) -> None:
        """Make the partitions of the days to come, where it has not been done today."""
        today = datetime.now(UTC).date()
        if today != self._partitioned_on:
            self.store.add_event_partitions(today - timedelta(days=1), _LOOKAHEAD.days + 2)
            self._partitioned_on = today

    def send(self, records: Sequence[Record], topic_ids: TopicIds, claims: Claims) -> Positions:
        """Send ``records`` on their way, after all that was sent before is written.

        Returns:
            The positions that are written now.
        """
        began = time.perf_counter()
        batch = self._sorter.sort(records, topic_ids)
        sorting = time.perf_counter() - began
        written = self.finish()
        began = time.perf_counter()
        self.prepare()
        sent = _Sent(records, batch, topic_ids, claims, sorting)
        try:
            self.store.send(batch, claims)
        except UnstorableError as error:
            self._write_halves(sent, error)
            return {**written, **self._end(sent, began)}
        sent.seconds += time.perf_counter() - began
        self._sent = sent
        return written

    def finish(self) -> Positions:
        """Wait until what was sent is written.

        Returns:
            The positions that it moved; none if nothing was on its way.
        """
        sent, self._sent = self._sent, None
        if sent is None:
            return {}
        began = time.perf_counter()
        try:
            self.store.finish()
            self._count(sent.batch)
        except UnstorableError as error:
            self._write_halves(sent, error)
        return self._end(sent, began)

    def _end(self, sent: _Sent, began: float) -> Positions:
        seconds = sent.seconds + time.perf_counter() - began
        self._metrics.sink_batches.ended(len(sent.records), seconds)
        return sent.batch.positions

    def _write_halves(self, sent: _Sent, error: UnstorableError) -> None:
        """Write around the message that Postgres refuses; nothing may block what comes after it."""
        if len(sent.records) == 1:
            self._write(self._as_it_came(sent.records[0], sent.topic_ids, error), sent.claims)
            return
        middle = len(sent.records) // 2
        for records in (sent.records[:middle], sent.records[middle:]):
            batch = self._sorter.sort(records, sent.topic_ids)
            half = replace(sent, records=records, batch=batch)
            try:
                self._write(batch, sent.claims)
            except UnstorableError as its_error:
                self._write_halves(half, its_error)

    def _as_it_came(self, record: Record, topic_ids: TopicIds, error: UnstorableError) -> Batch:
        reason = InvalidMessageError(f"Postgres cannot store it: {error}")
        return Batch(
            positions={(record.topic, record.partition): record.offset + 1},
            unreadable=[self._sorter.unreadable(record, topic_ids.get(record.topic), reason)],
        )

    def _write(self, batch: Batch, claims: Claims) -> None:
        self.store.write(batch, claims)
        self._count(batch)

    def _count(self, batch: Batch) -> None:
        rows = self._metrics.sink_rows
        rows["events"] += len(batch.events)
        rows["executions"] += len(batch.model.executions)
        rows["steps"] += len(batch.model.steps)
        rows["dead_letters"] += len(batch.dead_letters)
        rows["unreadable"] += len(batch.unreadable)
        if batch.unreadable:
            first = batch.unreadable[0]
            _log.warning(
                "sink_unreadable",
                records=len(batch.unreadable),
                topic=first.topic,
                partition=first.partition,
                offset=first.offset,
                reason=first.reason,
            )

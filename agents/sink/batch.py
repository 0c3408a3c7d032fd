"""Sorts the records of one batch into rows, by what they are.

A message becomes an event and a part of the read model; a state only the latter. A record of the
dead-letter topic becomes a dead letter. Whatever cannot be read, tombstones included, is kept as
it came.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from agents.runtime.errors import InvalidMessageError
from agents.runtime.records import Record, TopicPartition
from agents.sink.dead_letters import read_dead_letter
from agents.sink.fold import ReadModel
from agents.sink.rows import DeadLetterRow, EventRow, UnreadableRow
from agents.sink.values import headers_json, storable_json, text
from agents.sink.wire import Wire, wire_of
from schemas import AgentMessage, ExecutionState

Decode = Callable[[Record], AgentMessage[Any]]
"""The message in a record; raises ``InvalidMessageError`` where there is none."""


@dataclass(slots=True)
class Batch:
    """What one transaction writes."""

    positions: dict[TopicPartition, int] = field(default_factory=dict)
    """The next offset to read, by partition."""
    events: dict[tuple[Any, ...], EventRow] = field(default_factory=dict)
    """By identity: each message once."""
    model: ReadModel = field(default_factory=ReadModel)
    dead_letters: dict[tuple[Any, ...], DeadLetterRow] = field(default_factory=dict)
    unreadable: list[UnreadableRow] = field(default_factory=list)


class Sorter:
    """Makes batches of records.

    Args:
        lane: Whose records they are.
        decode: Finds the message in a record of any topic but the dead letters'.
        dead_letter_topic: The topic of the dead letters, with its lane.
    """

    def __init__(self, *, lane: str, decode: Decode, dead_letter_topic: str) -> None:
        self._lane = lane
        self._decode = decode
        self._dead_letter_topic = dead_letter_topic

    def sort(self, records: Iterable[Record], topic_ids: Mapping[str, str | None]) -> Batch:
        """The rows of ``records``, which come in the order of their offsets.

        Args:
            records: Records of any partitions.
            topic_ids: The broker's id of every topic, where it has one.
        """
        batch = Batch()
        for record in records:
            topic_id = topic_ids.get(record.topic)
            batch.positions[record.topic, record.partition] = record.offset + 1
            try:
                if record.topic == self._dead_letter_topic:
                    self._add_dead_letter(batch, record)
                else:
                    self._add_message(batch, record, topic_id)
            except InvalidMessageError as error:
                batch.unreadable.append(self.unreadable(record, topic_id, error))
        return batch

    def unreadable(
        self, record: Record, topic_id: str | None, error: InvalidMessageError
    ) -> UnreadableRow:
        """The row of a record that is no message, for the reason that ``error`` gives."""
        return UnreadableRow(
            lane=self._lane,
            topic=record.topic,
            topic_id=topic_id or "",
            partition=record.partition,
            offset=record.offset,
            recorded_at=record.time,
            code=error.code,
            reason=text(error.reason) or "",
            key=record.key,
            value=record.value,
            headers=headers_json(record.headers),
        )

    def _add_message(self, batch: Batch, record: Record, topic_id: str | None) -> None:
        message = self._decode(record)
        if message.lane != self._lane:
            raise InvalidMessageError(
                f"the message belongs to lane {message.lane!r}, this is lane {self._lane!r}",
                field="lane",
            )
        batch.model.add(message, topic_id)
        if not isinstance(message.payload, ExecutionState):
            row = _event(message, record)
            batch.events.setdefault(row.identity, row)

    def _add_dead_letter(self, batch: Batch, record: Record) -> None:
        row = read_dead_letter(record, lane=self._lane)
        known = batch.dead_letters.get(row.identity)
        if known is None or row.order < known.order:
            batch.dead_letters[row.identity] = row


def _event(message: AgentMessage[Any], record: Record) -> EventRow:
    value = record.value or b""
    wire = wire_of(value) or _written_anew(message)
    return EventRow(
        message.lane,
        wire.received_at[:10],
        wire.correlation_id,
        wire.message_id,
        wire.causation_id,
        message.message_type,
        message.schema_version,
        message.from_agent,
        message.to_agent,
        message.tenant,
        text(message.external_id),
        message.attempt,
        wire.timestamp,
        wire.received_at,
        record.topic,
        record.partition,
        record.offset,
        len(value),
        storable_json(wire.payload),
    )


def _written_anew(message: AgentMessage[Any]) -> Wire:
    """What a message would say on the wire that came in another form, as requests do."""
    return Wire(
        str(message.message_id),
        str(message.correlation_id),
        None if message.causation_id is None else str(message.causation_id),
        message.timestamp.isoformat(),
        message.received_at.isoformat(),
        message.payload.model_dump_json(),
    )

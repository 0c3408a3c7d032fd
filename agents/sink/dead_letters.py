"""A dead letter's row, from the headers that say what happened to its record."""

from contextlib import suppress
from typing import Final
from uuid import UUID

from agents.runtime import dead_letters as names
from agents.runtime.errors import InvalidMessageError
from agents.runtime.records import Record
from agents.sink.rows import DeadLetterRow
from agents.sink.values import headers_json, text
from schemas.envelope import HEADER_CORRELATION_ID

_LONGEST_NAME: Final = 300
"""Keys of an index row must fit into a third of a page; real names are shorter than this."""
_HIGHEST_OFFSET: Final = 2**63 - 1
_HIGHEST_INTEGER: Final = 2**31 - 1


def read_dead_letter(record: Record, *, lane: str) -> DeadLetterRow:
    """The row of a record of the dead-letter topic.

    Raises:
        InvalidMessageError: Its headers do not say which record it was, or who gave it up.
    """
    origin_topic = _name(record, names.HEADER_TOPIC)
    topic_id = record.header(names.HEADER_TOPIC_ID)
    correlation_id = None
    with suppress(ValueError):
        correlation_id = UUID((record.header(HEADER_CORRELATION_ID) or b"").decode("ascii"))
    return DeadLetterRow(
        lane=lane,
        origin_topic_id=_name(record, names.HEADER_TOPIC_ID) if topic_id else origin_topic,
        origin_partition=_number(record, names.HEADER_PARTITION, highest=_HIGHEST_INTEGER),
        origin_offset=_number(record, names.HEADER_OFFSET, highest=_HIGHEST_OFFSET),
        role=_name(record, names.HEADER_ROLE),
        origin_topic=origin_topic,
        code=_name(record, names.HEADER_CODE),
        reason=_text(record, names.HEADER_MESSAGE) or "",
        error_class=_text(record, names.HEADER_CLASS),
        field=_text(record, names.HEADER_FIELD),
        attempt=_number(record, names.HEADER_ATTEMPT, highest=_HIGHEST_INTEGER, default=1),
        redrives=_number(record, names.HEADER_REDRIVES, highest=_HIGHEST_INTEGER, default=0),
        correlation_id=correlation_id,
        key=record.key,
        value=record.value,
        headers=headers_json(record.headers),
        partition=record.partition,
        offset=record.offset,
        dead_lettered_at=record.time,
    )


def _text(record: Record, header: str) -> str | None:
    value = record.header(header)
    return None if value is None else text(value.decode("utf-8", errors="replace"))


def _name(record: Record, header: str) -> str:
    value = _text(record, header)
    if not value or len(value) > _LONGEST_NAME:
        problem = "lacks" if not value else "has too long a value in"
        raise InvalidMessageError(f"the dead letter {problem} its header {header}", field=header)
    return value


def _number(record: Record, header: str, *, highest: int, default: int | None = None) -> int:
    value = record.header(header)
    if value is None and default is not None:
        return default
    if value is None or not value.isdigit() or len(value) > len(str(highest)):
        raise InvalidMessageError(f"the dead letter's header {header} is no number", field=header)
    if (number := int(value)) > highest:
        raise InvalidMessageError(f"the dead letter's header {header} is too large", field=header)
    return number

"""Dead letters: the original bytes, with what happened in the headers.

Key and value stay as they came. The headers follow Kafka Connect's convention for its own
dead-letter queues (KIP-298), ``__connect.errors.*``, so that tools which know it can read them;
what Connect has no name for is in ``millstream-*`` headers.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Final, Protocol

import structlog

from agents.runtime.errors import ErrorCode, InvalidMessageError, MillstreamError, PermanentError
from agents.runtime.records import Headers, Outgoing, Record
from agents.runtime.redaction import redacted

TOPIC: Final = "millstream.dead-letters.v1"

HEADER_TOPIC: Final = "__connect.errors.topic"
HEADER_PARTITION: Final = "__connect.errors.partition"
HEADER_OFFSET: Final = "__connect.errors.offset"
HEADER_CLASS: Final = "__connect.errors.exception.class.name"
HEADER_MESSAGE: Final = "__connect.errors.exception.message"
HEADER_CODE: Final = "millstream-error-code"
HEADER_FIELD: Final = "millstream-error-field"
HEADER_ROLE: Final = "millstream-role"
HEADER_ATTEMPT: Final = "millstream-attempt"
HEADER_REDRIVES: Final = "millstream-redrives"
HEADER_TOPIC_ID: Final = "millstream-topic-id"
HEADER_TIMESTAMP: Final = "millstream-timestamp-ms"

_OURS: Final = frozenset(
    {
        HEADER_TOPIC,
        HEADER_PARTITION,
        HEADER_OFFSET,
        HEADER_CLASS,
        HEADER_MESSAGE,
        HEADER_CODE,
        HEADER_FIELD,
        HEADER_ROLE,
        HEADER_ATTEMPT,
        HEADER_TOPIC_ID,
        HEADER_TIMESTAMP,
    }
)
_LONGEST_REASON: Final = 4000
_log = structlog.get_logger(__name__)


def dead_letter(
    record: Record,
    error: Exception,
    *,
    code: ErrorCode,
    role: str,
    attempt: int,
    lane: str,
    topic_id: str | None,
) -> Outgoing:
    """The dead letter for ``record``.

    Args:
        record: What could not be handled.
        error: Why.
        code: The stable code of the reason.
        role: Who gave up.
        attempt: How many times it was tried.
        lane: The lane whose dead-letter topic it goes to.
        topic_id: The broker's id of the origin topic, where it has one; it tells a topic from its
            namesake that was made anew.
    """
    kept: Headers = tuple(header for header in record.headers if header[0] not in _OURS)
    told: list[tuple[str, str]] = [
        (HEADER_TOPIC, record.topic),
        (HEADER_PARTITION, str(record.partition)),
        (HEADER_OFFSET, str(record.offset)),
        (HEADER_TIMESTAMP, str(record.timestamp_ms)),
        (HEADER_CLASS, type(error).__name__),
        (HEADER_MESSAGE, redacted(str(error))[:_LONGEST_REASON]),
        (HEADER_CODE, code),
        (HEADER_ROLE, role),
        (HEADER_ATTEMPT, str(attempt)),
    ]
    if isinstance(error, InvalidMessageError) and error.field is not None:
        told.append((HEADER_FIELD, error.field))
    if topic_id is not None:
        told.append((HEADER_TOPIC_ID, topic_id))
    headers = (*kept, *((name, value.encode()) for name, value in told))
    return Outgoing(lane + TOPIC, record.key, record.value, headers)


class Publisher(Protocol):
    """Where messages go: resolves when the broker has confirmed all of them."""

    async def send_all(self, messages: Iterable[Outgoing]) -> None:
        """Produce ``messages`` and wait for their confirmation."""
        ...


class TooManyDeadLettersError(MillstreamError):
    """A role failed on so many records in a row that the fault is not theirs: the worker stops."""

    default_code: ClassVar[ErrorCode] = "bug"


@dataclass
class DeadLetterWriter:
    """Writes the dead letters of one role, and stops it when it fails on everything.

    Args:
        role: Who gives up.
        lane: The lane whose dead-letter topic is written.
        topic_ids: The broker's ids of the topics that the role consumes, by full name.
        publisher: The producer.
        limit: Records in a row that the role may fail on. Those that nobody can read or that must
            be refused do not count: whoever sends them could otherwise stop the pipeline.
    """

    role: str
    lane: str
    topic_ids: Mapping[str, str]
    publisher: Publisher
    limit: int
    _in_a_row: int = field(default=0, init=False)

    def note_success(self) -> None:
        """A record was handled: what failed before was not everything."""
        self._in_a_row = 0

    async def bury(
        self, record: Record, error: Exception, *, code: ErrorCode, attempt: int
    ) -> None:
        """Write the dead letter of ``record`` and return when the broker has it.

        Raises:
            TooManyDeadLettersError: It was one too many in a row; it is written all the same.
            InfrastructureError: The broker did not confirm it.
        """
        unexpected = code == "bug"
        _log.log(
            logging.ERROR if unexpected else logging.WARNING,
            "dead_letter",
            role=self.role,
            code=code,
            reason=str(error),
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            exc_info=error if unexpected else None,
        )
        letter = dead_letter(
            record,
            error,
            code=code,
            role=self.role,
            attempt=attempt,
            lane=self.lane,
            topic_id=self.topic_ids.get(record.topic),
        )
        await self.publisher.send_all([letter])
        if isinstance(error, PermanentError):
            return
        self._in_a_row += 1
        if self._in_a_row > self.limit:
            last = redacted(f"{type(error).__name__}: {error}")
            raise TooManyDeadLettersError(
                f"{self.role} failed on {self._in_a_row} records in a row, the last one with "
                f"{last}; they are dead letters, and the worker stops"
            )

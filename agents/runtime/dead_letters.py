"""Dead letters: the original bytes, with what happened in the headers.

Key and value stay as they came. The headers follow Kafka Connect's convention for its own
dead-letter queues (KIP-298), ``__connect.errors.*``, so that tools which know it can read them;
what Connect has no name for is in ``millstream-*`` headers.
"""

from typing import Final

from agents.runtime.errors import ErrorCode, InvalidMessageError
from agents.runtime.records import Headers, Outgoing, Record

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
        (HEADER_MESSAGE, str(error)[:_LONGEST_REASON]),
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

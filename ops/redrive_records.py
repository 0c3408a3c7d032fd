"""A dead letter's record: as it was, as the pipeline would read it, and as it is sent again."""

import hashlib
import json
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import Any, Final
from uuid import UUID

from pydantic_core import from_json

from agents.runtime import dead_letters as names
from agents.runtime.codec import decode
from agents.runtime.delays import restored
from agents.runtime.errors import InvalidMessageError, PermanentError
from agents.runtime.intake import pins, read_request
from agents.runtime.records import Headers, Record
from ops.dead_letter_rows import Contents, Letter
from schemas import AgentMessage, ExecutionRequest, Payload
from schemas.envelope import HEADER_DELIVERY_ATTEMPT, HEADER_MESSAGE_ID
from schemas.identity import derive_intake_message_id, derive_message_id

OPERATOR: Final = "operator"
"""Whose message an edited record is."""

Edit = Callable[[bytes | None], bytes]
"""Makes the new value of the old one; raises ``InvalidMessageError`` where that cannot be."""

_CONNECT: Final = "__connect.errors."
_ADDED: Final = frozenset(
    {
        names.HEADER_CODE,
        names.HEADER_FIELD,
        names.HEADER_ROLE,
        names.HEADER_ATTEMPT,
        names.HEADER_REDRIVES,
        names.HEADER_TOPIC_ID,
        names.HEADER_TIMESTAMP,
        HEADER_DELIVERY_ATTEMPT,  # its delays begin anew
    }
)


class RefusedRedriveError(PermanentError):
    """A dead letter must not be sent again as it is."""

    default_code = "refused"


def original_record(letter: Letter, contents: Contents) -> Record:
    """The record as it was before it became a dead letter.

    Its time is -1 where the dead letter does not say it.
    """
    told = dict(contents.headers)
    timestamp = told.get(names.HEADER_TIMESTAMP) or b""
    return Record(
        letter.origin_topic,
        letter.origin_partition,
        letter.origin_offset,
        int(timestamp) if timestamp.isdigit() and len(timestamp) < len(str(2**63)) else -1,
        contents.key,
        contents.value,
        tuple(
            header
            for header in contents.headers
            if header[0] not in _ADDED and not header[0].startswith(_CONNECT)
        ),
    )


def due(record: Record, lane: str) -> Record:
    """A record of a delay topic as its own topic gets it: it has waited long enough."""
    back = restored(record, lane=lane)
    return record._replace(topic=back.topic, headers=back.headers)


def read_message(record: Record, payload: type[Payload], lane: str) -> AgentMessage[Any]:
    """What the pipeline will read in the record, on a topic that carries ``payload``.

    Raises:
        InvalidMessageError: It would not accept it.
    """
    if payload is not ExecutionRequest:
        return decode(record, payload, lane=lane)
    if record.timestamp_ms < 0:
        raise InvalidMessageError(
            "the dead letter does not say when the request was written, so its ids are lost",
            field=names.HEADER_TIMESTAMP,
        )
    return read_request(record, lane=lane)


def pinned(record: Record, message: AgentMessage[Any]) -> Record:
    """The record with what its place on the topic gave it in headers."""
    return record._replace(headers=(*record.headers, *pins(record, message)))


def says_the_same(value: bytes, other: bytes | None) -> bool:
    """Whether two values are the same JSON, or the same bytes."""
    try:
        return _canonical(value) == _canonical(other or b"")
    except ValueError:
        return value == other


def rekeyed(record: Record, payload: type[Payload]) -> Record:
    """The record under the key that belongs to its correlation id; nothing else is changed.

    Raises:
        RefusedRedriveError: It has that key already.
    """
    key = record.key if payload is ExecutionRequest else _key(record.value)
    if key == record.key:
        raise RefusedRedriveError("the edit changes nothing; redrive it unedited")
    return record._replace(key=key)


def edited(record: Record, value: bytes, payload: type[Payload], lane: str) -> Record:
    """The record with another value, and with an id of its own.

    A request, whose key may be anything, keeps its key and its execution. Any other record gets
    the key that belongs to its correlation id.

    Raises:
        InvalidMessageError: The pipeline would not accept it.
    """
    is_request = payload is ExecutionRequest
    new = (
        record._replace(value=value, headers=_with_first_id(record))
        if is_request
        else record._replace(value=value, key=_key(value))
    )
    message = read_message(new, payload, lane)
    digest = hashlib.sha256(value).hexdigest()
    message_id = derive_message_id(
        lane=lane,
        correlation_id=message.correlation_id,
        role=OPERATOR,
        cause=f"{message.message_id}:{digest}",
        index=0,
    )
    document = from_json(value)
    if not is_request or document.get("message_id") is not None:
        document["message_id"] = str(message_id)
        new = new._replace(value=to_value(document))
    message = message.model_copy(update={"message_id": message_id})
    if is_request:
        kept = _without(new.headers, {HEADER_MESSAGE_ID})
        return pinned(new._replace(headers=kept), message)
    labels = message.headers()
    kept = _without(new.headers, {name for name, _ in labels})
    return new._replace(headers=(*kept, *labels))


def _with_first_id(record: Record) -> Headers:
    """Headers that say the id which the unedited request had, unless its body does.

    The execution follows from that id, so it stays the execution that it would have been.
    """
    if record.header(HEADER_MESSAGE_ID) is not None:
        return record.headers
    message_id = derive_intake_message_id(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        timestamp_ms=record.timestamp_ms,
        value=record.value or b"",
    )
    return (*record.headers, (HEADER_MESSAGE_ID, str(message_id).encode()))


def _canonical(value: bytes) -> str:
    # As text, in which 1, 1.0 and true differ.
    return json.dumps(from_json(value), sort_keys=True)


def _key(value: bytes | None) -> bytes | None:
    """The key that an envelope's record must have; ``None`` where it is no envelope."""
    try:
        return str(UUID(from_json(value or b"")["correlation_id"])).encode()
    except (ValueError, TypeError, KeyError, AttributeError):
        return None  # the decoder says what is wrong with it


def _without(headers: Headers, gone: AbstractSet[str]) -> Headers:
    return tuple(header for header in headers if header[0] not in gone)


def to_value(document: Any) -> bytes:
    """A JSON document as a record's value."""
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", errors="surrogatepass")  # which the decoder will refuse

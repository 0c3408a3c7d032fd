"""The text of an envelope, where it has the form in which our own roles write it.

Postgres is told in text what a message says, and the message came as text. What is taken from there
need not be made anew: neither ids and moments nor, above all, the payload.
"""

import re
from typing import Final, NamedTuple

_ID: Final = r'"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"'
_MOMENT: Final = r'"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?Z)"'
_WORD: Final = r'"[^"\\]*"'
_HEAD: Final = re.compile(
    rf'\{{"message_id":{_ID},"correlation_id":{_ID},"causation_id":(?:null|{_ID}),'
    rf'"from_agent":{_WORD},"to_agent":(?:null|{_WORD}),"message_type":{_WORD},'
    r'"schema_version":\d+,"payload":',
    re.ASCII,
)
_TAIL_BEGINS: Final = ',"timestamp":"'
_TAIL: Final = re.compile(
    rf',"timestamp":{_MOMENT},"received_at":{_MOMENT},"tenant":{_WORD},"attempt":\d+,'
    rf'"lane":{_WORD},"external_id":(?:null|{_WORD})\}}',
    re.ASCII,
)


class Wire(NamedTuple):
    """Parts of an envelope, as they are written in it."""

    message_id: str
    correlation_id: str
    causation_id: str | None
    timestamp: str
    received_at: str
    payload: str


def wire_of(value: bytes) -> Wire | None:
    """The parts of ``value``, a valid envelope; ``None`` where it is written in another form.

    What lies between head and tail is the payload: the tail holds one brace, which closes the
    envelope, so its fields are the envelope's own and not those of something inside.
    """
    text = value.decode()
    head = _HEAD.match(text)
    if head is None:
        return None
    begin = text.rfind(_TAIL_BEGINS, head.end())
    tail = _TAIL.fullmatch(text, begin) if begin > 0 else None
    if tail is None:
        return None
    message_id, correlation_id, causation_id = head.groups()
    timestamp, received_at = tail.groups()
    payload = text[head.end() : begin]
    return Wire(message_id, correlation_id, causation_id, timestamp, received_at, payload)

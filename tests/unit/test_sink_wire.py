"""What the sink takes from the text of an envelope is what the envelope says."""

import json
from typing import Any

import pytest
from support.sample_history import COURSES, history_of

from agents.sink.wire import Wire, wire_of
from schemas import AgentMessage, Step

MESSAGES = [message for course in COURSES for message in history_of(course, course)]


def moment(value: Any) -> str:
    return str(value.isoformat()).replace("+00:00", "Z")


def expected(message: AgentMessage[Any]) -> Wire:
    return Wire(
        str(message.message_id),
        str(message.correlation_id),
        None if message.causation_id is None else str(message.causation_id),
        moment(message.timestamp),
        moment(message.received_at),
        message.payload.model_dump_json(),
    )


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.message_type)
def test_the_parts_of_a_message_that_a_role_wrote(message: AgentMessage[Any]) -> None:
    assert wire_of(message.to_bytes()) == expected(message)


def step_with(parameters: dict[str, Any]) -> AgentMessage[Any]:
    message = next(each for each in MESSAGES if isinstance(each.payload, Step))
    return message.model_copy(
        update={"payload": message.payload.model_copy(update={"parameters": parameters})}
    )


ENVELOPE = json.loads(MESSAGES[0].to_bytes())


@pytest.mark.parametrize(
    "parameters",
    [
        {"payload": {"a": 1}, **{name: ENVELOPE[name] for name in ENVELOPE if name != "payload"}},
        {"inside": ENVELOPE},
        {"text": MESSAGES[0].to_bytes().decode()},
        {"text": ',"timestamp":"'},
        {"timestamp": "2026-01-05T09:00:00Z"},
        {"a": "\\", "é\u2028": '"}'},
    ],
)
def test_a_payload_that_looks_like_an_envelope_is_taken_whole(parameters: dict[str, Any]) -> None:
    message = step_with(parameters)
    assert wire_of(message.to_bytes()) == expected(message)


def rewritten(**changes: Any) -> bytes:
    return json.dumps({**ENVELOPE, **changes}, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    "value",
    [
        json.dumps(ENVELOPE).encode(),
        b" " + rewritten(),
        rewritten() + b"\n",
        json.dumps(dict(reversed(ENVELOPE.items())), separators=(",", ":")).encode(),
        json.dumps(
            {**{name: ENVELOPE[name] for name in ENVELOPE if name != "payload"}, "payload": {}},
            separators=(",", ":"),
        ).encode(),
        rewritten(message_id=ENVELOPE["message_id"].upper()),
        rewritten(received_at="2026-01-05T10:00:00+01:00"),
        rewritten(external_id='mine "quoted"'),
        rewritten(external_id="mine\\"),
    ],
)
def test_an_envelope_in_another_form_is_left_to_be_written_anew(value: bytes) -> None:
    assert wire_of(rewritten()) is not None
    assert wire_of(value) is None

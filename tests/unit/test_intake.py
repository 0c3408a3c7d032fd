import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.runtime.errors import InvalidMessageError
from agents.runtime.intake import read_request
from agents.runtime.records import Record
from schemas import AgentMessage

UUID_TEXT = "8f14e45f-ceea-467f-a8d2-2f6e5b0c9a11"


def record(
    value: object, *, headers: tuple[tuple[str, bytes], ...] = (), partition: int = 0
) -> Record:
    raw = value if isinstance(value, bytes) or value is None else json.dumps(value).encode()
    return Record("millstream.requests.v1", partition, 3, 1_767_600_000_123, None, raw, headers)


def read(value: object, **more: Any) -> AgentMessage[Any]:
    return read_request(record(value, **more), lane="")


def test_a_bare_text_is_enough() -> None:
    message = read({"text": "restart checkout in staging"})
    assert message.payload.text == "restart checkout in staging"
    assert message.from_agent == "intake"
    assert message.causation_id is None
    assert message.received_at.isoformat() == "2026-01-05T08:00:00.123000+00:00"


def test_whoever_reads_the_same_record_finds_the_same_ids() -> None:
    assert read({"text": "x"}) == read({"text": "x"})


@pytest.mark.parametrize(
    ("header", "day"),
    [
        (b"2026-01-03T23:59:59.999+00:00", "2026-01-03"),
        (b"2026-01-04T01:00:00+02:00", "2026-01-03"),
        (b"2027-01-03T00:00:00+00:00", "2026-01-05"),  # the future
        (b"2019-01-03T00:00:00+00:00", "2026-01-05"),  # nothing lies for so long
        (b"2026-01-03T00:00:00", "2026-01-05"),  # whose midnight?
        (b"yesterday", "2026-01-05"),
        (b"\xff", "2026-01-05"),
    ],
)
def test_a_header_says_when_a_request_was_first_received_if_it_can_be_believed(
    header: bytes, day: str
) -> None:
    message = read({"text": "x"}, headers=(("received-at", header),))
    assert message.received_at.date().isoformat() == day
    assert message.received_at.utcoffset() == timedelta(0)
    assert message.timestamp == message.received_at


def test_ids_come_from_the_body_before_the_headers() -> None:
    headers = (("message-id", b"from-header"), ("correlation-id", b"header-id"))
    message = read({"text": "x", "correlation_id": UUID_TEXT}, headers=headers)
    assert str(message.correlation_id) == UUID_TEXT
    assert message.message_id == read({"text": "y"}, headers=headers).message_id


def test_an_id_that_is_no_uuid_is_kept_as_external_id() -> None:
    message = read({"text": "x", "correlation_id": "abc-123"})
    assert message.external_id == "abc-123"
    assert message.correlation_id == read({"text": "y", "correlation_id": "abc-123"}).correlation_id
    assert (
        message.correlation_id
        != read({"text": "x", "correlation_id": "abc-123", "tenant": "other"}).correlation_id
    )


def test_the_same_message_id_on_another_partition_is_the_same_execution() -> None:
    body = {"text": "x", "message_id": "once"}
    first, second = read(body), read(body, partition=4)
    assert first.message_id == second.message_id
    assert first.correlation_id == second.correlation_id


def test_unknown_fields_are_accepted_and_reported() -> None:
    message = read({"text": "x", "priority": 3, "\x00": 1})
    assert message.payload.unknown_fields == ("?", "priority")


def test_an_envelope_is_read_as_well() -> None:
    payload = {"text": "x", "requester": {"user": "ann"}}
    message = read(
        {"message_type": "ExecutionRequest", "tenant": "acme", "payload": payload}
        | {"message_id": UUID_TEXT}
    )
    assert (message.tenant, str(message.message_id)) == ("acme", UUID_TEXT)
    assert message.payload.requester.user == "ann"
    assert message.payload.unknown_fields == ()


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (None, "tombstone"),
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"null", "a JSON null, not an object"),
        (b"[1]", "a JSON array, not an object"),
        (b'"restart"', "a JSON string, not an object"),
        ({}, "neither a text nor a plan"),
        ({"text": ""}, "text: .*at least 1 character"),
        ({"text": 7}, "text: .*valid string"),
        ({"text": "x" * 2_000_000}, "text: .*at most 10000 characters"),
        ({"text": "ring\u0007the bell"}, r"text: .*control character U\+0007"),
        ({"text": "x", "tenant": 5}, "tenant"),
        ({"text": "x", "correlation_id": 5}, "correlation_id: .*valid string"),
        ({"text": "x", "message_id": " "}, "message_id: is blank"),
        ({"text": "x", "plan": [{"step_id": "A"}]}, "plan.0.step_id"),
    ],
)
def test_what_is_no_request_says_what_is_wrong_and_where(value: object, complaint: str) -> None:
    with pytest.raises(InvalidMessageError, match=complaint):
        read(value)


def test_text_in_other_scripts_is_a_request() -> None:
    assert read({"text": "перезапусти checkout в staging 🚀"}).payload.text.startswith("пере")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_an_invalid_message(value: bytes) -> None:
    try:
        read_request(record(value), lane="")
    except InvalidMessageError as error:
        assert error.reason  # noqa: PT017  # either outcome is right


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.sampled_from(["text", "plan", "tenant", "requester", "message_id", "payload", "x"]),
        json_values,
    )
)
def test_any_object_is_a_request_or_an_invalid_message(body: dict[str, Any]) -> None:
    try:
        read(body)
    except InvalidMessageError as error:
        assert error.reason  # noqa: PT017  # either outcome is right

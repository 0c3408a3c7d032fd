import json
from uuid import UUID

import pytest

from agents.runtime.codec import decode, encode
from agents.runtime.errors import InvalidMessageError
from agents.runtime.records import Record
from agents.runtime.testing import message_with
from schemas import ExecutionRequest, Intent, Outcome

OUTCOME = Outcome(request_id=UUID(int=1), status="failed", code="bug", reason="it broke")
MESSAGE = message_with(OUTCOME)


def record(
    *, key: bytes | None = MESSAGE.key(), value: bytes | None = MESSAGE.to_bytes()
) -> Record:
    return Record("t", 0, 0, 0, key, value)


def changed(**changes: object) -> bytes:
    return json.dumps(json.loads(MESSAGE.to_bytes()) | changes).encode()


def test_what_was_encoded_reads_back() -> None:
    out = encode(MESSAGE, "t", traceparent=b"00-ab-cd-01")
    read = decode(Record(out.topic, 0, 0, 0, out.key, out.value, out.headers), Outcome, lane="")
    assert read == MESSAGE
    assert dict(out.headers)["traceparent"] == b"00-ab-cd-01"


def test_without_a_trace_there_is_no_trace_header() -> None:
    assert "traceparent" not in dict(encode(MESSAGE, "t", traceparent=None).headers)


@pytest.mark.parametrize(
    ("broken", "field", "complaint"),
    [
        (record(value=None), None, "tombstone"),
        (record(value=b"{"), None, "json"),
        (record(key=None), "key", "key is missing"),
        (record(key=b"other"), "key", "not the correlation id"),
        (record(value=changed(surprise=1)), "surprise", "surprise: extra inputs"),
        (record(value=changed(message_type="Plan")), "message_type", "carries Outcome, not Plan"),
        (record(value=changed(lane="canary.")), "lane", "belongs to lane 'canary.'"),
        (record(value=changed(payload={})), "payload.request_id", "payload.request_id"),
    ],
)
def test_a_record_that_breaks_the_contract_is_refused(
    broken: Record, field: str | None, complaint: str
) -> None:
    with pytest.raises(InvalidMessageError, match=f"(?i){complaint}") as caught:
        decode(broken, Outcome, lane="")
    assert caught.value.field == field


def test_another_payload_under_the_right_type_is_refused() -> None:
    other = message_with(ExecutionRequest(text="x"))
    with pytest.raises(InvalidMessageError):
        decode(record(key=other.key(), value=other.to_bytes()), Intent, lane="")


def test_the_reason_does_not_repeat_long_values() -> None:
    with pytest.raises(InvalidMessageError) as caught:
        decode(
            record(value=changed(**{f"field{i}": "x" * 1000 for i in range(50)})), Outcome, lane=""
        )
    assert len(caught.value.reason) < 1000
    assert "and 45 more" in caught.value.reason

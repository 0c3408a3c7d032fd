from datetime import UTC, datetime, timedelta

import pytest

from agents.delayer import forward
from agents.runtime.delays import delayed, delivery_attempt, due_at, restored
from agents.runtime.errors import InvalidMessageError
from agents.runtime.records import Headers, Record
from agents.runtime.testing import EPOCH, ManualClock, fake_services, message_with
from schemas import ExecutionRequest

MESSAGE = message_with(ExecutionRequest(text="status of checkout in staging"))


def record(
    topic: str = "millstream.requests.v1", headers: Headers = (), at: datetime = EPOCH
) -> Record:
    return Record(topic, 1, 9, int(at.timestamp() * 1000), b"key", b"value", headers)


def waiting(headers: Headers = (), *, topic: str = "millstream.retry.5s.v1") -> Record:
    origin = (("millstream-retry-topic", b"millstream.requests.v1"),)
    return record(topic, headers=(*headers, *origin))


def test_ids_that_came_from_the_records_place_are_pinned() -> None:
    later = delayed(record(headers=(("who", b"me"),)), MESSAGE, lane="")
    assert later is not None
    headers = dict(later.headers)
    assert headers["message-id"] == str(MESSAGE.message_id).encode()
    assert headers["correlation-id"] == str(MESSAGE.correlation_id).encode()
    assert headers["who"] == b"me"


def test_headers_that_were_there_stay_as_they_are() -> None:
    own = (("message-id", b"mine"), ("correlation-id", b"abc-123"))
    later = delayed(record(headers=own), MESSAGE, lane="")
    assert later is not None
    back = restored(Record(later.topic, 0, 0, 0, later.key, later.value, later.headers), lane="")
    assert back.headers == (*own, ("delivery-attempt", b"2"))


def test_after_the_last_delay_there_is_none() -> None:
    assert delayed(record(headers=(("delivery-attempt", b"4"),)), MESSAGE, lane="") is None


@pytest.mark.parametrize("header", [b"", b"x", b"-1", b"0", b"9" * 50])
def test_a_garbled_count_is_a_first_delivery(header: bytes) -> None:
    assert delivery_attempt(record(headers=(("delivery-attempt", header),))) == 1


def test_a_lane_keeps_its_records_to_itself() -> None:
    later = delayed(record("canary.millstream.requests.v1"), MESSAGE, lane="canary.")
    assert later is not None
    assert later.topic == "canary.millstream.retry.5s.v1"


@pytest.mark.parametrize(
    "origin",
    [None, b"", b"\xff", b"millstream.retry.5s.v1", b"other.topic", b"canary.millstream.plans.v1"],
)
def test_a_record_that_could_not_have_come_from_there_is_refused(origin: bytes | None) -> None:
    headers: Headers = () if origin is None else (("millstream-retry-topic", origin),)
    with pytest.raises(InvalidMessageError):
        restored(record("millstream.retry.5s.v1", headers=headers), lane="")


async def test_it_waits_for_what_is_left_and_hands_the_record_back() -> None:
    clock = ManualClock(EPOCH + timedelta(seconds=2))
    outgoing = await forward(waiting(), fake_services(clock=clock))
    assert clock.now() == EPOCH + timedelta(seconds=5)
    assert (outgoing.topic, outgoing.key, outgoing.value) == (
        "millstream.requests.v1",
        b"key",
        b"value",
    )


async def test_what_is_overdue_goes_at_once() -> None:
    clock = ManualClock(EPOCH + timedelta(hours=1))
    await forward(waiting(topic="millstream.retry.5m.v1"), fake_services(clock=clock))
    assert clock.now() == EPOCH + timedelta(hours=1)


def test_due_is_the_brokers_time_and_the_delay() -> None:
    assert due_at(waiting(topic="millstream.retry.30s.v1"), lane="") == EPOCH + timedelta(
        seconds=30
    )
    assert EPOCH.tzinfo is UTC

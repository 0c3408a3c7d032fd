from datetime import UTC, datetime, timedelta

import pytest

from agents.delayer import forward
from agents.runtime.delays import delayed, delivery_attempt, due_at, restored
from agents.runtime.errors import InvalidMessageError
from agents.runtime.intake import read_request
from agents.runtime.records import Headers, Record
from agents.runtime.testing import EPOCH, ManualClock, fake_services, message_with, test_id
from schemas import ExecutionRequest, Intent

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
    assert headers["received-at"] == EPOCH.isoformat().encode()
    assert headers["who"] == b"me"


@pytest.mark.parametrize("pause", [timedelta(seconds=5), timedelta(days=40)])
def test_a_request_that_was_delayed_is_the_same_message_to_the_microsecond(
    pause: timedelta,
) -> None:
    first = Record("millstream.requests.v1", 1, 9, 1_767_600_000_123, None, b'{"text": "x"}')
    message = read_request(first, lane="")
    later = delayed(first, message, lane="")
    assert later is not None
    back = restored(Record(later.topic, 0, 0, 0, later.key, later.value, later.headers), lane="")
    when = int((first.time + pause).timestamp() * 1000)
    again = Record(back.topic, 4, 70, when, back.key, back.value, back.headers)
    assert read_request(again, lane="") == message


def test_an_envelope_says_itself_when_its_execution_began() -> None:
    intent = Intent(request_id=test_id("r"), title="restart", requester="ann", parser="rules")
    later = delayed(record("millstream.intents.v1"), message_with(intent), lane="")
    assert later is not None
    assert "received-at" not in dict(later.headers)


def test_headers_that_were_there_stay_as_they_are() -> None:
    own = (
        ("message-id", b"mine"),
        ("correlation-id", b"abc-123"),
        ("received-at", b"2026-01-05T08:00:00+00:00"),
    )
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


@pytest.mark.parametrize(
    ("origin", "reason"),
    [
        ("millstream.budgets.v1", "does not declare"),
        ("millstream.verdicts.v1", "no role lets records wait"),  # the router keeps their order
        ("millstream.results.v1", "no role lets records wait"),
        ("millstream.reports.v1", "no role lets records wait"),  # only the sink reads it
        ("millstream.dead-letters.v1", "no role lets records wait"),
    ],
)
async def test_a_record_from_where_none_is_delayed_is_refused(origin: str, reason: str) -> None:
    clock = ManualClock()
    stray = record("millstream.retry.5s.v1", (("millstream-retry-topic", origin.encode()),))
    with pytest.raises(InvalidMessageError, match=reason) as raised:
        await forward(stray, fake_services(clock=clock))
    assert raised.value.field == "millstream-retry-topic"
    assert clock.now() == EPOCH, "nobody waits for it"


@pytest.mark.parametrize("origin", ["requests", "intents", "plans", "steps.http", "states"])
async def test_a_record_goes_back_to_whoever_lets_it_wait(origin: str) -> None:
    topic = f"millstream.{origin}.v1"
    delayed = record("millstream.retry.5s.v1", (("millstream-retry-topic", topic.encode()),))
    assert (await forward(delayed, fake_services())).topic == topic


async def test_what_is_overdue_goes_at_once() -> None:
    clock = ManualClock(EPOCH + timedelta(hours=1))
    await forward(waiting(topic="millstream.retry.5m.v1"), fake_services(clock=clock))
    assert clock.now() == EPOCH + timedelta(hours=1)


def test_due_is_the_brokers_time_and_the_delay() -> None:
    assert due_at(waiting(topic="millstream.retry.30s.v1"), lane="") == EPOCH + timedelta(
        seconds=30
    )
    assert EPOCH.tzinfo is UTC

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

import pytest

from agents.runtime.codec import encode
from agents.runtime.context import Context
from agents.runtime.dead_letters import DeadLetterWriter, TooManyDeadLettersError
from agents.runtime.deadlines import Deadlines
from agents.runtime.delays import restored
from agents.runtime.delivery import Delivery
from agents.runtime.errors import (
    DatabaseUnavailableError,
    PermanentError,
    RefusedMessageError,
    TransientError,
)
from agents.runtime.kafka import MessageTooLargeError, ProducerFatalError
from agents.runtime.outage import Outage, Outages
from agents.runtime.ports import OutboxRow
from agents.runtime.records import Outgoing, Record
from agents.runtime.resilience import Backoff
from agents.runtime.roles import role, spec_of
from agents.runtime.settings import ROOT
from agents.runtime.testing import ManualClock, fake_services, message_with, test_id
from agents.runtime.topology import load_topology
from schemas import AgentMessage, Intent, Outcome, Plan, Step, StepResult, envelope_type
from schemas.envelope import HEADER_TRACEPARENT

TOPOLOGY = load_topology(ROOT / "topics.yaml")
INTENT = Intent(request_id=test_id("request"), title="restart", requester="ann", parser="rules")
MESSAGE = message_with(INTENT)


class Sent:
    """A publisher that keeps what it is given."""

    def __init__(self) -> None:
        self.messages: list[Outgoing] = []
        self.failures: list[Exception] = []

    async def send_all(self, messages: Iterable[Outgoing]) -> None:
        batch = list(messages)
        if self.failures:
            raise self.failures.pop(0)
        self.messages += batch

    def topics(self) -> list[str]:
        return [message.topic for message in self.messages]

    def only(self, payload: type[Any]) -> AgentMessage[Any]:
        (message,) = self.messages
        assert message.value is not None
        return envelope_type(payload).model_validate_json(message.value)


def record(value: bytes | None = None, *, topic: str = "millstream.intents.v1") -> Record:
    out = encode(MESSAGE, topic, traceparent=b"00-trace-span-01")
    return Record(topic, 2, 5, 0, out.key, out.value if value is None else value, out.headers)


def outcome(reason: str = "from the role") -> Outcome:
    return Outcome(request_id=INTENT.request_id, status="failed", code="bug", reason=reason)


class Planner:
    """A role that fails as it is told, and then answers."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0
        self.sent = Sent()
        self.clock = ManualClock()

        @role("planner")
        async def plan(intent: Intent, ctx: Context) -> Plan | Outcome:
            self.calls += 1
            if self.errors:
                raise self.errors.pop(0)
            return outcome()

        spec = spec_of(plan)
        self.deliver = Delivery(
            spec=spec,
            handler=spec.handler,
            services=fake_services(clock=self.clock),
            topology=TOPOLOGY,
            publisher=self.sent,
            backoff=Backoff(),
            dead_letters=DeadLetterWriter(
                role="planner",
                lane="",
                topic_ids={"millstream.intents.v1": "topic-id"},
                publisher=self.sent,
                limit=3,
            ),
            outage=Outage("planner", Outages(ManualClock())),
            deadlines=Deadlines(30.0),
        )


async def test_what_a_role_returns_is_published_under_derived_ids() -> None:
    planner = Planner()
    await planner.deliver(record())
    first = planner.sent.only(Outcome)
    assert planner.sent.topics() == ["millstream.outcomes.v1"]
    assert (first.causation_id, first.from_agent) == (MESSAGE.message_id, "planner")
    assert dict(planner.sent.messages[0].headers)[HEADER_TRACEPARENT] == b"00-trace-span-01"

    again = Planner()
    await again.deliver(record())
    assert again.sent.only(Outcome).message_id == first.message_id


@pytest.mark.parametrize("value", [b"{", b"\xff", b"[]", b"{}"])
async def test_what_cannot_be_read_is_a_dead_letter_with_its_bytes(value: bytes) -> None:
    planner = Planner()
    await planner.deliver(record(value))
    (letter,) = planner.sent.messages
    headers = dict(letter.headers)
    assert letter.topic == "millstream.dead-letters.v1"
    assert (letter.key, letter.value) == (MESSAGE.key(), value)
    assert headers["__connect.errors.topic"] == b"millstream.intents.v1"
    assert headers["__connect.errors.partition"] == b"2"
    assert headers["__connect.errors.offset"] == b"5"
    assert headers["millstream-error-code"] == b"invalid_message"
    assert headers["millstream-role"] == b"planner"
    assert headers["millstream-topic-id"] == b"topic-id"
    assert headers["message-id"] == str(MESSAGE.message_id).encode()
    assert planner.calls == 0


async def test_a_permanent_error_ends_the_execution_with_its_reason() -> None:
    planner = Planner(PermanentError("there is a cycle", code="invalid_plan"))
    await planner.deliver(record())
    ended = planner.sent.only(Outcome).payload
    assert (ended.status, ended.code, ended.reason) == (
        "failed",
        "invalid_plan",
        "there is a cycle",
    )
    assert ended.request_id == INTENT.request_id


async def test_a_refused_message_is_a_dead_letter_and_ends_nothing() -> None:
    planner = Planner(RefusedMessageError("in use", code="correlation_id_in_use"))
    await planner.deliver(record())
    assert planner.sent.topics() == ["millstream.dead-letters.v1"]


async def test_a_bug_is_a_dead_letter_and_ends_the_execution_without_its_details() -> None:
    planner = Planner(KeyError("secret detail"))
    await planner.deliver(record())
    assert planner.sent.topics() == ["millstream.outcomes.v1", "millstream.dead-letters.v1"]
    assert b"secret detail" not in (planner.sent.messages[0].value or b"")


async def test_a_transient_error_is_tried_again_after_one_and_two_seconds() -> None:
    planner = Planner(TransientError("busy"), ConnectionResetError())
    start = planner.clock.now()
    await planner.deliver(record())
    assert planner.calls == 3
    assert planner.sent.topics() == ["millstream.outcomes.v1"]
    assert 3.0 <= (planner.clock.now() - start).total_seconds() <= 3.75


def header(message: Outgoing, name: str) -> bytes | None:
    return dict(message.headers).get(name)


async def test_a_transient_error_that_stays_waits_on_ever_longer_delay_topics() -> None:
    current = record()
    for attempt, topic in enumerate(("5s", "30s", "5m"), start=2):
        planner = Planner(*[TransientError("busy") for _ in range(3)])
        await planner.deliver(current)
        assert planner.calls == 3
        (later,) = planner.sent.messages
        assert later.topic == f"millstream.retry.{topic}.v1"
        assert (later.key, later.value) == (current.key, current.value)
        assert header(later, "delivery-attempt") == str(attempt).encode()
        assert header(later, "millstream-retry-topic") == b"millstream.intents.v1"
        back = restored(
            Record(later.topic, 0, 0, 0, later.key, later.value, later.headers), lane=""
        )
        assert back.topic == "millstream.intents.v1"
        current = Record(back.topic, 2, 6, 0, back.key, back.value, back.headers)

    planner = Planner(*[TransientError("busy") for _ in range(3)])
    await planner.deliver(current)
    assert planner.sent.topics() == ["millstream.outcomes.v1", "millstream.dead-letters.v1"]
    assert header(planner.sent.messages[1], "millstream-attempt") == b"4"


async def test_who_asks_for_a_long_wait_is_not_waited_for_in_place() -> None:
    planner = Planner(TransientError("busy", retry_after=3600.0))
    await planner.deliver(record())
    assert planner.calls == 1
    assert planner.sent.topics() == ["millstream.retry.5s.v1"]


async def test_a_role_that_fails_on_everything_stops_its_worker() -> None:
    planner = Planner(*[KeyError(number) for number in range(4)])
    for _ in range(3):
        await planner.deliver(record())
    with pytest.raises(TooManyDeadLettersError, match="failed on 4 records in a row"):
        await planner.deliver(record())
    assert planner.sent.topics().count("millstream.dead-letters.v1") == 4


async def test_what_others_send_wrong_never_stops_a_worker() -> None:
    planner = Planner()
    for _ in range(10):
        await planner.deliver(record(b"{"))
    assert planner.sent.topics() == ["millstream.dead-letters.v1"] * 10


async def test_a_success_in_between_shows_that_not_everything_fails() -> None:
    planner = Planner(KeyError(1), KeyError(2), KeyError(3))
    for _ in range(3):
        await planner.deliver(record())
    await planner.deliver(record())
    planner.errors = [KeyError(5)]
    await planner.deliver(record())
    assert planner.sent.topics().count("millstream.dead-letters.v1") == 4


async def test_infrastructure_that_is_away_is_waited_for_and_not_counted() -> None:
    planner = Planner(*[DatabaseUnavailableError("away") for _ in range(10)])
    await planner.deliver(record())
    assert planner.calls == 11
    assert planner.sent.topics() == ["millstream.outcomes.v1"]


async def test_a_producer_that_is_broken_for_good_ends_the_process() -> None:
    planner = Planner()
    planner.sent.failures.append(ProducerFatalError("fenced"))
    with pytest.raises(ProducerFatalError):
        await planner.deliver(record())


async def test_a_message_that_is_too_large_ends_the_execution() -> None:
    planner = Planner()
    planner.sent.failures.append(MessageTooLargeError("5 MB"))
    await planner.deliver(record())
    assert planner.sent.only(Outcome).payload.code == "message_too_large"


async def test_a_message_of_another_lane_is_a_dead_letter() -> None:
    planner = Planner()
    stray = encode(message_with(INTENT, lane="canary."), "x", traceparent=None)
    await planner.deliver(Record("millstream.intents.v1", 0, 0, 0, stray.key, stray.value))
    assert planner.sent.topics() == ["millstream.dead-letters.v1"]


async def test_outbox_rows_are_published_as_they_are_and_struck_off_afterwards() -> None:
    step = Step(
        request_id=test_id("request"),
        plan_id=test_id("plan"),
        plan_hash="0" * 64,
        run_no=1,
        step_id="check",
        action="service.status",
        executor="http",
        effect="read",
        parameters={},
        attempt=1,
        timeout=1.0,
    )
    held = message_with(step, name="held")
    struck: list[int] = []

    @role("router")
    async def route(result: StepResult, ctx: Context) -> Sequence[OutboxRow[Step]]:
        raise AssertionError

    class Ledger:
        async def mark_sent(self, row_ids: Sequence[int]) -> None:
            struck.extend(row_ids)

    spec = spec_of(route)
    ledger: Any = Ledger()
    sent = Sent()
    delivery = Delivery(
        spec=spec,
        handler=spec.handler,
        services=fake_services(ledger=ledger),
        topology=TOPOLOGY,
        publisher=sent,
        backoff=Backoff(),
        dead_letters=DeadLetterWriter("router", "", {}, sent, limit=3),
        outage=Outage("router", Outages(ManualClock())),
        deadlines=Deadlines(30.0),
    )
    await delivery.publish([OutboxRow(7, held, held.to_bytes())], None, None)
    assert sent.topics() == ["millstream.steps.http.v1"]
    assert sent.only(Step) == held
    assert struck == [7]
    assert isinstance(held.message_id, UUID)

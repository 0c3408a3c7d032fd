"""The checker by itself: silent about a clean record, and clear about each thing that is wrong."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from faults.checker import CHECKS, _key, check
from faults.evidence import Evidence, Move
from support.sample_history import history_of, topic_of, under_the_id_of

from agents.runtime.records import Record
from agents.sink.fold import fold
from agents.sink.rows import execution_row, step_row
from agents.sink.values import jsonb
from schemas import AgentMessage, ExecutionRequest, ExecutionState, Failure, Step, StepResult

LANE = "t."
TOPIC_ID = "id"
DAY = "2026-01-05"
COST = Decimal("0.002")
POISON = Record(f"{LANE}millstream.plans.v1", 1, 0, 0, b"\xff", b"\x00 no JSON")


def messages_of_two() -> list[AgentMessage[Any]]:
    """A run with an effect and one that was denied."""
    messages = [*history_of("a", lane=LANE), *history_of("b", "denied", lane=LANE)]
    return [
        m.model_copy(update={"payload": m.payload.model_copy(update={"effect": "effect"})})
        if isinstance(m.payload, Step)
        else m
        for m in messages
    ]


def records_of(messages: Sequence[AgentMessage[Any]]) -> list[Record]:
    offsets: Counter[str] = Counter()
    records = []
    for message in messages:
        topic = topic_of(message)
        milliseconds = round(message.received_at.timestamp() * 1000)
        value = message.to_bytes()
        if isinstance(message.payload, ExecutionRequest):
            ids = {name: str(getattr(message, name)) for name in ("message_id", "correlation_id")}
            given = message.payload.model_dump(mode="json", exclude={"unknown_fields"})
            value = json.dumps({**given, **ids}).encode()
        records.append(Record(topic, 0, offsets[topic], milliseconds, message.key(), value))
        offsets[topic] += 1
    return records


def clean() -> Evidence:
    """What a pipeline without fault leaves behind."""
    messages = messages_of_two()
    records = [*records_of(messages), POISON]
    ends: Counter[tuple[str, int]] = Counter((record.topic, record.partition) for record in records)
    model = fold(messages)
    topics = {place[0] for place in ends}
    steps = [message for message in messages if isinstance(message.payload, Step)]
    return Evidence(
        lane=LANE,
        records=records,
        ends=ends,
        topic_ids=dict.fromkeys(topics, TOPIC_ID),
        lags={"sink": 0},
        sink_offsets=[
            {"topic": topic, "partition": number, "next_offset": end, "topic_id": TOPIC_ID}
            for (topic, number), end in ends.items()
        ],
        events=[
            {
                "received_on": m.received_at.date(),
                "correlation_id": m.correlation_id,
                "message_id": m.message_id,
                "message_type": m.message_type,
                "payload": json.loads(jsonb(m.payload)),
            }
            for m in messages
            if not isinstance(m.payload, ExecutionState)
        ],
        executions=[
            execution_row(LANE, each)._asdict() | {"status_topic_id": TOPIC_ID}
            for each in model.executions.values()
        ],
        steps=[step_row(LANE, each)._asdict() for each in model.steps.values()],
        dead_letters=[
            {
                "origin_topic": POISON.topic,
                "origin_partition": POISON.partition,
                "origin_offset": POISON.offset,
                "role": "safety_checker",
                "code": "invalid_message",
                "reason": "",
                "key": POISON.key,
                "value": POISON.value,
            }
        ],
        unreadable=[
            {
                "topic": POISON.topic,
                "partition": POISON.partition,
                "offset": POISON.offset,
                "key": POISON.key,
                "value": POISON.value,
            }
        ],
        effects=[
            {
                "correlation_id": m.correlation_id,
                "run_no": 1,
                "step_id": m.payload.step_id,
                "status": "done",
            }
            for m in steps
        ],
        reservations=[
            {
                "correlation_id": execution,
                "periods": [DAY],
                "amount": COST,
                "spent": COST,
                "is_open": False,
            }
            for execution in model.executions
        ],
        spending=[{"period": DAY, "spent": COST * len(model.executions), "reserved": Decimal(0)}],
        calls={_key(message): 1 for message in steps},
        submitted=frozenset(model.executions),
    )


def without_records(evidence: Evidence, word: str) -> Evidence:
    """As if what ``word`` names had never been produced; history agrees."""
    kept = [m for m in messages_of_two() if word not in m.message_type]
    return replace(evidence, records=[*records_of(kept), POISON])


def with_another_id(evidence: Evidence) -> Evidence:
    messages = messages_of_two()
    odd = messages[1].model_copy(update={"message_id": messages[0].message_id})
    odd = odd.model_copy(update={"message_id": type(odd.message_id)(int=1)})
    return replace(evidence, records=[*records_of([*messages, odd]), POISON])


def states_swapped(evidence: Evidence) -> Evidence:
    messages = messages_of_two()
    first, second = [i for i, m in enumerate(messages) if m.message_type == "ExecutionState"][:2]
    messages[first], messages[second] = messages[second], messages[first]
    return replace(evidence, records=[*records_of(messages), POISON])


def changed(rows: Sequence[Any], **fields: Any) -> list[Any]:
    return [{**rows[0], **fields}, *rows[1:]]


TAMPERINGS: dict[str, tuple[str, Callable[[Evidence], Evidence]]] = {
    "an execution without an end": (
        "one_terminal_state",
        lambda e: without_records(e, "State"),
    ),
    "an end without a report": ("one_terminal_state", lambda e: without_records(e, "Report")),
    "a request that is not on the topic": (
        "one_terminal_state",
        lambda e: without_records(e, "Request"),
    ),
    "a run that is open": (
        "one_terminal_state",
        lambda e: replace(e, runs=[{"correlation_id": 1, "status": "running", "is_open": True}]),
    ),
    "the plan of a request that was refused": (
        "history_shows_what_ran",
        lambda e: replace(e, executions=changed(e.executions, plan_id=TOPIC_ID)),
    ),
    "an event that history lacks": (
        "events_equal_topics",
        lambda e: replace(e, events=e.events[1:]),
    ),
    "an event that is on no topic": (
        "events_equal_topics",
        lambda e: without_records(e, "Verdict"),
    ),
    "an event with another payload": (
        "events_equal_topics",
        lambda e: replace(e, events=changed(e.events, payload={})),
    ),
    "a message without its cause": ("chain_is_complete", lambda e: without_records(e, "Intent")),
    "a message with a random id": ("chain_is_complete", with_another_id),
    "a later state before an earlier one": ("states_are_in_order", states_swapped),
    "a wrong status": (
        "projections_equal_fold",
        lambda e: replace(e, executions=changed(e.executions, status="failed")),
    ),
    "a step without a row": ("projections_equal_fold", lambda e: replace(e, steps=e.steps[1:])),
    "an effect that happened twice": (
        "effects_happen_once",
        lambda e: replace(e, calls=dict.fromkeys(e.calls, 2)),
    ),
    "an effect that is said to have happened": (
        "effects_happen_once",
        lambda e: replace(e, calls={}),
    ),
    "a claim that nobody settled": (
        "effects_happen_once",
        lambda e: replace(e, effects=changed(e.effects, status="started")),
    ),
    "a position before the end": (
        "sink_accounts_for_every_record",
        lambda e: replace(e, sink_offsets=changed(e.sink_offsets, next_offset=0)),
    ),
    "a position that went back": (
        "sink_accounts_for_every_record",
        lambda e: replace(e, moves=[Move("topic", 0, TOPIC_ID, 5, 3)]),
    ),
    "poison without a dead letter": (
        "poison_is_kept_once",
        lambda e: replace(e, dead_letters=[]),
    ),
    "poison with two dead letters": (
        "poison_is_kept_once",
        lambda e: replace(e, dead_letters=[*e.dead_letters, *e.dead_letters]),
    ),
    "a dead letter with other bytes": (
        "poison_is_kept_once",
        lambda e: replace(e, dead_letters=changed(e.dead_letters, value=b"other")),
    ),
    "a dead letter of a sound record": (
        "poison_is_kept_once",
        lambda e: replace(
            e,
            dead_letters=[
                *e.dead_letters,
                {
                    **e.dead_letters[0],
                    "origin_topic": e.records[0].topic,
                    "origin_partition": 0,
                    "key": e.records[0].key,
                    "value": e.records[0].value,
                    "code": "bug",
                },
            ],
        ),
    ),
    "money that nobody has released": (
        "money_is_accounted_for",
        lambda e: replace(e, reservations=changed(e.reservations, is_open=True)),
    ),
    "money that is reserved for nobody": (
        "money_is_accounted_for",
        lambda e: replace(e, spending=changed(e.spending, reserved=COST)),
    ),
    "money that was spent twice": (
        "money_is_accounted_for",
        lambda e: replace(e, reservations=changed(e.reservations, spent=2 * COST)),
    ),
    "money that was spent on nothing": (
        "money_is_accounted_for",
        lambda e: replace(e, spending=changed(e.spending, spent=5 * COST)),
    ),
    "a message in the outbox": ("nothing_is_left", lambda e: replace(e, outbox=1)),
    "a group that lags": ("nothing_is_left", lambda e: replace(e, lags={"sink": 1})),
}


def test_a_clean_record_gives_no_complaint() -> None:
    assert check(clean()) == {}


@pytest.mark.parametrize("tampering", TAMPERINGS)
def test_the_checker_sees(tampering: str) -> None:
    name, tamper = TAMPERINGS[tampering]
    assert name in check(tamper(clean()))


def test_a_second_payload_under_the_same_id_is_seen() -> None:
    messages = messages_of_two()
    other = messages[1].payload.model_copy(update={"title": "something else"})
    repeated = messages[1].model_copy(update={"payload": other})
    evidence = replace(clean(), records=[*records_of([*messages, repeated]), POISON])
    assert "repetitions_are_identical" in check(evidence)


def test_a_second_request_that_was_neither_run_nor_refused_is_seen() -> None:
    messages = messages_of_two()
    other = messages[0].model_copy(update={"message_id": type(messages[0].message_id)(int=2)})
    evidence = replace(clean(), records=[*records_of([*messages, other]), POISON])
    assert "used_ids_are_refused" in check(evidence)


def test_a_step_that_waited_for_another_attempt_when_all_was_stopped_had_no_effect() -> None:
    messages = [
        m.model_copy(
            update={
                "payload": m.payload.model_copy(
                    update={
                        "steps": tuple(
                            s.model_copy(update={"status": "skipped"}) for s in m.payload.steps
                        )
                    }
                )
            }
        )
        if isinstance(m.payload, ExecutionState)
        else m
        for m in messages_of_two()
    ]
    evidence = clean()
    stopped = replace(
        evidence,
        records=[*records_of(messages), POISON],
        effects=[{**each, "status": "failed"} for each in evidence.effects],
    )
    assert "effects_happen_once" not in check(replace(stopped, calls={}))
    assert "effects_happen_once" in check(stopped)


def with_a_late_owner(first: str, second: str) -> Evidence:
    """The effect's result is there twice, and the execution stands by the first."""
    messages = []
    for message in messages_of_two():
        payload = message.payload
        if isinstance(payload, StepResult):
            failure = Failure(code="effect_unknown", reason="in doubt")
            for status in (first, second):
                update = {"status": status, "failure": None if status == "success" else failure}
                repeated = payload.model_copy(update=update)
                messages.append(message.model_copy(update={"payload": repeated}))
            continue
        if isinstance(payload, ExecutionState):
            steps = tuple(
                step.model_copy(update={"status": first}) if step.status == "success" else step
                for step in payload.steps
            )
            message = message.model_copy(  # noqa: PLW2901  # the same message, told otherwise
                update={"payload": payload.model_copy(update={"steps": steps})}
            )
        messages.append(message)
    return replace(clean(), records=[*records_of(messages), POISON])


def test_a_late_owner_may_say_what_became_of_an_effect_in_doubt() -> None:
    complaints = check(with_a_late_owner("unknown", "success"))
    assert not complaints.keys() & {"repetitions_are_identical", "effects_happen_once"}


def test_nobody_else_may_say_something_else_the_second_time() -> None:
    complaints = check(with_a_late_owner("failed", "success"))
    assert complaints.keys() >= {"repetitions_are_identical", "effects_happen_once"}


def refused(messages: list[AgentMessage[Any]], message: AgentMessage[Any]) -> Evidence:
    """As if the router had said of ``message`` that its correlation id is taken."""
    records = [*records_of(messages), POISON]
    origin = next(r for r in records if r.value == message.to_bytes())
    letter = {
        "origin_topic": origin.topic,
        "origin_partition": origin.partition,
        "origin_offset": origin.offset,
        "role": "router",
        "code": "correlation_id_in_use",
        "reason": "",
        "key": origin.key,
        "value": origin.value,
    }
    evidence = clean()
    return replace(evidence, records=records, dead_letters=[*evidence.dead_letters, letter])


def test_the_verdict_on_a_second_request_may_be_refused() -> None:
    messages = messages_of_two()
    second = under_the_id_of(messages, history_of("second", lane=LANE)[:4])
    assert "poison_is_kept_once" not in check(refused([*messages, *second], second[3]))


def test_the_verdict_on_the_request_that_runs_may_not_be_refused() -> None:
    messages = messages_of_two()
    second = under_the_id_of(messages, history_of("second", lane=LANE)[:4])
    assert "poison_is_kept_once" in check(refused([*messages, *second], messages[3]))


def test_a_verdict_may_not_be_refused_where_one_request_was_sent() -> None:
    messages = messages_of_two()
    unasked = under_the_id_of(messages, history_of("second", lane=LANE)[1:4])
    assert "poison_is_kept_once" in check(refused([*messages, *unasked], unasked[2]))


def test_every_check_is_tested() -> None:
    tested = {name for name, _ in TAMPERINGS.values()}
    assert CHECKS.keys() - tested == {"repetitions_are_identical", "used_ids_are_refused"}

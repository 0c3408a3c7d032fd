"""History on a real Postgres: what is written is what the fold says, and queries use indexes."""

import itertools
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, LiteralString

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.rows import dict_row
from support.sample_history import COURSES, START, Course, history_of, topic_of, under_the_id_of

from agents.runtime.dead_letters import dead_letter
from agents.runtime.errors import InvalidMessageError
from agents.runtime.records import Record
from agents.sink import queries
from agents.sink.batch import Sorter
from agents.sink.fold import fold
from agents.sink.rows import execution_row, step_row
from agents.sink.store import FencedError, Store
from ops import migrate
from schemas import AgentMessage, ExecutionState, ExecutionStatus

pytestmark = pytest.mark.integration

LANE = "test."
DEAD_LETTERS = f"{LANE}millstream.dead-letters.v1"
TOPIC_IDS = {f"{LANE}millstream.requests.v1": "old", f"{LANE}millstream.intents.v1": "old"}


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    with Store(database_url, lane=LANE) as store:
        yield store


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


def write(store: Store, messages: Sequence[AgentMessage[Any]]) -> None:
    """Write messages as one batch, as if each topic had one partition."""
    records = [
        Record(topic_of(message), 0, offset, 0, message.key(), message.to_bytes())
        for offset, message in enumerate(messages)
    ]
    write_records(store, records, messages)


def write_records(
    store: Store, records: Sequence[Record], messages: Sequence[AgentMessage[Any]] = ()
) -> None:
    by_offset = dict(enumerate(messages))
    sorter = Sorter(
        lane=LANE,
        decode=lambda record: by_offset[record.offset],
        dead_letter_topic=DEAD_LETTERS,
    )
    batch = sorter.sort(records, TOPIC_IDS)
    store.write(batch, store.claim(batch.positions, TOPIC_IDS))


def sample(name: str, course: Course = "success", **options: Any) -> list[AgentMessage[Any]]:
    return history_of(name, course, lane=LANE, **options)


HISTORIES = [sample(course, course) for course in COURSES]
HISTORIES.append(sample("success", received_at=START + timedelta(seconds=4))[:4])
# What a second request under the same correlation id leaves behind before it is refused.
HISTORIES += [
    under_the_id_of(each, sample(f"refused {number}")[:4])
    for number, each in enumerate(HISTORIES[: len(COURSES)])
]
EVENTS = list(itertools.chain.from_iterable(HISTORIES))


def rows_of(connection: psycopg.Connection[Any], query: LiteralString) -> list[Any]:
    with connection.cursor(row_factory=dict_row) as cursor:
        found = cursor.execute(query).fetchall()
    for row in found:
        for made_by_the_database in ("updated_at", "duration_seconds", "status_topic_id"):
            row.pop(made_by_the_database, None)
    return found


def expected_rows(connection: psycopg.Connection[Any], rows: Sequence[Any]) -> list[Any]:
    """``rows`` as Postgres returns them: JSON parsed, moments in its time zone."""
    json_columns = {"verdict_reasons", "parameters", "output", "failure"}
    expected = []
    for row in rows:
        fields = row._asdict()
        fields.pop("status_topic_id", None)
        for name in json_columns & fields.keys():
            found = connection.execute("SELECT %s::jsonb", (fields[name],)).fetchone()
            fields[name] = found[0] if found else None
        expected.append(fields)
    return expected


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_postgres_merges_any_order_repetition_and_batching_as_the_fold_does(
    store: Store, connection: psycopg.Connection[Any], data: st.DataObject
) -> None:
    connection.execute("TRUNCATE history.events, history.executions, history.steps")
    written = data.draw(st.lists(st.sampled_from(EVENTS), min_size=1, max_size=150))
    cuts = data.draw(st.sets(st.integers(0, len(written))))
    for begin, end in itertools.pairwise([0, *sorted(cuts - {0, len(written)}), len(written)]):
        write(store, written[begin:end])

    model = fold(written)
    executions = [execution_row(LANE, delta) for _, delta in sorted(model.executions.items())]
    steps = [step_row(LANE, delta) for _, delta in sorted(model.steps.items())]

    assert rows_of(
        connection, "SELECT * FROM history.executions ORDER BY correlation_id"
    ) == expected_rows(connection, executions)
    assert rows_of(
        connection, "SELECT * FROM history.steps ORDER BY correlation_id, run_no, step_id"
    ) == expected_rows(connection, steps)
    stored = connection.execute("SELECT received_on, message_id FROM history.events").fetchall()
    assert sorted(stored) == sorted(
        {
            (each.received_at.date(), each.message_id)
            for each in written
            if not isinstance(each.payload, ExecutionState)
        }
    )


def test_a_batch_under_an_older_claim_writes_nothing(
    store: Store, connection: psycopg.Connection[Any], database_url: str
) -> None:
    messages = sample("one")
    record = Record(topic_of(messages[0]), 0, 0, 0, None, messages[0].to_bytes())
    sorter = Sorter(lane=LANE, decode=lambda _: messages[0], dead_letter_topic=DEAD_LETTERS)
    batch = sorter.sort([record], TOPIC_IDS)
    old = store.claim(batch.positions, TOPIC_IDS)
    with Store(database_url, lane=LANE) as newcomer:
        new = newcomer.claim(batch.positions, TOPIC_IDS)
        with pytest.raises(FencedError):
            store.write(batch, old)
        assert connection.execute("SELECT count(*) FROM history.events").fetchone() == (0,)
        newcomer.write(batch, new)
    assert connection.execute("SELECT count(*) FROM history.events").fetchone() == (1,)
    assert connection.execute("SELECT next_offset, epoch FROM history.sink_offsets").fetchall() == [
        (1, 2)
    ]


def test_a_sink_that_stops_between_statements_does_not_hold_up_the_next_one(
    store: Store, database_url: str
) -> None:
    messages = sample("one")
    write(store, messages)
    # What a frozen process leaves behind: an open transaction with copied, unmerged rows.
    store._connection.execute("BEGIN")
    store._copy("events", [])
    with Store(database_url, lane=LANE, statement_timeout=2) as newcomer:
        write(newcomer, messages)


def test_only_executions_that_were_lost_with_the_old_topic_end_as_broker_reset(
    store: Store, connection: psycopg.Connection[Any]
) -> None:
    lost, judged = sample("lost")[:2], sample("judged")
    write(store, [*lost, *judged])
    requests = (topic_of(lost[0]), 0)
    claims = store.claim([requests], {requests[0]: "new"})
    assert claims[requests].position == 0
    intents = (topic_of(lost[1]), 0)
    store.claim([intents], {intents[0]: "new"})

    found = queries.execution(connection, lane=LANE, correlation_id=lost[0].correlation_id)
    assert found is not None
    assert (found.status, found.code, found.is_terminal) == ("failed", "broker_reset", True)
    known = queries.execution(connection, lane=LANE, correlation_id=judged[0].correlation_id)
    assert known is not None
    assert known.status == "success"


def test_the_same_topic_keeps_its_position(store: Store) -> None:
    messages = sample("one")
    write(store, messages)
    partition = (topic_of(messages[0]), 0)
    assert store.claim([partition], TOPIC_IDS)[partition].position == 1
    assert store.claim([partition], {partition[0]: None})[partition].position == 1


def test_a_request_sent_twice_over_midnight_is_one_execution_and_is_shown_once(
    store: Store, connection: psycopg.Connection[Any]
) -> None:
    early = sample("one")
    late = sample("one", received_at=START + timedelta(seconds=4))
    write(store, [late[0], *early])
    (execution,) = queries.list_executions(connection, lane=LANE)
    assert execution.received_at == START
    events = queries.events_of(connection, lane=LANE, correlation_id=early[0].correlation_id)
    assert [event.message_type for event in events].count("ExecutionRequest") == 1
    assert events[0].received_at == START


def test_events_come_after_their_causes_even_when_clocks_disagree(
    store: Store, connection: psycopg.Connection[Any]
) -> None:
    messages = sample("one", steps=3)
    skewed = [
        message.model_copy(update={"timestamp": START + timedelta(seconds=(i * 7) % 5)})
        for i, message in enumerate(messages)
    ]
    write(store, skewed)
    events = queries.events_of(connection, lane=LANE, correlation_id=messages[0].correlation_id)
    place = {event.message_id: index for index, event in enumerate(events)}
    assert len(events) == sum(
        not isinstance(message.payload, ExecutionState) for message in messages
    )
    assert all(
        place[event.causation_id] < place[event.message_id]
        for event in events
        if event.causation_id in place
    )


def test_executions_are_listed_newest_first_by_any_filter_and_page(
    store: Store, connection: psycopg.Connection[Any]
) -> None:
    for number in range(6):
        write(
            store,
            sample(
                f"e{number}",
                "denied" if number % 2 else "success",
                tenant=f"tenant-{number % 3}",
                received_at=START + timedelta(minutes=number),
            ),
        )

    def listed(**filters: Any) -> list[str | None]:
        return [each.title for each in queries.list_executions(connection, lane=LANE, **filters)]

    assert listed() == [f"restart e{number}" for number in (5, 4, 3, 2, 1, 0)]
    assert listed(status=ExecutionStatus.DENIED) == ["restart e5", "restart e3", "restart e1"]
    assert listed(tenant="tenant-0") == ["restart e3", "restart e0"]
    assert listed(action="service.status") == ["restart e4", "restart e2", "restart e0"]
    first = queries.list_executions(connection, lane=LANE, limit=2)
    assert listed(before=first[-1], limit=2) == ["restart e3", "restart e2"]
    steps = queries.steps_of(connection, lane=LANE, correlation_id=first[1].correlation_id)
    assert [step.step_id for step in steps] == ["step-0", "step-1"]
    assert steps[0].parameters is not None
    wanted = {"service": steps[0].parameters["service"]}
    assert "restart e4" in listed(parameters=wanted)
    assert listed(parameters={"service": "nobody"}) == []
    assert queries.list_executions(connection, lane="other.") == []


def test_a_dead_letter_is_kept_once_with_its_bytes_and_headers(
    store: Store, connection: psycopg.Connection[Any]
) -> None:
    origin = Record(
        f"{LANE}millstream.intents.v1", 3, 7, 0, b"\xff", b"\x00garbage", (("odd", b"\xfe"),)
    )
    outgoing = dead_letter(
        origin,
        InvalidMessageError("not JSON\x00", field="payload"),
        code="invalid_message",
        role="planner",
        attempt=2,
        lane=LANE,
        topic_id="abc",
    )
    records = [
        Record(
            DEAD_LETTERS, 0, offset, 1000 + offset, outgoing.key, outgoing.value, outgoing.headers
        )
        for offset in (5, 6)
    ]
    write_records(store, records[1:])
    write_records(store, records)
    (found,) = queries.dead_letters(connection, lane=LANE, code="invalid_message", role="planner")
    assert (found.key, found.value) == (b"\xff", b"\x00garbage")
    assert ["odd", {"base64": "/g=="}] in found.headers
    assert (found.origin_topic_id, found.origin_partition, found.origin_offset) == ("abc", 3, 7)
    assert (found.attempt, found.redrives, found.field) == (2, 0, "payload")
    assert found.reason == "not JSON\ufffd"
    assert found.dead_lettered_at == datetime.fromtimestamp(1.005, UTC)
    assert queries.dead_letters(connection, lane=LANE, role="router") == []


def test_a_dead_letter_that_does_not_say_whose_it_is_is_kept_as_it_came(
    store: Store, connection: psycopg.Connection[Any]
) -> None:
    write_records(store, [Record(DEAD_LETTERS, 0, 0, 0, None, b"what?")])
    (found,) = queries.unreadable(connection, lane=LANE)
    assert found.value == b"what?"
    assert "lacks its header" in found.reason


@pytest.mark.parametrize("text", ["a\x00b", "\\u0000 is a text", 'NaN and "Infinity"'])
def test_values_that_json_columns_refuse_are_stored_in_their_place(
    store: Store, connection: psycopg.Connection[Any], text: str
) -> None:
    messages = sample("one", steps=1)
    state = messages[-2]
    assert isinstance(state.payload, ExecutionState)
    step = state.payload.steps[0].model_copy(
        update={"output": {"text": text, "number": float("nan"), "\x00": 1}}
    )
    payload = state.payload.model_copy(update={"steps": (step,)})
    write(store, [state.model_copy(update={"payload": payload})])
    (found,) = queries.steps_of(connection, lane=LANE, correlation_id=state.correlation_id)
    assert found.output == {"text": text.replace("\x00", "\ufffd"), "number": "nan", "\ufffd": 1}


def test_events_of_a_day_have_a_partition_of_their_own(
    store: Store, connection: psycopg.Connection[Any]
) -> None:
    day = date(2026, 1, 5)
    assert store.add_event_partitions(day, 3) == 3
    assert store.add_event_partitions(day, 4) == 1
    write(store, sample("one"))
    stored = connection.execute("SELECT DISTINCT tableoid::regclass::text FROM history.events")
    assert stored.fetchall() == [("history.events_20260105",)]


def test_a_day_that_the_default_partition_has_stays_there(store: Store) -> None:
    write(store, sample("one"))
    assert store.add_event_partitions(date(2026, 1, 5), 2) == 1


def test_the_tables_agree_with_their_declaration_beside_daily_partitions(
    store: Store, database_url: str
) -> None:
    store.add_event_partitions(date(2026, 1, 5), 2)
    assert migrate.check(database_url) == []


def test_updated_at_moves_only_when_something_new_is_said(
    store: Store, connection: psycopg.Connection[Any]
) -> None:
    messages = sample("one")

    def updated_at() -> datetime:
        found = queries.execution(connection, lane=LANE, correlation_id=messages[0].correlation_id)
        assert found is not None
        return found.updated_at

    write(store, messages[:3])
    before = updated_at()
    write(store, messages[:3])
    assert updated_at() == before
    write(store, messages)
    assert updated_at() > before


def test_steps_go_with_their_execution(store: Store, connection: psycopg.Connection[Any]) -> None:
    write(store, sample("one"))
    connection.execute("DELETE FROM history.executions")
    assert connection.execute("SELECT count(*) FROM history.steps").fetchone() == (0,)

"""A lane's topics as the sink's tests use them: written by a plain client, read back, compared."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from threading import Event, Thread
from typing import Any, Final

import confluent_kafka
import psycopg
from support.sample_history import topic_of

from agents.runtime import dead_letters
from agents.runtime.errors import InvalidMessageError
from agents.runtime.kafka import KafkaConfig
from agents.runtime.kafka_admin import KafkaAdmin, NewTopicSpec
from agents.runtime.records import Record
from agents.runtime.settings import ROOT, Settings
from agents.runtime.topology import load_topology
from agents.sink import Sink, SinkOptions, assemble_sink
from agents.sink.assembly import decoder
from agents.sink.fold import ReadModel
from schemas import AgentMessage, ExecutionState
from schemas.registry import PAYLOADS

TOPOLOGY: Final = load_topology(ROOT / "topics.yaml")
SPECS: Final = TOPOLOGY.consumed_by("sink")


class Log:
    """The topics of one lane on one broker.

    Args:
        bootstrap_servers: The broker.
        lane: The lane.
        partitions: How many each topic gets.
    """

    def __init__(self, bootstrap_servers: str, lane: str, *, partitions: int = 2) -> None:
        self.bootstrap_servers = bootstrap_servers
        self.lane = lane
        self._partitions = partitions
        self.admin = KafkaAdmin(bootstrap_servers)
        self.topics = [spec.name_in(lane) for spec in SPECS]
        self.dead_letter_topic = lane + dead_letters.TOPIC
        self.decode = decoder(
            {
                spec.name_in(lane): PAYLOADS[spec.schema]
                for spec in SPECS
                if spec.schema in PAYLOADS
            },
            lane=lane,
        )
        self._producer = confluent_kafka.Producer({"bootstrap.servers": bootstrap_servers})
        self.ends: dict[tuple[str, int], int] = {}
        """The position after all that was written, by topic and partition."""

    def create(self) -> None:
        """Make the topics."""
        self.ends.clear()
        self.admin.create_topics([NewTopicSpec(name, self._partitions, 1) for name in self.topics])

    def produce(self, messages: Iterable[AgentMessage[Any]]) -> None:
        """Write messages to their topics, as the pipeline does."""
        for message in messages:
            self.produce_raw(topic_of(message), message.key(), message.to_bytes())
        self._producer.flush(30)

    def produce_raw(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: list[tuple[str, bytes | None]] | None = None,
    ) -> None:
        """Write one record; :meth:`flush` waits for it."""
        self._producer.produce(
            topic, value, key, headers=headers or [], on_delivery=self._delivered
        )
        self._producer.poll(0)

    def flush(self) -> None:
        """Wait until all is written."""
        assert self._producer.flush(30) == 0

    def _delivered(self, error: Any, message: confluent_kafka.Message) -> None:
        assert error is None, error
        place = (message.topic(), message.partition())
        self.ends[place] = max(self.ends.get(place, 0), message.offset() + 1)

    def read(self) -> list[Record]:
        """Every record of the lane, topic by topic."""
        consumer = confluent_kafka.Consumer(
            {"bootstrap.servers": self.bootstrap_servers, "group.id": f"{self.lane}reader"}
        )
        wanted = dict(self.ends)
        records: list[Record] = []
        consumer.assign([confluent_kafka.TopicPartition(*each, 0) for each in wanted])
        seen = dict.fromkeys(wanted, 0)
        while seen != wanted:
            for message in consumer.consume(1000, 1.0):
                assert message.error() is None, message.error()
                place = (message.topic(), message.partition())
                seen[place] = message.offset() + 1
                headers = tuple(message.headers() or ())
                records.append(
                    Record(
                        *place,
                        message.offset(),
                        message.timestamp()[1],
                        message.key(),
                        message.value(),
                        headers,
                    )
                )
        consumer.close()
        return records

    def sink(self, database_url: str, *, options: SinkOptions | None = None) -> Sink:
        """A sink of this lane that finds a dead member within seconds."""
        settings = Settings(lane=self.lane, database_url=database_url)
        kafka = KafkaConfig(
            bootstrap_servers=self.bootstrap_servers, session_timeout=6, fetch_wait_ms=20
        )
        return assemble_sink(settings, TOPOLOGY, kafka, options=options)


@contextmanager
def running(sink: Sink) -> Iterator[Thread]:
    """Run a sink in a thread; what it raises is raised here."""
    stop = Event()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            sink.run(stop)
        except BaseException as error:  # noqa: BLE001 - the test shall see it
            failures.append(error)

    thread = Thread(target=run, name="sink")
    thread.start()
    try:
        yield thread
    finally:
        stop.set()
        thread.join(30)
    assert not failures, failures
    assert not thread.is_alive()


def positions(database_url: str, lane: str) -> dict[tuple[str, int], int]:
    """How far the sink has written, by topic and partition; empty while Postgres is away."""
    try:
        with psycopg.connect(database_url, connect_timeout=2) as connection:
            found = connection.execute(
                "SELECT topic, partition, next_offset FROM history.sink_offsets"
                " WHERE lane = %s AND next_offset > 0",
                (lane,),
            ).fetchall()
    except psycopg.OperationalError:
        return {}
    return {(topic, partition): position for topic, partition, position in found}


def assert_rows_equal_log(database_url: str, log: Log, records: Iterable[Record]) -> None:
    """Compare every table of history with what the records say."""
    model = ReadModel()
    events = set()
    unreadable = set()
    dead = set()
    for record in records:
        if record.topic == log.dead_letter_topic and record.header(dead_letters.HEADER_ROLE):
            dead.add((record.key, record.value))
            continue
        message = _message(log, record)
        if message is None:
            unreadable.add(
                (record.topic, record.partition, record.offset, record.key, record.value)
            )
            continue
        model.add(message)
        if not isinstance(message.payload, ExecutionState):
            received_on = message.received_at.astimezone(UTC).date()
            events.add((received_on, message.correlation_id, message.message_id))
    with psycopg.connect(database_url) as connection:
        rows = connection.execute
        assert events == set(
            rows("SELECT received_on, correlation_id, message_id FROM history.events").fetchall()
        )
        assert unreadable == set(
            rows('SELECT topic, partition, "offset", key, value FROM history.unreadable').fetchall()
        )
        assert dead == set(rows("SELECT key, value FROM history.dead_letters").fetchall())
        assert {
            (
                key,
                each.received_at,
                each.identity.request_id,
                each.identity.title,
                *each.status[:3],
                None if each.judged.plan is None else each.judged.plan.plan_id,
                None if each.judged.verdict is None else each.judged.verdict.decision,
                None if each.report is None else each.report.summary,
            )
            for key, each in model.executions.items()
        } == set(
            rows(
                "SELECT correlation_id, received_at, request_id, title, run_no, version, status,"
                " plan_id, verdict, summary FROM history.executions"
            ).fetchall()
        )
        assert {
            (*key, *each.progress[:3], None if each.dispatch is None else each.dispatch.attempt)
            for key, each in model.steps.items()
        } == set(
            rows(
                "SELECT correlation_id, run_no, step_id, state_version, attempt, status,"
                " nullif(dispatch_attempt, 0) FROM history.steps"
            ).fetchall()
        )


def _message(log: Log, record: Record) -> AgentMessage[Any] | None:
    if record.topic == log.dead_letter_topic:
        return None
    try:
        return log.decode(record)
    except InvalidMessageError:
        return None


def now() -> datetime:
    """The moment, in UTC."""
    return datetime.now(UTC)

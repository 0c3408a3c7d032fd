"""Reads an :class:`Evidence` from broker, database and playground, once all is at rest."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import confluent_kafka
import httpx
import psycopg
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # it declares no __all__
    AdminClient,
    OffsetSpec,
)
from faults.evidence import SINK_TOPICS, TOPOLOGY, Evidence, Move, Row
from psycopg.rows import dict_row

from agents.runtime.errors import InfrastructureError
from agents.runtime.kafka import Record, record_of
from agents.runtime.kafka_admin import KafkaAdmin
from agents.runtime.records import TopicPartition
from agents.runtime.topology.topics import SINK

_GROUP: Final = "millstream-"
_SECONDS: Final = 30.0
_LOOK_SECONDS: Final = 0.5

#: Writes down each move of the sink's positions, since only the last one can be seen afterwards.
WATCH_POSITIONS: Final = """
CREATE SCHEMA watching;
CREATE TABLE watching.moves (
    number bigint GENERATED ALWAYS AS IDENTITY, lane text, topic text, partition integer,
    topic_id text, before bigint, after bigint
);
CREATE FUNCTION watching.note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO watching.moves (lane, topic, partition, topic_id, before, after)
    VALUES (new.lane, new.topic, new.partition, new.topic_id, old.next_offset, new.next_offset);
    RETURN NULL;
END $$;
CREATE TRIGGER watching AFTER UPDATE ON history.sink_offsets
    FOR EACH ROW WHEN (old.next_offset <> new.next_offset) EXECUTE FUNCTION watching.note();
"""


@dataclass(frozen=True)
class Place:
    """Where a run's traces are: a lane on a broker, a database, a playground if there is one."""

    bootstrap_servers: str
    database_url: str
    lane: str
    playground_url: str | None = None
    roles: Sequence[str] = ()
    """The roles whose groups must have read everything; the sink's is always looked at."""

    @property
    def topics(self) -> list[str]:
        """The topics that become history, with their lane."""
        return [self.lane + name for name in SINK_TOPICS]


def groups_of(place: Place) -> dict[str, list[str]]:
    """The consumer groups and what they read."""
    return {
        f"{place.lane}{_GROUP}{role}": [t.name_in(place.lane) for t in TOPOLOGY.consumed_by(role)]
        for role in (*place.roles, SINK)
    }


class Observer:
    """Looks at a :class:`Place` while it is at work."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._admin = KafkaAdmin(place.bootstrap_servers)
        self._client = AdminClient({"bootstrap.servers": place.bootstrap_servers, "log_level": 0})
        topics = sorted({topic for read in groups_of(place).values() for topic in read})
        self._partitions = {
            (topic, number)
            for topic, state in self._admin.list_topics().items()
            if topic in topics
            for number in range(state.partitions)
        }

    def wait_until_at_rest(self, seconds: float) -> bool:
        """Wait until all is read, written and published; False when that does not come.

        Twice in a row with the same ends, so that what is only on its way is not missed.
        """
        deadline = time.monotonic() + seconds
        before: object = None
        while time.monotonic() < deadline:
            try:
                now = self._rest()
            except (InfrastructureError, psycopg.OperationalError, confluent_kafka.KafkaException):
                now = None
            if now is not None and now == before:
                return True
            before = now
            time.sleep(_LOOK_SECONDS)
        return False

    def _rest(self) -> object:
        """What changes when anything moves, or None while something is known to be moving."""
        ends = self._ends()
        if any(self._lags(ends).values()):
            return None
        with psycopg.connect(self._place.database_url, connect_timeout=2) as connection:
            row = connection.execute(
                "SELECT (SELECT count(*) FROM ledger.outbox WHERE lane = %(lane)s)"
                " + (SELECT count(*) FROM ledger.runs"
                # Deadlines are far away: a run that waits for nothing else is at rest, and stuck.
                "    WHERE lane = %(lane)s AND is_open AND next_wakeup < now() + '1 minute')",
                {"lane": self._place.lane},
            ).fetchone()
            found = connection.execute(
                "SELECT topic, partition, next_offset FROM history.sink_offsets WHERE lane = %s",
                (self._place.lane,),
            )
            stored = {(topic, partition): offset for topic, partition, offset in found}
        kept = {p: end for p, end in ends.items() if p[0] in self._place.topics and end}
        if row != (0,) or {p: stored.get(p, 0) for p in kept} != kept:
            return None
        return ends

    def progress(self) -> int:
        """How many records the sink has written."""
        with psycopg.connect(self._place.database_url, connect_timeout=2) as connection:
            row = connection.execute(
                "SELECT coalesce(sum(next_offset), 0) FROM history.sink_offsets WHERE lane = %s",
                (self._place.lane,),
            ).fetchone()
        return int(row[0]) if row else 0

    def collect(self, submitted: frozenset[UUID] = frozenset()) -> Evidence:
        """Read everything."""
        place, ends = self._place, self._ends()
        kept = {p: end for p, end in ends.items() if p[0] in place.topics}
        topic_ids = {
            name: state.topic_id or "" for name, state in self._admin.list_topics().items()
        }
        with psycopg.connect(place.database_url, row_factory=dict_row) as connection:

            def rows(table: str) -> Sequence[Row]:
                query = f"SELECT * FROM {table} WHERE lane = %s"  # noqa: S608 - our own names
                return connection.execute(query.encode(), (place.lane,)).fetchall()

            moves = connection.execute(
                "SELECT topic, partition, topic_id, before, after FROM watching.moves"
                " WHERE lane = %s ORDER BY number",
                (place.lane,),
            ).fetchall()
            return Evidence(
                lane=place.lane,
                records=_read(place.bootstrap_servers, kept),
                ends=kept,
                topic_ids=topic_ids,
                lags=self._lags(ends),
                sink_offsets=rows("history.sink_offsets"),
                moves=[Move(**move) for move in moves],
                events=rows("history.events"),
                executions=rows("history.executions"),
                steps=rows("history.steps"),
                dead_letters=rows("history.dead_letters"),
                unreadable=rows("history.unreadable"),
                runs=rows("ledger.runs"),
                effects=rows("ledger.effects"),
                reservations=rows("ledger.reservations"),
                spending=rows("ledger.spending"),
                outbox=len(rows("ledger.outbox")),
                calls=_calls(place.playground_url),
                submitted=submitted,
            )

    def _ends(self) -> dict[TopicPartition, int]:
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]  # its stub lacks a type
        futures = self._client.list_offsets(
            {confluent_kafka.TopicPartition(*place): latest for place in self._partitions},
            request_timeout=_SECONDS,
        )
        return {(p.topic, p.partition): each.result().offset for p, each in futures.items()}

    def _lags(self, ends: Mapping[TopicPartition, int]) -> dict[str, int]:
        lags = {}
        for group, topics in groups_of(self._place).items():
            committed = self._admin.consumer_group_offsets(group)
            lags[group] = sum(
                end - committed.get(place, 0) for place, end in ends.items() if place[0] in topics
            )
        return lags


def _read(bootstrap_servers: str, ends: Mapping[TopicPartition, int]) -> list[Record]:
    """Every record of the partitions, in the order of each."""
    wanted = {place: end for place, end in ends.items() if end}
    settings: dict[str, Any] = {"bootstrap.servers": bootstrap_servers, "group.id": "reading"}
    consumer = confluent_kafka.Consumer({**settings, "enable.auto.commit": False})
    by_partition: dict[TopicPartition, list[Record]] = {place: [] for place in sorted(wanted)}
    try:
        consumer.assign([confluent_kafka.TopicPartition(*place, 0) for place in wanted])
        missing, deadline = set(wanted), time.monotonic() + _SECONDS
        while missing:
            assert time.monotonic() < deadline, f"records are missing from {sorted(missing)[:5]}"
            for message in consumer.consume(1000, 0.5):
                assert message.error() is None, message.error()
                record = record_of(message)
                place = (record.topic, record.partition)
                by_partition[place].append(record)
                if record.offset + 1 >= wanted[place]:
                    missing.discard(place)
    finally:
        consumer.close()
    return [record for records in by_partition.values() for record in records]


def _calls(url: str | None) -> dict[str, int]:
    if url is None:
        return {}
    answer = httpx.get(f"{url}/calls", timeout=_SECONDS, trust_env=False)
    effects: dict[str, int] = answer.raise_for_status().json()["effects"]
    return effects

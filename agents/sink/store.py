"""The sink's side of Postgres: claims of partitions, and batches written under a claim."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Final, Self

import psycopg
import structlog
from psycopg import errors

from agents.runtime.database import (
    ImpatientConnection,
    conninfo,
    refusals_told_apart,
    translated_errors,
)
from agents.runtime.errors import ConfigurationError, DatabaseUnavailableError, InfrastructureError
from agents.runtime.queries import load_queries
from agents.runtime.records import TopicPartition
from agents.sink.batch import Batch
from agents.sink.facts import Stage
from agents.sink.rows import execution_row, step_row

_SQL: Final = load_queries(Path(__file__).with_name("store.sql"))
_FENCED: Final = "MS001"
#: Classes of SQLSTATE: data exceptions, and limits of the program such as the depth of a value.
_UNSTORABLE: Final = ("22", "54")
_RESET_REASON: Final = (
    "the broker that held this request's messages is gone, and nothing had been done about it yet;"
    " send the request again"
)
_log = structlog.get_logger(__name__)


class FencedError(InfrastructureError):
    """Another sink has claimed a partition since; nothing of the batch was written."""


class UnstorableError(Exception):
    """Postgres refuses a value of the batch; nothing of the batch was written."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to write what is read from a partition, until another claims it."""

    epoch: int
    position: int
    """The next offset to read."""


class Store:
    """One connection to Postgres; for one thread.

    Every method raises ``DatabaseUnavailableError`` when Postgres is away. The connection is of no
    use then; whether the batch that was on its way has been written shows at the next claim.

    Args:
        url: A PostgreSQL URL or conninfo string.
        lane: Whose history it is.
        timeout: Seconds to wait for a server that does not answer.
        statement_timeout: Seconds that one statement may take; a transaction in which nothing
            happens for as long is ended by the server. One that says nothing for a little longer
            counts as away.
    """

    def __init__(
        self, url: str, *, lane: str, timeout: float = 10.0, statement_timeout: float = 30.0
    ) -> None:
        self._lane = lane
        self._on_its_way = ExitStack()
        self._pipeline: psycopg.Pipeline | None = None
        with translated_errors(), refusals_told_apart():
            self._connection = ImpatientConnection.connect(
                conninfo(url, timeout=timeout, application_name="millstream-sink"),
                autocommit=True,
                prepare_threshold=1,
            )
            self._connection.allow(statement_timeout)
            milliseconds = str(round(statement_timeout * 1000))
            # The planner sees tables that are empty: left alone it would read whole ones for good.
            self._connection.execute(
                "SELECT set_config('enable_seqscan', 'off', false),"
                " set_config('statement_timeout', %(limit)s, false),"
                " set_config('idle_in_transaction_session_timeout', %(limit)s, false)",
                {"limit": milliseconds},
            )
            self._require_history()
            for name in ("events", "executions", "steps"):
                self._connection.execute(_SQL[f"create_incoming_{name}"])

    def _require_history(self) -> None:
        found = self._connection.execute(b"SELECT to_regclass('history.events') IS NOT NULL")
        if found.fetchone() != (True,):
            self._connection.close()
            raise ConfigurationError(
                "the database has no history yet: run its migrations first (`millstream migrate`)"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; whether a batch on its way is written shows at the next claim."""
        self._connection.close()
        with suppress(psycopg.Error):  # there is nobody left to ask
            self._leave_pipeline()

    def claim(
        self, partitions: Iterable[TopicPartition], topic_ids: Mapping[str, str | None]
    ) -> dict[TopicPartition, Claim]:
        """Claim partitions, so that no other sink can write what it has read from them.

        Where a topic is another one than before, its position starts anew, and executions whose
        last trace was on the old one and which the router never saw end as ``broker_reset``.

        Args:
            partitions: What this sink has been assigned.
            topic_ids: The broker's id of every topic, where it has one.
        """
        wanted = sorted(partitions)
        parameters = {
            "lane": self._lane,
            "topics": [topic for topic, _ in wanted],
            "partitions": [partition for _, partition in wanted],
            "topic_ids": [topic_ids.get(topic) for topic, _ in wanted],
        }
        with _retriable(), self._connection.transaction():
            gone = self._connection.execute(_SQL["lock_positions"], parameters).fetchall()
            claimed = self._connection.execute(_SQL["claim_positions"], parameters).fetchall()
            if gone:
                self._end_lost({topic_id for (topic_id,) in gone})
        return {
            (topic, partition): Claim(epoch, position)
            for topic, partition, epoch, position in claimed
        }

    def write(self, batch: Batch, claims: Mapping[TopicPartition, Claim]) -> None:
        """Send a batch and wait until it is written; raises what :meth:`finish` raises."""
        self.send(batch, claims)
        self.finish()

    def send(self, batch: Batch, claims: Mapping[TopicPartition, Claim]) -> None:
        """Send what writes a batch and moves the positions of its partitions, all or nothing.

        Postgres works on it when this returns, COMMIT included. What became of it says
        :meth:`finish`, which must come before anything else that is asked of this store.

        Raises:
            FencedError: As in :meth:`finish`, where it shows at once.
            UnstorableError: As above.
        """
        model = batch.model
        with self._telling_what_failed():
            self._connection.execute(b"BEGIN")
            self._copy("events", batch.events.values())
            self._copy(
                "executions",
                [execution_row(self._lane, delta) for delta in model.executions.values()],
            )
            self._copy("steps", [step_row(self._lane, delta) for delta in model.steps.values()])
            self._merge_and_commit(batch, claims)

    def finish(self) -> None:
        """Wait until what was sent is written; nothing of it is if this raises.

        Raises:
            FencedError: Another sink has claimed one of the partitions.
            UnstorableError: Postgres refuses a value.
        """
        with self._telling_what_failed():
            if self._pipeline is not None:
                # Its end alone may name the last failure, of which the first one is the cause.
                self._pipeline.sync()
            self._leave_pipeline()

    def add_event_partitions(self, first_day: date, days: int) -> int:
        """Make the daily partitions of ``events`` that are missing; returns how many.

        A day that another sink is filling or dividing at this moment is left to the default
        partition.
        """
        with _retriable():
            try:
                row = self._connection.execute(
                    _SQL["add_event_partitions"], (first_day, days)
                ).fetchone()
            except (errors.CheckViolation, errors.DuplicateTable):
                return 0
        return int(row[0]) if row else 0

    def _copy(self, table: str, rows: Collection[tuple[Any, ...]]) -> None:
        if not rows:
            return
        with self._connection.cursor() as cursor, cursor.copy(_SQL[f"copy_{table}"]) as copy:
            for row in rows:
                copy.write_row(row)

    def _merge_and_commit(self, batch: Batch, claims: Mapping[TopicPartition, Claim]) -> None:
        """Send the rest of the transaction in one go; its first failure ends it."""
        moved = sorted(batch.positions)
        self._pipeline = self._on_its_way.enter_context(self._connection.pipeline())
        with self._connection.cursor() as cursor:
            cursor.execute(
                _SQL["advance"],
                (
                    self._lane,
                    [topic for topic, _ in moved],
                    [partition for _, partition in moved],
                    [claims[partition].epoch for partition in moved],
                    [batch.positions[partition] for partition in moved],
                ),
            )
            if batch.events:
                cursor.execute(_SQL["insert_events"])
            if batch.model.executions:
                cursor.execute(_SQL["merge_executions"])
            if batch.model.steps:
                cursor.execute(_SQL["merge_steps"])
            for key in sorted(batch.dead_letters):
                cursor.execute(_SQL["insert_dead_letter"], batch.dead_letters[key])
            for unreadable in batch.unreadable:
                cursor.execute(_SQL["insert_unreadable"], unreadable)
            cursor.execute(b"COMMIT")

    @contextmanager
    def _telling_what_failed(self) -> Iterator[None]:
        """Roll back a batch that cannot be written, and say why it cannot."""
        with _retriable():
            try:
                yield
            except psycopg.DatabaseError as error:
                state = error.sqlstate or ""
                reason = error.diag.message_primary or str(error)
                if state == _FENCED:
                    self._roll_back()
                    raise FencedError(reason) from error
                if state.startswith(_UNSTORABLE):
                    self._roll_back()
                    raise UnstorableError(reason) from error
                raise

    def _roll_back(self) -> None:
        with suppress(errors.PipelineAborted):  # what follows a failure has failed too
            self._leave_pipeline()
        self._connection.rollback()

    def _leave_pipeline(self) -> None:
        self._pipeline = None
        self._on_its_way.close()

    def _end_lost(self, topic_ids: set[str]) -> None:
        ended = self._connection.execute(
            _SQL["mark_broker_reset"],
            {
                "lane": self._lane,
                "version": Stage.BROKER_RESET,
                "reason": _RESET_REASON,
                "topic_ids": sorted(topic_ids),
            },
        ).rowcount
        _log.warning("sink_topics_replaced", topic_ids=sorted(topic_ids), executions_ended=ended)


@contextmanager
def _retriable() -> Iterator[None]:
    """Turn whatever another try may mend into ``DatabaseUnavailableError``."""
    try:
        with translated_errors():
            yield
    except (errors.DeadlockDetected, errors.SerializationFailure) as error:
        raise DatabaseUnavailableError(f"a transaction lost against another: {error}") from error

"""History's daily partitions, and whatever else of it is too old, in Postgres.

Making, filling and dropping a partition takes a lock that keeps the sink and all readers of
``history.events`` out. So each is its own transaction, gives up soon when somebody reads for long,
and is tried again: while one waits for this lock, everybody who comes later waits behind it.
"""

import re
import time
from dataclasses import dataclass
from datetime import UTC, date, datetime
from datetime import time as time_of_day
from pathlib import Path
from typing import Any, Final

from psycopg import Connection, errors

from agents.runtime.database import translated_errors
from agents.runtime.errors import InfrastructureError
from agents.runtime.queries import load_queries
from schemas import ExecutionStatus

_SQL: Final = load_queries(Path(__file__).with_suffix(".sql"))
_BOUNDS: Final = re.compile(r"FROM \('(\d{4}-\d\d-\d\d)'\) TO")
_LOCK_MILLISECONDS: Final = 1000
_LOCK_TRIES: Final = 8
_LOCK_PAUSE: Final = 0.5
_BATCH: Final = 1000
_CONTENTION: Final = (
    errors.LockNotAvailable,
    errors.DeadlockDetected,
    errors.CheckViolation,  # the sink has just written to the default partition
    errors.DuplicateTable,  # the sink has just made the partition itself
)
_OPEN: Final = [
    status.value
    for status in ExecutionStatus
    if not status.is_terminal and status not in {"received", "parsed", "planned"}
]
"""What the router still moves; an execution that it has not seen in all this time it never will."""


class EventsInUseError(InfrastructureError):
    """Somebody holds ``history.events`` for so long that its partitions cannot be changed."""


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition of ``history.events``."""

    name: str
    day: date | None
    """The day whose events it holds; ``None`` for the default partition."""
    size: int
    """Bytes on disk, indexes included."""
    rows: int
    """An estimate."""


class PartitionStore:
    """Care for history over one connection in autocommit mode.

    Every method raises ``DatabaseUnavailableError`` when Postgres goes away.
    """

    def __init__(
        self,
        connection: Connection[Any],
        *,
        lock_tries: int = _LOCK_TRIES,
        lock_pause: float = _LOCK_PAUSE,
    ) -> None:
        self._connection = connection
        self._lock_tries = lock_tries
        self._lock_pause = lock_pause

    def partitions(self) -> list[Partition]:
        """All partitions, the oldest day first, the default one last."""
        found = [
            Partition(name, _day_of(bounds), size, rows)
            for name, bounds, size, rows in self._fetch("list_partitions")
        ]
        return sorted(found, key=lambda each: each.day or date.max)

    def days_in_default(self) -> dict[date, int]:
        """The days that have no partition of their own, with their rows. Reads the partition."""
        return dict(self._fetch("days_in_default"))

    def make(self, first_day: date, days: int) -> int:
        """Make the partitions that are missing from ``first_day`` on; returns how many.

        A day of which the default partition has rows is left out; see :meth:`move`.

        Raises:
            EventsInUseError: Somebody holds the table for too long.
        """
        return self._under_lock("make_partitions", first_day=first_day, days=days) or 0

    def move(self, day: date) -> int:
        """Make a day's partition out of the default partition's rows; returns how many moved.

        Raises:
            EventsInUseError: Somebody holds the table for too long.
        """
        return self._under_lock("move_day", day=day) or 0

    def drop(self, day: date) -> None:
        """Drop a day with all its events; today and later days are refused by the database.

        Raises:
            EventsInUseError: Somebody holds the table for too long.
        """
        self._under_lock("drop_day", day=day)

    def count_old_executions(self, first_kept: date) -> int:
        """How many executions :meth:`delete_executions` would delete."""
        [(count,)] = self._fetch("count_old_executions", before=_midnight(first_kept), open=_OPEN)
        return int(count)

    def delete_executions(self, first_kept: date) -> int:
        """Delete executions of earlier days with their steps, a batch at a time.

        Executions that the router still moves stay, and so do those that changed since.

        Returns:
            How many were deleted.
        """
        before = _midnight(first_kept)
        return sum(
            self._in_batches("delete_executions", lane=lane, before=before, open=_OPEN)
            for (lane,) in self._fetch("list_lanes")
        )

    def count_old_dead_letters(self, first_kept: date) -> int:
        """How many dead letters :meth:`delete_dead_letters` would delete."""
        [(count,)] = self._fetch("count_old_dead_letters", before=_midnight(first_kept))
        return int(count)

    def delete_dead_letters(self, first_kept: date) -> int:
        """Delete dead letters of earlier days, a batch at a time; returns how many."""
        before = _midnight(first_kept)
        return sum(
            self._in_batches("delete_dead_letters", lane=lane, before=before)
            for (lane,) in self._fetch("list_dead_letter_lanes", before=before)
        )

    def count_old_unreadable(self, first_kept: date) -> int:
        """How many records :meth:`delete_unreadable` would delete."""
        [(count,)] = self._fetch("count_old_unreadable", before=_midnight(first_kept))
        return int(count)

    def delete_unreadable(self, first_kept: date) -> int:
        """Delete records of earlier days that the sink could not read; returns how many."""
        before = _midnight(first_kept)
        return sum(
            self._in_batches("delete_unreadable", lane=lane, before=before)
            for (lane,) in self._fetch("list_unreadable_lanes", before=before)
        )

    def delete_from_default(self, first_kept: date) -> int:
        """Delete what the default partition holds of earlier days; returns how many rows."""
        return self._in_batches("delete_from_default", first_kept=first_kept)

    def _in_batches(self, query: str, **parameters: Any) -> int:
        deleted = 0
        while True:
            with translated_errors():
                one = self._connection.execute(_SQL[query], {**parameters, "limit": _BATCH})
            deleted += one.rowcount
            if one.rowcount < _BATCH:
                return deleted

    def _under_lock(self, query: str, **parameters: Any) -> int | None:
        for attempt in range(self._lock_tries):
            try:
                with translated_errors(), self._connection.transaction():
                    return self._try_under_lock(query, parameters)
            except _LockTimeout:
                time.sleep(self._lock_pause * (attempt + 1))
        raise EventsInUseError(
            f"history.events was in use by long queries each of {self._lock_tries} times, so its "
            "partitions were not changed; try again when they are over"
        )

    def _try_under_lock(self, query: str, parameters: dict[str, Any]) -> int | None:
        self._connection.execute(
            "SELECT set_config('lock_timeout', %s, true)", (str(_LOCK_MILLISECONDS),)
        )
        try:
            row = self._connection.execute(_SQL[query], parameters).fetchone()
        except _CONTENTION as error:
            raise _LockTimeout from error
        return None if row is None or row[0] == "" else row[0]

    def _fetch(self, query: str, **parameters: Any) -> list[tuple[Any, ...]]:
        with translated_errors():
            return self._connection.execute(_SQL[query], parameters).fetchall()


class _LockTimeout(Exception):  # noqa: N818  # no error yet: it is tried again
    """The lock was not to be had this time."""


def _day_of(bounds: str) -> date | None:
    found = _BOUNDS.search(bounds)
    return date.fromisoformat(found[1]) if found else None


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time_of_day.min, UTC)

"""Reading history: which executions there are, and the timeline of one."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import takewhile
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import psycopg
from psycopg import Connection

from agents.runtime.database import conninfo, translated_errors
from agents.runtime.errors import DatabaseUnavailableError, PermanentError
from agents.runtime.queries import load_queries
from agents.runtime.settings import Settings
from agents.sink import queries
from agents.sink.queries import Execution
from ops.timeline import Timeline, make_timeline
from schemas import ExecutionStatus

_SQL: Final = load_queries(Path(__file__).with_suffix(".sql"))
_CONNECT_SECONDS: Final = 5.0
_SHOWN_MATCHES: Final = 5
_HEX_DIGITS: Final = 32


class UnknownExecutionError(PermanentError):
    """No execution, or more than one, is meant by what was given."""


@dataclass(frozen=True, slots=True)
class End:
    """How an execution ended."""

    execution: UUID
    status: str
    code: str | None
    reason: str | None
    received_at: datetime
    finished_at: datetime

    @property
    def seconds(self) -> float:
        """From the broker's receipt of the request to the end of the execution."""
        return (self.finished_at - self.received_at).total_seconds()


class History:
    """The history of one lane, over one connection.

    Every method raises ``DatabaseUnavailableError`` when Postgres goes away.
    """

    def __init__(self, connection: Connection[Any], *, lane: str = "") -> None:
        self._connection = connection
        self._lane = lane

    def find(self, given: str) -> UUID:
        """The execution that a person means by an id, its beginning, or their own id for it.

        Raises:
            UnknownExecutionError: There is none, or several fit.
        """
        with translated_errors():
            own = queries.executions_by_external_id(
                self._connection, lane=self._lane, external_id=given
            )
        found = [execution.correlation_id for execution in own] or self._beginning_with(given)
        match found:
            case [one]:
                return one
            case []:
                raise UnknownExecutionError(f"there is no execution {given!r}; see `millstream ls`")
            case _:
                shown = ", ".join(map(str, found[:_SHOWN_MATCHES]))
                more = ", …" if len(found) >= _SHOWN_MATCHES else ""
                raise UnknownExecutionError(f"{given!r} fits several executions: {shown}{more}")

    def executions(
        self,
        *,
        status: ExecutionStatus | None = None,
        tenant: str | None = None,
        since: datetime | None = None,
        limit: int = 20,
    ) -> Sequence[Execution]:
        """Executions, the newest first; those received before ``since`` are left out."""
        with translated_errors():
            found = queries.list_executions(
                self._connection, lane=self._lane, status=status, tenant=tenant, limit=limit
            )
        return list(takewhile(lambda each: since is None or each.received_at >= since, found))

    def timeline(self, execution: UUID) -> Timeline | None:
        """What happened in an execution so far; ``None`` before history has heard of it."""
        of: dict[str, Any] = {"lane": self._lane, "correlation_id": execution}
        with translated_errors(), self._connection.transaction():
            # One moment for all three.
            self._connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            found = queries.execution(self._connection, **of)
            steps = queries.steps_of(self._connection, **of)
            events = queries.events_of(self._connection, **of)
        return None if found is None else make_timeline(found, steps, events)

    def count_by_status(self) -> dict[str, int]:
        """How many executions are in each status."""
        return dict(self._fetch("count_by_status"))

    def count_rows(self) -> dict[str, int]:
        """How many rows of the lane each table holds."""
        return dict(self._fetch("count_rows"))

    def count_records(self) -> dict[str, int]:
        """By topic, how many records the sink has read."""
        return dict(self._fetch("count_records"))

    def ends_of(self, executions: Sequence[UUID]) -> list[End]:
        """How those of some executions ended that have."""
        rows = self._fetch(
            "ends_of",
            executions=list(executions),
            terminal=[status.value for status in ExecutionStatus if status.is_terminal],
        )
        return [End(*row) for row in rows]

    def _beginning_with(self, given: str) -> list[UUID]:
        digits = given.replace("-", "").lower()
        if not 0 < len(digits) <= _HEX_DIGITS or not set(digits) <= set("0123456789abcdef"):
            return []
        first, last = (UUID(digits.ljust(_HEX_DIGITS, fill)) for fill in "0f")
        rows = self._fetch("find_by_id", first=first, last=last, limit=_SHOWN_MATCHES)
        return [row[0] for row in rows]

    def _fetch(self, query: str, **parameters: Any) -> list[tuple[Any, ...]]:
        with translated_errors():
            cursor = self._connection.execute(_SQL[query], {"lane": self._lane, **parameters})
            return cursor.fetchall()


@contextmanager
def opened(settings: Settings) -> Iterator[History]:
    """History as the settings name it, for one command.

    Raises:
        DatabaseUnavailableError: Postgres does not answer; says what to do.
    """
    with connected(settings) as connection:
        yield History(connection, lane=settings.lane)


@contextmanager
def connected(settings: Settings) -> Iterator[Connection[Any]]:
    """The database that the settings name, in autocommit mode, for one command.

    Raises:
        DatabaseUnavailableError: Postgres does not answer; says what to do.
    """
    address = conninfo(
        settings.database_url.get_secret_value(),
        timeout=_CONNECT_SECONDS,
        application_name="millstream-cli",
    )
    try:
        with translated_errors():
            connection = psycopg.connect(address, autocommit=True)
    except DatabaseUnavailableError as error:
        raise DatabaseUnavailableError(
            f"{error.reason} Is the stack up? Start it with `millstream up`."
        ) from None
    with connection:
        yield connection

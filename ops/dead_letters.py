"""Dead letters as history has them, and what people did about them as the ledger keeps it.

History is written by the sink alone, so a redrive and a purge are rows of ``ledger.redrives`` and
``ledger.purges`` that say which dead letter they are about.
"""

import base64
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, TypeVar
from uuid import UUID

import psycopg
from psycopg import Connection
from psycopg.rows import class_row

from agents.runtime.database import conninfo, translated_errors
from agents.runtime.errors import (
    ConfigurationError,
    DatabaseUnavailableError,
    PermanentError,
)
from agents.runtime.queries import load_queries
from agents.runtime.settings import Settings
from ops.dead_letter_rows import Cause, Contents, Letter, RedriveAudit, RunStatus, Selection
from ops.history import History

_SQL: Final = load_queries(Path(__file__).with_suffix(".sql"))
_CONNECT_SECONDS: Final = 5.0
_LOCK_CLASS: Final = 0x646C71
_SHORTEST_ID: Final = 4
T = TypeVar("T")


class UnknownDeadLetterError(PermanentError):
    """No dead letter, or more than one, is meant by what was given."""


class RedriveUnderWayError(PermanentError):
    """Somebody else redrives dead letters of this lane right now."""


class DeadLetters:
    """The dead letters of one lane, over one connection in autocommit mode.

    Every method raises ``DatabaseUnavailableError`` when Postgres goes away.
    """

    def __init__(self, connection: Connection[Any], *, lane: str = "") -> None:
        self._connection = connection
        self.lane = lane
        self.history = History(connection, lane=lane)

    def newest(self, selection: Selection, *, limit: int | None = None) -> list[Letter]:
        """The selected dead letters, the newest first."""
        return self._select(Letter, "newest_first", selection, limit=limit)

    def oldest(self, selection: Selection) -> list[Letter]:
        """The selected dead letters in the order in which they were given up."""
        return self._select(Letter, "oldest_first", selection)

    def causes(self, selection: Selection) -> list[Cause]:
        """The selected dead letters by cause, the most frequent first."""
        return self._select(Cause, "causes", selection)

    def find(self, given: str) -> Letter:
        """The dead letter whose id begins so, whatever was done about it.

        Raises:
            UnknownDeadLetterError: There is none, or several fit.
        """
        digits = given.strip().lower()
        if len(digits) < _SHORTEST_ID or not set(digits) <= set("0123456789abcdef"):
            raise UnknownDeadLetterError(
                f"{given!r} is no id of a dead letter; see `millstream dlq ls --flat`"
            )
        found = self.newest(Selection(ids=[f"{digits}%"], handled=True), limit=2)
        match found:
            case [one]:
                return one
            case []:
                raise UnknownDeadLetterError(
                    f"there is no dead letter {given!r}; see `millstream dlq ls --flat`"
                )
            case _:
                raise UnknownDeadLetterError(f"{given!r} fits several dead letters; say more of it")

    def contents(self, letter: Letter) -> Contents:
        """The bytes of a dead letter.

        Raises:
            UnknownDeadLetterError: It has gone from history since.
        """
        rows = self._fetch(_SQL["contents"], letter.place(self.lane))
        if not rows:
            raise UnknownDeadLetterError(f"dead letter {letter.short_id} is gone from history")
        return _contents(*rows[0])

    def requests_without_id(self, topic: str) -> Iterator[tuple[Letter, Contents]]:
        """Dead requests of which no header says whose they are, one by one."""
        selection = Selection(topic=topic, handled=True)
        with _errors(), self._connection.cursor() as cursor:
            for row in cursor.stream(*self._selecting("requests_without_id", selection)):
                yield Letter(*row[:-3]), _contents(*row[-3:])

    def run_status(self, execution: UUID) -> RunStatus | None:
        """How the router sees an execution; ``None`` before it has seen it."""
        parameters = {"lane": self.lane, "correlation_id": execution}
        rows = self._rows(RunStatus, _SQL["run_status"], parameters)
        return rows[0] if rows else None

    def redrives_of(self, letter: Letter) -> list[RedriveAudit]:
        """Who sent its record again, and when."""
        return self._rows(RedriveAudit, _SQL["redrives_of"], letter.place(self.lane))

    def begin_redrive(
        self,
        letter: Letter,
        *,
        topic: str,
        message_id: UUID,
        correlation_id: UUID,
        edited: bool,
        requested_by: str,
        reason: str | None,
    ) -> int:
        """Write down that the record is about to be sent; returns the number of the attempt."""
        about = {
            "topic": topic,
            "message_id": message_id,
            "correlation_id": correlation_id,
            "edited": edited,
            "requested_by": requested_by,
            "reason": reason,
        }
        [(number,)] = self._fetch(_SQL["begin_redrive"], {**letter.place(self.lane), **about})
        return int(number)

    def end_redrive(self, letter: Letter, number: int) -> None:
        """Write down that the broker has it."""
        with _errors():
            self._connection.execute(
                _SQL["end_redrive"], {**letter.place(self.lane), "number": number}
            )

    def purge(self, letters: Iterable[Letter], *, purged_by: str, reason: str | None) -> None:
        """Mark dead letters as done with, all or none."""
        rows = [
            {**letter.place(self.lane), "purged_by": purged_by, "reason": reason}
            for letter in letters
        ]
        with _errors(), self._connection.transaction():
            self._connection.cursor().executemany(_SQL["purge"], rows)

    def reserve(self) -> None:
        """Keep others from redriving this lane for as long as the connection lives.

        Raises:
            RedriveUnderWayError: Somebody else is at it.
        """
        [(is_ours,)] = self._fetch(_SQL["lock"], {"class": _LOCK_CLASS, "lane": self.lane})
        if not is_ours:
            raise RedriveUnderWayError("another redrive is under way; wait for its end")

    def _select(
        self, row: type[T], query: str, selection: Selection, *, limit: int | None = None
    ) -> list[T]:
        return self._rows(row, *self._selecting(query, selection, limit=limit))

    def _selecting(
        self, query: str, selection: Selection, *, limit: int | None = None
    ) -> tuple[bytes, dict[str, Any]]:
        """A statement about the selected dead letters, and its parameters."""
        statement = b"WITH selected AS (%b) %b" % (_SQL["selected"], _SQL[query])
        return statement, {"lane": self.lane, "limit": limit, **asdict(selection)}

    def _rows(self, row: type[T], statement: bytes, parameters: dict[str, Any]) -> list[T]:
        with _errors(), self._connection.cursor(row_factory=class_row(row)) as cursor:
            # Unprepared, so that the planner sees which filters are NULL.
            return cursor.execute(statement, parameters, prepare=False).fetchall()

    def _fetch(self, statement: bytes, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
        with _errors():
            return self._connection.execute(statement, parameters).fetchall()


@contextmanager
def opened(settings: Settings) -> Iterator[DeadLetters]:
    """The dead letters of the settings' lane, for one command.

    Raises:
        DatabaseUnavailableError: Postgres does not answer; says what to do.
    """
    address = conninfo(
        settings.database_url.get_secret_value(),
        timeout=_CONNECT_SECONDS,
        application_name="millstream-dlq",
    )
    try:
        with translated_errors():
            connection = psycopg.connect(address, autocommit=True)
    except DatabaseUnavailableError as error:
        raise DatabaseUnavailableError(
            f"{error.reason} Is the stack up? Start it with `millstream up`."
        ) from None
    with connection:
        yield DeadLetters(connection, lane=settings.lane)


@contextmanager
def _errors() -> Iterator[None]:
    try:
        with translated_errors():
            yield
    except psycopg.errors.UndefinedTable as error:
        raise ConfigurationError(
            "the database is not up to date; bring it up with `millstream migrate`"
        ) from error


def _contents(key: bytes | None, value: bytes | None, headers: list[list[Any]]) -> Contents:
    return Contents(key, value, tuple((name, _header(each)) for name, each in headers))


def _header(stored: Any) -> bytes | None:
    """A header's bytes, from what the sink made of them."""
    match stored:
        case None:
            return None
        case {"base64": str(encoded)}:
            return base64.b64decode(encoded)
        case _:
            return str(stored).encode()

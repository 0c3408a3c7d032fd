"""One statement in one transaction on a named database, and what each way of failing means.

Until COMMIT is sent, a failure of any kind has had no effect: Postgres undoes the transaction of a
client that is gone. So only a COMMIT without an answer leaves the outcome unknown.

================================  ===========================================
what happened                     error
================================  ===========================================
no connection                     ``NotSentError``
Postgres refused the statement    ``PermanentError``
a conflict, a lock, a limit       ``TransientError``
the connection broke before       ``TransientError``
… after COMMIT was sent           ``OutcomeUnknownError``
too many rows                     ``PermanentError``, and nothing is committed
================================  ===========================================
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import psycopg
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from agents.runtime.catalogue import PostgresConnection
from agents.runtime.context import Services
from agents.runtime.database import ImpatientAsyncConnection, conninfo
from agents.runtime.errors import (
    ErrorCode,
    NotSentError,
    OutcomeUnknownError,
    PermanentError,
    TransientError,
)
from agents.runtime.running import called_off, without_effect

T = TypeVar("T")
Pool = AsyncConnectionPool[ImpatientAsyncConnection]
Row = dict[str, Any]

_CONNECT_SECONDS: Final = 5.0
_ANSWER_SECONDS: Final = 0.5
"""How long before a step's time is up its statement is: so that the server's word still arrives."""
#: Classes of SQLSTATE (PostgreSQL's appendix A) that may pass: connection, insufficient resources,
#: operator intervention, system error, transaction rollback, object not in the required state.
_PASSING: Final = ("08", "53", "57", "58", "40", "55")
_DATA: Final = ("22", "23")
_READ_ONLY: Final = "25006"
_CANCELED: Final = "57014"
_CURSOR: Final = "millstream"
_APPLICATION: Final = "millstream-sql"


@dataclass(frozen=True, slots=True)
class Call:
    """A statement to be run."""

    connection: str
    query: str
    parameters: Mapping[str, Any]
    is_read: bool
    """Whether it must change nothing, which the server then makes sure of."""
    max_rows: int
    seconds: float
    """How long all of it may take."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a statement brought."""

    rows: list[Row]
    row_count: int
    """Rows that were returned, or changed."""


class SqlClient:
    """The pools of a process, one for each connection that is used."""

    def __init__(self, services: Services, stack: AsyncExitStack) -> None:
        self._services = services
        self._stack = stack
        self._pools: dict[str, Pool] = {}

    async def run(self, call: Call, read: Callable[[Answer], T]) -> T:
        """Run a statement, and return what ``read`` makes of its rows.

        If ``read`` raises, nothing is committed.

        Raises:
            NotSentError: There was no connection.
            TransientError: It failed without an effect, for a reason that may pass.
            PermanentError: It failed without an effect, and would fail again.
            OutcomeUnknownError: The connection broke while the transaction was committed.
        """
        limit = max(call.seconds - _ANSWER_SECONDS, call.seconds / 2)
        give_up_at = _now() + limit
        pool = await self._pool(call.connection)
        try:
            with without_effect():
                connection = await pool.getconn(timeout=min(_CONNECT_SECONDS, limit / 2))
        except (PoolTimeout, psycopg.Error) as error:
            raise NotSentError(f"{call.connection}: no connection came about ({error})") from error
        transaction = _Transaction(connection, call, give_up_at)
        try:
            return await transaction.run(read)
        except psycopg.Error as error:
            raise _meaning(error, call, is_committing=transaction.is_committing) from error
        except asyncio.CancelledError as error:
            if transaction.is_committing:
                raise
            raise called_off() from error
        except UnicodeError as error:
            raise PermanentError(
                f"a parameter is no text that Postgres can hold: {error}", code="invalid_parameters"
            ) from error
        finally:
            connection.answer_timeout = _CONNECT_SECONDS
            # The pool rolls back what was begun, and closes a connection that is in the middle of
            # something.
            await pool.putconn(connection)

    async def _pool(self, name: str) -> Pool:
        """The pool of a connection; it opens connections as they are needed."""
        if (pool := self._pools.get(name)) is not None:
            return pool
        declared = self._services.catalogue.connections[name]
        if not isinstance(declared, PostgresConnection):
            raise TypeError(f"connection {name!r} is no database")

        async def address() -> str:
            # For each connection anew, so that a changed password is found.
            url = await self._services.fill_in(declared.url)
            return conninfo(url, timeout=_CONNECT_SECONDS, application_name=_APPLICATION)

        await address()  # for an error that says what is wrong, which a pool keeps to itself
        pool = Pool(
            address,
            min_size=0,
            max_size=declared.pool_size,
            kwargs={"autocommit": True},
            connection_class=ImpatientAsyncConnection,
            reconnect_timeout=_CONNECT_SECONDS,
            open=False,
            name=f"sql-{name}",
        )
        self._pools[name] = pool
        self._stack.push_async_callback(pool.close)
        await pool.open()
        return pool


class _Transaction:
    """One statement between BEGIN and COMMIT."""

    def __init__(self, connection: ImpatientAsyncConnection, call: Call, give_up_at: float) -> None:
        self._connection = connection
        self._call = call
        self._give_up_at = give_up_at
        self.is_committing = False

    async def run(self, read: Callable[[Answer], T]) -> T:
        await self._begin()
        result = read(await (self._select() if self._call.is_read else self._change()))
        self._allow_what_is_left()
        self.is_committing = True
        await self._connection.execute("COMMIT")
        return result

    async def _begin(self) -> None:
        milliseconds = round(self._allow_what_is_left() * 1000)
        mode = "READ ONLY" if self._call.is_read else "READ WRITE"
        statements = f"BEGIN {mode}; SET LOCAL statement_timeout = {milliseconds:d}"
        await self._connection.execute(statements.encode())

    async def _select(self) -> Answer:
        """Rows through a cursor of the server, which sends no more of them than are asked for."""
        self._allow_what_is_left()
        async with self._connection.cursor(_CURSOR, row_factory=dict_row) as cursor:
            await cursor.execute(self._call.query.encode(), self._call.parameters)
            rows = await cursor.fetchmany(self._call.max_rows + 1)
        self._check(len(rows))
        return Answer(rows, len(rows))

    async def _change(self) -> Answer:
        self._allow_what_is_left()
        async with self._connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(self._call.query.encode(), self._call.parameters)
            if cursor.description is None:
                return Answer([], max(cursor.rowcount, 0))
            self._check(cursor.rowcount)
            return Answer(await cursor.fetchall(), cursor.rowcount)

    def _check(self, count: int) -> None:
        if count > self._call.max_rows:
            raise PermanentError(
                f"the statement brings more than {self._call.max_rows} rows; nothing was changed",
                code="message_too_large",
            )

    def _allow_what_is_left(self) -> float:
        """Let the next answer take the rest of the time, in seconds."""
        left = self._give_up_at - _now()
        if left <= 0:
            raise TransientError("time was up before it was committed", code="timeout")
        self._connection.answer_timeout = left + _ANSWER_SECONDS / 2
        return left


def _now() -> float:
    return asyncio.get_running_loop().time()


def _meaning(
    error: psycopg.Error, call: Call, *, is_committing: bool
) -> PermanentError | TransientError | OutcomeUnknownError:
    """What a failure means; of what Postgres said only the message, as details quote rows."""
    state = error.sqlstate or ""
    said = error.diag.message_primary or " ".join(str(error).split()) or type(error).__name__
    reason = f"{call.connection}: {said}" + (f" (SQLSTATE {state})" if state else "")
    is_lost = not state and isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    is_ending = error.diag.severity_nonlocalized in {"FATAL", "PANIC"}
    if is_committing and (is_lost or is_ending):
        return OutcomeUnknownError(f"{reason}, while it was committed")
    if is_lost or state.startswith(_PASSING):
        code: ErrorCode = "timeout" if state == _CANCELED else "transient"
        return TransientError(f"{reason}; nothing was changed", code=code)
    if state == _READ_ONLY:
        return PermanentError(
            f"{reason}; the catalogue says that the action only reads", code="configuration"
        )
    if state.startswith(_DATA) or isinstance(error, psycopg.DataError):
        return PermanentError(reason, code="invalid_parameters")
    return PermanentError(reason, code="configuration")


@asynccontextmanager
async def open_pools(services: Services) -> AsyncIterator[SqlClient]:
    """Pools, each opened when it is first used, so that no worker waits for a database at start."""
    async with AsyncExitStack() as stack:
        yield SqlClient(services, stack)

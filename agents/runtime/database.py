"""Postgres: the pool, its transactions, and what the driver's errors mean.

The only module of the runtime that imports psycopg. Whatever says that the server is away, going
away, or not the one that may write becomes ``DatabaseUnavailableError`` here, so that nobody else
needs to know the driver's errors. A statement that is wrong in itself stays the driver's error,
which is a bug.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, TypeVar

import psycopg
from psycopg import AsyncConnection, errors, pq
from psycopg.abc import PQGen
from psycopg_pool import AsyncConnectionPool

from agents.runtime.errors import ConfigurationError, DatabaseUnavailableError

T = TypeVar("T")
RV = TypeVar("RV")
Row = tuple[Any, ...]
Connection = AsyncConnection[Row]

_TRIES: Final = 4
"""How often a transaction is tried that lost against another one."""

_UNAVAILABLE: Final = (
    psycopg.OperationalError,  # cut, refused, shutting down, out of time, pool exhausted
    psycopg.InterfaceError,  # the connection was closed under our hands
    errors.IdleInTransactionSessionTimeout,
    errors.ReadOnlySqlTransaction,  # a standby answers where the primary was
)
_REFUSAL: Final = re.compile(
    r"authentication failed|no password supplied|no pg_hba\.conf entry"
    r"|(database|role) \"[^\"]*\" does not exist|is not permitted to log in"
    r"|permission denied for database|does not support SSL, but SSL was required"
)
_ANSWER_GRACE: Final = 5.0
"""Seconds beyond the server's own time limit after which its answer is not waited for any more."""
_LOOK_SECONDS: Final = 0.1
"""How often a connection that waits looks at the time; psycopg's own default."""
CONFLICTS: Final = (errors.SerializationFailure, errors.DeadlockDetected)
"""What ends a transaction only because of another one; it may be tried again."""
DivisionByZero = errors.DivisionByZero


class ConflictError(Exception):
    """Another transaction was there first; raised by work that wants to be tried again."""


class _Impatience:
    """Gives up a server that hangs: it keeps no time limit, and its line looks alive."""

    answer_timeout: float = 30.0
    """Seconds that one answer may take."""
    pgconn: pq.abc.PGconn

    def allow(self, statement_timeout: float) -> None:
        """Wait for a little longer than the server itself would let a statement run."""
        self.answer_timeout = statement_timeout + _ANSWER_GRACE

    def close_if_unanswered(self, error: psycopg.Error) -> None:
        """Close the connection if the server has said nothing and still owes an answer."""
        is_waiting = self.pgconn.transaction_status == pq.TransactionStatus.ACTIVE
        if is_waiting and error.sqlstate is None:
            self.pgconn.finish()


class ImpatientAsyncConnection(_Impatience, AsyncConnection[Row]):
    """A connection that is closed when the server does not answer in time."""

    async def wait(
        self,
        gen: PQGen[RV],
        interval: float = _LOOK_SECONDS,
        timeout: float | None = None,  # noqa: ASYNC109 - psycopg's signature
    ) -> RV:
        """Wait as psycopg does, but not for ever."""
        try:
            return await super().wait(gen, interval, timeout or self.answer_timeout)
        except psycopg.OperationalError as error:
            self.close_if_unanswered(error)
            raise


class ImpatientConnection(_Impatience, psycopg.Connection[Row]):
    """As :class:`ImpatientAsyncConnection`, for a thread."""

    def wait(
        self, gen: PQGen[RV], interval: float = _LOOK_SECONDS, timeout: float | None = None
    ) -> RV:
        """Wait as psycopg does, but not for ever."""
        try:
            return super().wait(gen, interval, timeout or self.answer_timeout)
        except psycopg.OperationalError as error:
            self.close_if_unanswered(error)
            raise


class Database:
    """A pool of connections to one database.

    Args:
        url: A PostgreSQL URL or conninfo string.
        pool_size: Connections that are kept open.
        timeout: Seconds to wait for a server that does not answer, or for a free connection.
        statement_timeout: Seconds that a single statement may take, waiting for locks included;
            a transaction in which nothing happens is ended by the server after the same time, so
            that a stopped process does not hold its locks for good. A server that says nothing
            for a little longer counts as away, and its connection is given up.

    Raises:
        ConfigurationError: The address is malformed.
    """

    def __init__(
        self,
        url: str,
        pool_size: int = 4,
        *,
        timeout: float = 10.0,
        statement_timeout: float = 30.0,
        application_name: str = "millstream",
    ) -> None:
        self._timeout = timeout
        self._statement_timeout = statement_timeout
        self._conninfo = conninfo(url, timeout=timeout, application_name=application_name)
        self._pool = AsyncConnectionPool(
            self._conninfo,
            min_size=pool_size,
            max_size=pool_size,
            timeout=timeout,
            # Attempts to reconnect are spaced wider and wider until this time is over; then the
            # next caller starts them afresh. So a server that returns is found within seconds.
            reconnect_timeout=4.0,
            kwargs={"autocommit": True, "prepare_threshold": 1},
            configure=self._configure,
            open=False,
            name=application_name,
            connection_class=ImpatientAsyncConnection,
        )
        self._mending: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open the pool; may be called again where it failed.

        Raises:
            ConfigurationError: The server refuses us.
            DatabaseUnavailableError: The server cannot be reached; says why.
        """
        with translated_errors(), refusals_told_apart():
            # The pool itself says only that time is up; a first connection says what is wrong.
            probe = await AsyncConnection.connect(self._conninfo)
            await probe.close()
        # Without waiting: a pool that was waited for in vain cannot be opened again.
        await self._pool.open(wait=False)
        await self.ping()

    async def close(self) -> None:
        """Close the pool; connections in use are closed as they come back."""
        if self._mending is not None:
            self._mending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._mending
        await self._pool.close()

    async def ping(self) -> None:
        """Return when the server has answered.

        Raises:
            DatabaseUnavailableError: Postgres is away.
        """
        await self.fetch(b"SELECT 1")

    async def transact(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Run ``work`` in one transaction; it may be run again from its start.

        A transaction that meets a deadlock, a serialisation failure or a ``ConflictError`` is
        tried again at once, four times in all.

        Raises:
            DatabaseUnavailableError: Postgres is away, or the last try was in vain as well.
                Whether a transaction was committed whose answer got lost is not known.
        """
        for _ in range(_TRIES - 1):
            try:
                return await self._attempt(work)
            except (ConflictError, *CONFLICTS):
                await asyncio.sleep(0)
        try:
            return await self._attempt(work)
        except (ConflictError, *CONFLICTS) as error:
            raise DatabaseUnavailableError(
                f"a transaction lost against others {_TRIES} times: {error}"
            ) from error

    async def fetch(
        self, query: bytes, parameters: Sequence[Any] | Mapping[str, Any] = ()
    ) -> list[Row]:
        """The rows of one statement, which is its own transaction.

        Raises:
            DatabaseUnavailableError: Postgres is away.
        """
        async with self.connection() as connection:
            cursor = await connection.execute(query, parameters)
            return await cursor.fetchall()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A pooled connection in autocommit mode, its errors translated.

        Raises:
            DatabaseUnavailableError: Postgres is away, or every connection stays in use.
        """
        with self._translated():
            async with self._pool.connection() as connection:
                yield connection

    async def _attempt(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        with self._translated():
            async with self._pool.connection() as connection, connection.transaction():
                return await work(connection)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Translate errors; when the server was away, look which connections have survived.

        Otherwise each of them would fail somebody, long after the server has come back.
        """
        try:
            with translated_errors():
                yield
        except DatabaseUnavailableError:
            if self._mending is None or self._mending.done():
                self._mending = asyncio.create_task(self._mend(), name="database-mending")
            raise

    async def _mend(self) -> None:
        with contextlib.suppress(psycopg.Error):  # whoever comes next is told
            await self._pool.check()

    async def _configure(self, connection: ImpatientAsyncConnection) -> None:
        connection.allow(self._statement_timeout)
        milliseconds = str(round(self._statement_timeout * 1000))
        # The ledger finds rows by their keys, many at once. The planner does not know how few they
        # are, and its plan is made when the tables are empty: left alone it reads whole tables.
        await connection.execute(
            "SELECT set_config('enable_seqscan', 'off', false),"
            " set_config('enable_hashjoin', 'off', false),"
            " set_config('enable_mergejoin', 'off', false),"
            " set_config('TimeZone', 'UTC', false),"
            " set_config('statement_timeout', %(limit)s, false),"
            " set_config('idle_in_transaction_session_timeout', %(limit)s, false)",
            {"limit": milliseconds},
        )


def conninfo(url: str, *, timeout: float, application_name: str) -> str:
    """``url`` with what it leaves open: how long to wait, and how to notice a cut line.

    Raises:
        ConfigurationError: The address is malformed. It is not repeated, as it may hold a
            password.
    """
    defaults: dict[str, Any] = {
        "connect_timeout": max(2, round(timeout)),
        "application_name": application_name,
        "tcp_user_timeout": round(timeout * 1000),
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
    }
    try:
        given = psycopg.conninfo.conninfo_to_dict(url)
        return psycopg.conninfo.make_conninfo(**{**defaults, **given})
    except psycopg.ProgrammingError:
        raise ConfigurationError("the database's address is malformed") from None


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turn the driver's errors that mean "Postgres is away" into ``DatabaseUnavailableError``.

    A deadlock or a serialisation failure passes as it is: :meth:`Database.transact` tries again.
    """
    try:
        yield
    except CONFLICTS:
        raise
    except _UNAVAILABLE as error:
        raise DatabaseUnavailableError(_reason(error)) from error


@contextmanager
def refusals_told_apart() -> Iterator[None]:
    """Turn what a server says to a connection that it will never take into ``ConfigurationError``.

    libpq does not tell the SQLSTATE of a connection that failed, so its words must do. A server
    that speaks another language than English is waited for, with its words in the log.
    """
    try:
        yield
    except psycopg.OperationalError as error:
        if _REFUSAL.search(str(error)):
            raise ConfigurationError(
                f"Postgres refuses us: {_said(error)}; look at MILLSTREAM_DATABASE_URL"
            ) from error
        raise


def _reason(error: psycopg.Error) -> str:
    return f"Postgres is not available: {_said(error)}"


def _said(error: psycopg.Error) -> str:
    said = " ".join(str(error).split())
    return said or type(error).__name__

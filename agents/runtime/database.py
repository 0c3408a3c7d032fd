"""Postgres: the pool, its transactions, and what the driver's errors mean.

The only module of the runtime that imports psycopg. Whatever says that the server is away, going
away, or not the one that may write becomes ``DatabaseUnavailableError`` here, so that nobody else
needs to know the driver's errors. A statement that is wrong in itself stays the driver's error,
which is a bug.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, TypeVar

import psycopg
from psycopg import AsyncConnection, errors
from psycopg_pool import AsyncConnectionPool

from agents.runtime.errors import ConfigurationError, DatabaseUnavailableError

T = TypeVar("T")
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
_CONFLICTS: Final = (errors.SerializationFailure, errors.DeadlockDetected)


class ConflictError(Exception):
    """Another transaction was there first; raised by work that wants to be tried again."""


class Database:
    """A pool of connections to one database.

    Args:
        url: A PostgreSQL URL or conninfo string.
        pool_size: Connections that are kept open.
        timeout: Seconds to wait for a server that does not answer, or for a free connection.
        statement_timeout: Seconds that a single statement may take, waiting for locks included;
            a transaction in which nothing happens is ended by the server after the same time, so
            that a stopped process does not hold its locks for good.

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
        )

    async def start(self) -> None:
        """Open the pool.

        Raises:
            DatabaseUnavailableError: The server cannot be reached; says why.
        """
        with translated_errors():
            # The pool itself says only that time is up; a first connection says what is wrong.
            probe = await AsyncConnection.connect(self._conninfo)
            await probe.close()
            await self._pool.open(wait=True, timeout=self._timeout)

    async def close(self) -> None:
        """Close the pool; connections in use are closed as they come back."""
        await self._pool.close()

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
            except (ConflictError, *_CONFLICTS):
                await asyncio.sleep(0)
        try:
            return await self._attempt(work)
        except (ConflictError, *_CONFLICTS) as error:
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
        with translated_errors():
            async with self._pool.connection() as connection:
                yield connection

    async def _attempt(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        with translated_errors():
            async with self._pool.connection() as connection, connection.transaction():
                return await work(connection)

    async def _configure(self, connection: AsyncConnection[Any]) -> None:
        milliseconds = str(round(self._statement_timeout * 1000))
        await connection.execute(
            "SELECT set_config('TimeZone', 'UTC', false),"
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
    except _CONFLICTS:
        raise
    except _UNAVAILABLE as error:
        raise DatabaseUnavailableError(_reason(error)) from error


def _reason(error: psycopg.Error) -> str:
    said = " ".join(str(error).split())
    return f"Postgres is not available: {said or type(error).__name__}"

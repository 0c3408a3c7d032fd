"""PostgreSQL for tests, from the first place that has one."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, LiteralString
from urllib.parse import urlsplit

import psycopg
from psycopg import sql
from support.containers import docker_answers, postgres_container

from ops.local import EmbeddedPostgres, ServerStartError

POSTGRES_VARIABLE: Final = "MILLSTREAM_TEST_POSTGRES"

# Nothing in a test's database is worth waiting for a disk.
_SETTINGS: Final = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class NoPostgresError(Exception):
    """There is no PostgreSQL to test on; the message says what to install."""


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """A running server.

    Attributes:
        url: The address of a database whose user may create others.
        origin: Where the server comes from, for messages.
    """

    url: str
    origin: str

    def url_of(self, database: str) -> str:
        """Return the address of another database of this server."""
        return urlsplit(self.url)._replace(path=f"/{database}").geturl()

    @contextmanager
    def database(self, template: str = "template0") -> Iterator[str]:
        """Create a database, give its name, and drop it whoever is still connected."""
        name = f"test_{secrets.token_hex(6)}"
        self._execute("CREATE DATABASE {} TEMPLATE {}", name, template)
        try:
            yield name
        finally:
            self._execute("DROP DATABASE IF EXISTS {} WITH (FORCE)", name)

    def _execute(self, statement: LiteralString, *names: str) -> None:
        identifiers = (sql.Identifier(name) for name in names)
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(*identifiers))


@contextmanager
def real_postgres(folder: Path) -> Iterator[PostgresServer]:
    """Give PostgreSQL: that of MILLSTREAM_TEST_POSTGRES, else a container, else the wheel's.

    Raises:
        NoPostgresError: None of them can be had.
    """
    url = os.environ.get(POSTGRES_VARIABLE)
    if url:
        yield PostgresServer(url, origin=POSTGRES_VARIABLE)
        return
    if docker_answers():
        with postgres_container(_SETTINGS) as url:
            yield PostgresServer(url, origin="container")
        return
    try:
        server = EmbeddedPostgres(folder, settings=_SETTINGS)
    except ServerStartError as error:
        raise NoPostgresError(f"no {POSTGRES_VARIABLE}, no Docker daemon, and {error}") from error
    try:
        server.start()
        yield PostgresServer(server.url, origin="embedded")
    finally:
        server.remove()

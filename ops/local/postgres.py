"""PostgreSQL from a wheel, as a child process."""

import os
import secrets
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from ops.local.ports import LOOPBACK, free_port
from ops.local.postgres_files import PostgresFiles
from ops.local.process import LocalProcess

SUPERUSER: Final = "postgres"

_COMMAND_SECONDS: Final = 60
_INITDB_OPTIONS: Final = (
    "--encoding=UTF8",
    # PostgreSQL's own locale: it sorts and folds case alike on every platform.
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--locale=C",
    "--auth=scram-sha-256",
    # The password is 192 random bits, so there is nothing that slow hashing would protect; and
    # tests connect often.
    "--set=scram_iterations=1",
)


class EmbeddedPostgres(LocalProcess):
    """A PostgreSQL server of our own; its data outlives it, and ``remove`` deletes them.

    It listens on the loopback interface only, and asks for a password that was made with the data.

    Args:
        folder: Where its log, its password and (if the server's user can reach it) its data go.
        port: The loopback port to listen on; None for a free one.
        settings: Server settings, such as ``{"fsync": "off"}`` where losing data is fine; without
            any it is as durable as PostgreSQL is.
    """

    def __init__(
        self, folder: Path, port: int | None = None, *, settings: Mapping[str, str] | None = None
    ) -> None:
        self.port = port if port is not None else free_port()
        self._settings = dict(settings or {})
        self._files = PostgresFiles.locate(folder)
        self._password_file = folder / "password"
        options = {
            "listen_addresses": LOOPBACK,
            "port": str(self.port),
            "unix_socket_directories": "",
            **self._settings,
        }
        super().__init__(
            "PostgreSQL",
            [
                str(self._files.program("postgres")),
                *("-D", str(self._files.data)),
                *(f"--{name.replace('_', '-')}={value}" for name, value in options.items()),
            ],
            folder=folder,
            port=self.port,
            environment=_environment(),
            user=self._files.user,
            ready=self._accepts_connections,
            # What it must write again after a crash may take a while.
            start_timeout=60.0,
            # "Fast": ends open sessions instead of waiting for them.
            stop_signal=signal.SIGINT,
            hint="Another folder or port may help; the server's messages say more.",
        )

    @property
    def url(self) -> str:
        """The address of the database ``postgres``, with the superuser's password."""
        return self.database_url("postgres")

    @property
    def data_folder(self) -> Path:
        """Where the data really are."""
        return self._files.data

    def database_url(self, database: str) -> str:
        """Return the address of a database of this server, with the superuser's password."""
        return f"postgresql://{SUPERUSER}:{self._password()}@{LOOPBACK}:{self.port}/{database}"

    def start(self) -> None:
        """Make the data folder the first time, start and wait until connections are accepted."""
        self._files.prepare()
        if not (self._files.data / "PG_VERSION").exists():
            self._initialise()
        super().start()

    def restart(self, *, immediate: bool = False) -> None:
        """Stop the server and start it again.

        Args:
            immediate: Break off without writing anything, as on a loss of power; the start then
                recovers from the write-ahead log.
        """
        self._end(signal.SIGQUIT if immediate else signal.SIGINT)
        self.start()

    def create_database(self, name: str, template: str | None = None) -> str:
        """Create a database, as a copy of ``template`` if given, and return its address.

        Raises:
            RuntimeError: The server refuses it; the message is the server's.
        """
        arguments = ["--template", template] if template is not None else []
        self._client("createdb", *arguments, name)
        return self.database_url(name)

    def remove(self) -> None:
        """Stop the server and delete its data."""
        self.stop()
        self._files.remove()
        self._password_file.unlink(missing_ok=True)

    def _initialise(self) -> None:
        password = secrets.token_urlsafe(24)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._password_file.touch(mode=0o600)
        self._password_file.write_text(password)
        durable = self._settings.get("fsync", "on") != "off"
        with self._files.lent(password) as lent, self.open_log() as log:
            result = subprocess.run(  # noqa: S603 - the command is ours, no shell
                [
                    *(str(self._files.program("initdb")), "-D", str(self._files.data)),
                    *(f"--username={SUPERUSER}", f"--pwfile={lent}", *_INITDB_OPTIONS),
                    *(() if durable else ("--no-sync",)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd="/",
                env=_environment(),
                timeout=_COMMAND_SECONDS,
                check=False,
                user=self._files.user,
                group=self._files.group,
                extra_groups=None if self._files.user is None else (),
            )
        if result.returncode:
            raise self.start_error("could not make its data folder")

    def _accepts_connections(self) -> bool:
        # pg_isready speaks the protocol: while the server recovers it says no.
        try:
            self._client("pg_isready", "--quiet", "--timeout=1")
        except RuntimeError:
            return False
        return True

    def _client(self, program: str, *arguments: str) -> None:
        result = subprocess.run(  # noqa: S603 - the command is ours, no shell
            [
                *(str(self._files.program(program)), f"--host={LOOPBACK}", f"--port={self.port}"),
                *(f"--username={SUPERUSER}", *arguments),
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env={**_environment(), "PGPASSWORD": self._password()},
            timeout=_COMMAND_SECONDS,
            check=False,
        )
        if result.returncode:
            raise RuntimeError(result.stderr.strip() or f"{program}: status {result.returncode}")

    def _password(self) -> str:
        return self._password_file.read_text()


def _environment() -> dict[str, str]:
    """Return an environment without PG* variables, which would redirect server and clients."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}

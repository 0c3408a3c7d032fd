"""``stack.json``: what a running stack says of itself, so that other commands find it.

It holds the ``MILLSTREAM_*`` variables that the stack gave to its own processes. A command takes
those that its own environment does not set.
"""

import os
from pathlib import Path
from typing import Final, Self
from urllib.parse import urlsplit

import psutil
from pydantic import BaseModel, ConfigDict, ValidationError

_FILE: Final = "stack.json"


class Part(BaseModel):
    """One server or process of a stack."""

    model_config = ConfigDict(frozen=True)

    name: str
    address: str | None = None
    """Where clients reach it, without credentials."""
    pid: int | None = None
    """``None`` for a server that the stack uses and did not start."""
    log: Path | None = None
    """Where it writes what it has to say."""


class RunningStack(BaseModel):
    """A stack in the foreground of some terminal."""

    model_config = ConfigDict(frozen=True)

    pid: int
    """The process that owns it."""
    created: float
    """When that process began, in seconds since the epoch: tells it from a later namesake."""
    state: Path
    environment: dict[str, str]
    """The ``MILLSTREAM_*`` variables of its processes, passwords included."""
    parts: tuple[Part, ...]

    @classmethod
    def of_this_process(
        cls, state: Path, environment: dict[str, str], parts: tuple[Part, ...]
    ) -> Self:
        """The record of a stack that this process owns."""
        return cls(
            pid=os.getpid(),
            created=psutil.Process().create_time(),
            state=state,
            environment=environment,
            parts=parts,
        )

    @property
    def is_alive(self) -> bool:
        """Whether the owner still runs; a stack that was killed leaves its file behind."""
        try:
            return abs(psutil.Process(self.pid).create_time() - self.created) < 1.0
        except psutil.NoSuchProcess:
            return False

    def publish(self) -> None:
        """Write the file; only this user may read it."""
        self.state.mkdir(parents=True, exist_ok=True)
        draft = self.state / f"{_FILE}.new"
        draft.touch(mode=0o600)
        draft.write_text(self.model_dump_json(indent=2), encoding="utf-8")
        draft.replace(self.state / _FILE)

    def withdraw(self) -> None:
        """Remove the file, unless another stack has written it since."""
        current = read_stack(self.state)
        if current is not None and current.pid == self.pid:
            (self.state / _FILE).unlink(missing_ok=True)


def read_stack(state: Path) -> RunningStack | None:
    """The stack that runs on the folder ``state``; a file that nobody stands behind is ignored."""
    try:
        stack = RunningStack.model_validate_json((state / _FILE).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None
    return stack if stack.is_alive else None


def without_credentials(url: str) -> str:
    """``host:port/database`` of a database's address, fit to be shown."""
    parts = urlsplit(url)
    return f"{parts.hostname or 'localhost'}:{parts.port or 5432}{parts.path}"

"""Secrets: what the catalogue and parameters name as ``${secret:NAME}`` and never hold.

Only an executor reveals one, at the moment in which it needs it; what was revealed is struck out
of logs, results and errors (:mod:`agents.runtime.redaction`). The places that have secrets stand
behind :class:`~agents.runtime.ports.SecretsPort`: here a folder with a file for each, as Kubernetes
and Docker mount them, and the environment. They are asked anew each time, so a changed secret needs
no restart.
"""

import asyncio
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pydantic import JsonValue

from agents.runtime.errors import MillstreamError, PermanentError
from agents.runtime.ports import SecretsPort
from agents.runtime.references import SECRET
from agents.runtime.revealed import KNOWN, SHORTEST
from agents.runtime.settings import SECRET_PREFIX, Settings

_LARGEST_FILE: Final = 64 * 1024

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,62}", re.ASCII)


class NoSecretError(PermanentError):
    """No place has a secret of that name, or what it has cannot be one."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, code="configuration")


def secrets_in(value: JsonValue) -> frozenset[str]:
    """The names of the secrets that the texts in ``value`` refer to, however deep."""
    return frozenset(_names(value))


def _names(value: JsonValue) -> Iterator[str]:
    if isinstance(value, str):
        yield from SECRET.findall(value)
    elif isinstance(value, list):
        for item in value:
            yield from _names(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _names(item)


@dataclass(frozen=True, slots=True)
class EnvironmentSecrets:
    """Secrets in variables: ``notify_webhook`` in ``MILLSTREAM_SECRET_NOTIFY_WEBHOOK``."""

    environ: Mapping[str, str] = field(repr=False)

    async def fetch(self, name: str) -> str | None:
        """The variable's value."""
        return self.environ.get(SECRET_PREFIX + name.upper())


@dataclass(frozen=True, slots=True)
class FileSecrets:
    """Secrets in files of one folder, each under its name; a line end at the end does not count."""

    folder: Path

    async def fetch(self, name: str) -> str | None:
        """The file's text.

        Raises:
            NoSecretError: There is something of that name, but no readable text.
        """
        return await asyncio.to_thread(self._read, name)

    def _read(self, name: str) -> str | None:
        if not _NAME.fullmatch(name):
            raise NoSecretError(f"{name!r} names no secret")
        try:
            with (self.folder / name).open("rb") as file:
                content = file.read(_LARGEST_FILE + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise NoSecretError(f"secret {name!r} cannot be read: {error.strerror}") from error
        if len(content) > _LARGEST_FILE:
            raise NoSecretError(f"secret {name!r} has more than {_LARGEST_FILE} bytes")
        try:
            return content.decode().removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError:
            raise NoSecretError(f"secret {name!r} is no text") from None


class Secrets:
    """The places that have secrets, asked in their order."""

    def __init__(self, sources: Collection[SecretsPort]) -> None:
        self._sources = sources

    async def reveal(self, names: Iterable[str]) -> dict[str, str]:
        """The secrets of these names; from now on they are struck out of what people read.

        Raises:
            NoSecretError: One is nowhere, or cannot be one.
            TransientError: A place does not answer.
        """
        return {name: await self._reveal(name) for name in names}

    async def missing(self, names: Iterable[str]) -> dict[str, str]:
        """Which of these cannot be had, and why."""
        reasons: dict[str, str] = {}
        for name in names:
            try:
                await self._reveal(name)
            except MillstreamError as error:
                reasons[name] = error.reason
        return reasons

    async def _reveal(self, name: str) -> str:
        for source in self._sources:
            value = await source.fetch(name)
            if value is None:
                continue
            if len(value) < SHORTEST:
                raise NoSecretError(f"secret {name!r} has fewer than {SHORTEST} characters")
            KNOWN.learn(value)
            return value
        raise NoSecretError(
            f"there is no secret {name!r}: neither the variable {SECRET_PREFIX}{name.upper()} nor "
            "a file of that name in MILLSTREAM_SECRETS_DIR"
        )


def open_secrets(settings: Settings, environ: Mapping[str, str] | None = None) -> Secrets:
    """The secrets of a deployment: files where the settings name a folder, then variables."""
    sources: list[SecretsPort] = [EnvironmentSecrets(os.environ if environ is None else environ)]
    if settings.secrets_dir is not None:
        sources.insert(0, FileSecrets(settings.secrets_dir))
    return Secrets(sources)

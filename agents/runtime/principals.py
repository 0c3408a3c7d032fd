"""Who may issue commands: the people of a deployment, their groups and their public keys.

The file names each person once::

    principals:
      ann:
        groups: [sre]
        keys: ["ed25519:…"]     # `millstream approvals make-key` prints it

It holds no secret. A key that stands under two names is refused, since one person could then
count as two. The file is read again when it has changed, so that a key that is lost can be taken
out at once; a change that breaks the file is reported, and what was read before stays.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Protocol

import structlog
from pydantic import AfterValidator, Field

from agents.runtime.declarations import Declaration, DeclarationError, Document, wrong_value
from agents.runtime.ports import Refusal
from agents.runtime.signing import PublicKey
from schemas import AgentMessage, Command, is_same_person
from schemas.base import Name

_log: Final = structlog.get_logger(__name__)


def _is_key(text: str) -> str:
    try:
        PublicKey(text)
    except ValueError:
        # What stands there is not repeated: it could be a private key.
        raise wrong_value(
            "it is no public key", "ed25519: and a public key of 32 bytes in base64"
        ) from None
    return text


_KeyText = Annotated[str, AfterValidator(_is_key)]


class PrincipalDeclaration(Declaration):
    """A person."""

    groups: tuple[Name, ...] = ()
    """The groups that the person belongs to"""
    keys: Annotated[tuple[_KeyText, ...], Field(min_length=1)]
    """A list of public keys, any of which may have signed"""


class PrincipalsFile(Declaration):
    """The root of the file."""

    principals: dict[Name, PrincipalDeclaration]
    """The people by name"""


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who may issue commands."""

    groups: tuple[str, ...]
    keys: tuple[PublicKey, ...]


@dataclass(frozen=True, slots=True)
class Issuer:
    """Who stands behind a command, as far as it could be found out."""

    name: str
    groups: tuple[str, ...]
    is_signed: bool


class Identifies(Protocol):
    """Whoever can tell from whom a command is."""

    def identify(self, message: AgentMessage[Command]) -> Issuer | Refusal:
        """Who issued a command, or why that cannot be said."""
        ...


@dataclass(frozen=True, slots=True)
class Principals:
    """Everybody who is known.

    Args:
        by_name: Who they are; empty where the deployment has no list.
        trusts_unsigned: Whether a command without a signature is from whom it says.
    """

    by_name: Mapping[str, Principal] = field(default_factory=dict)
    trusts_unsigned: bool = False

    def identify(self, message: AgentMessage[Command]) -> Issuer | Refusal:
        """Who issued a command, or why that cannot be said.

        A signature that is there must be right, whether it is needed or not.
        """
        command = message.payload
        name = command.issued_by
        principal = self.by_name.get(name)
        if command.signature is None and not self.trusts_unsigned:
            return Refusal("unsigned", f"the command carries no signature by {name}")
        if principal is None and (self.by_name or command.signature is not None):
            return Refusal("unknown_principal", f"nobody is known as {name}")
        if command.signature is None or principal is None:
            return Issuer(name, principal.groups if principal else (), is_signed=False)
        if not any(key.has_signed(message) for key in principal.keys):
            return Refusal(
                "invalid_signature",
                f"no key of {name} has signed this command for this execution",
            )
        return Issuer(name, principal.groups, is_signed=True)


class PrincipalsFromFile:
    """Who is known by a file as it stands; without a file nobody is.

    Args:
        file: The list of principals.
        trusts_unsigned: See :class:`Principals`.

    Raises:
        DeclarationError: The file has problems; all of them are named, with their lines.
    """

    def __init__(self, file: Path | None, *, trusts_unsigned: bool = False) -> None:
        self._file = file
        self._seen = _mark_of(file)
        self._principals = (
            Principals(trusts_unsigned=trusts_unsigned)
            if file is None
            else load_principals(file, trusts_unsigned=trusts_unsigned)
        )

    def identify(self, message: AgentMessage[Command]) -> Issuer | Refusal:
        """See :meth:`Principals.identify`."""
        mark = _mark_of(self._file)
        if self._file is not None and mark != self._seen:
            self._seen = mark
            try:
                self._principals = load_principals(
                    self._file, trusts_unsigned=self._principals.trusts_unsigned
                )
            except DeclarationError as error:
                _log.error("principals_not_read", reason=error.reason)
            else:
                _log.info("principals_read", people=len(self._principals.by_name))
        return self._principals.identify(message)


def _mark_of(file: Path | None) -> tuple[int, int, int] | None:
    """What is another one when the file is; a file that is gone is as it was."""
    try:
        state = file.stat() if file is not None else None
    except OSError:
        return None
    return None if state is None else (state.st_ino, state.st_mtime_ns, state.st_size)


def load_principals(file: Path, *, trusts_unsigned: bool = False) -> Principals:
    """Read and check a list of principals.

    Raises:
        DeclarationError: The file has problems; all of them are named, with their lines.
    """
    document = Document(file, PrincipalsFile)
    sound = document.sound()
    by_name: dict[str, Principal] = {}
    owners: dict[str, str] = {}
    for name, declared in ({} if sound is None else sound.principals).items():
        if twin := next((each for each in by_name if is_same_person(each, name)), None):
            document.report(("principals", name), f"it is {twin} once more", "each person once")
        for index, text in enumerate(declared.keys):
            if (owner := owners.setdefault(text, name)) != name:
                document.report(
                    ("principals", name, "keys", index),
                    f"the key is {owner}'s",
                    "a key of their own for each person",
                )
        by_name[name] = Principal(declared.groups, tuple(map(PublicKey, declared.keys)))
    document.close(sound)
    return Principals(by_name, trusts_unsigned)

"""Signatures of commands: Ed25519 (RFC 8032) over canonical JSON (RFC 8785).

What is signed is the canonical form of this object, so that a signature is worth nothing on
another execution, another lane, another plan or in another message::

    {
      "purpose": "millstream.command.v1",
      "lane": "",                                the envelope's lane, tenant and ids as text
      "tenant": "default",
      "correlation_id": "…",
      "message_id": "…",
      "command": {"kind": "approve", …}          the payload as JSON, without its signature and
    }                                            without fields that are null

Sent again as it is, a command is the same message, which the router knows by its id. Roles hold
public keys only; a private key is read by whoever signs, and by nobody else.
"""

import base64
import os
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from agents.runtime.errors import ConfigurationError
from schemas import AgentMessage, Command, canonical_json

PURPOSE: Final = "millstream.command.v1"
_PREFIX: Final = "ed25519:"


class PublicKey:
    """What a signature is checked with.

    Args:
        text: ``ed25519:`` and the 32 bytes of the key in base64.

    Raises:
        ValueError: It is no such text.
    """

    def __init__(self, text: str) -> None:
        raw = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
        self._key = Ed25519PublicKey.from_public_bytes(raw)

    def __str__(self) -> str:
        return _PREFIX + base64.b64encode(self._key.public_bytes_raw()).decode()

    def has_signed(self, message: AgentMessage[Command]) -> bool:
        """Whether the command carries a signature by this key over itself."""
        signature = message.payload.signature
        if signature is None:
            return False
        try:
            raw = base64.b64decode(signature.removeprefix(_PREFIX), validate=True)
            self._key.verify(raw, signed_bytes(message))
        except (InvalidSignature, ValueError):
            return False
        return True


class SigningKey:
    """A private key; it shows nothing of itself."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def generate(cls) -> "SigningKey":
        """A new one."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def read(cls, file: Path) -> "SigningKey":
        """The key in a PEM file (PKCS 8), as :meth:`write` or ``openssl genpkey`` make it.

        Raises:
            ConfigurationError: There is none; the reason says nothing of the content.
        """
        try:
            key = load_pem_private_key(file.read_bytes(), password=None)
        except OSError as error:
            raise ConfigurationError(
                f"the signing key {file} cannot be read: {error.strerror}"
            ) from None
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise ConfigurationError(
                f"the signing key {file} is no unencrypted private key in PEM form; make one with "
                "`millstream approvals make-key`"
            ) from None
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigurationError(f"the signing key {file} is none of Ed25519")
        return cls(key)

    def write(self, file: Path) -> None:
        """Keep it in a new file that only its owner may read.

        Raises:
            ConfigurationError: The file exists, or cannot be made.
        """
        pem = self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        try:
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise ConfigurationError(f"{file} exists already; keys are not overwritten") from None
        except OSError as error:
            raise ConfigurationError(f"cannot make {file}: {error.strerror}") from None
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(pem)

    @property
    def public(self) -> PublicKey:
        """What others check its signatures with."""
        raw = self._key.public_key().public_bytes_raw()
        return PublicKey(_PREFIX + base64.b64encode(raw).decode())

    def sign(self, message: AgentMessage[Command]) -> AgentMessage[Command]:
        """The same message with a signature over it."""
        signature = base64.b64encode(self._key.sign(signed_bytes(message))).decode()
        payload = message.payload.replace(signature=_PREFIX + signature)
        return message.replace(payload=payload)


def signed_bytes(message: AgentMessage[Command]) -> bytes:
    """What the signature of a command covers; see the module's description."""
    command = message.payload.model_dump(mode="json", exclude={"signature"}, exclude_none=True)
    return canonical_json(
        {
            "purpose": PURPOSE,
            "lane": message.lane,
            "tenant": message.tenant,
            "correlation_id": str(message.correlation_id),
            "message_id": str(message.message_id),
            "command": command,
        }
    )

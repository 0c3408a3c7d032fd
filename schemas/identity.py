"""Deterministic ids: the same input always yields the same id, so redelivery changes nothing.

All derived ids are version 5 UUIDs (RFC 9562, section 5.5) under namespaces of our own. A part is
separated from the next by a character that no part can contain, so no two inputs meet.
"""

import hashlib
from typing import Final
from uuid import UUID, uuid5

_ROOT: Final = UUID("6f1a2c1e-5d0a-5b6e-9a35-4d696c6c7374")
_MESSAGE: Final = uuid5(_ROOT, "message")
_INTAKE: Final = uuid5(_ROOT, "intake")
_EXECUTION: Final = uuid5(_ROOT, "execution")
_EXTERNAL: Final = uuid5(_ROOT, "external")
_SEPARATOR: Final = "\x1f"


def _derive(namespace: UUID, *parts: str) -> UUID:
    """``uuid5(namespace, ...)``, without the detours that the standard library's takes."""
    name = _SEPARATOR.join(parts).encode()
    digest = hashlib.sha1(namespace.bytes + name, usedforsecurity=False).digest()
    return UUID(bytes=digest[:16], version=5)


def derive_message_id(
    *, lane: str, correlation_id: UUID, role: str, cause: UUID | str, index: int
) -> UUID:
    """The id of the ``index``-th message that ``role`` writes because of ``cause``.

    ``cause`` is the id of the message that was handled, or a text such as ``timer:7`` where a
    role acts by itself.
    """
    return _derive(_MESSAGE, lane, str(correlation_id), role, str(cause), str(index))


def derive_intake_message_id(
    *, topic: str, partition: int, offset: int, timestamp_ms: int, value: bytes
) -> UUID:
    """The id of a request that came without one.

    The record's time and the digest of its value are part of it, so that a topic that was made
    anew does not repeat the ids of its predecessor.
    """
    digest = hashlib.sha256(value).hexdigest()
    return _derive(_INTAKE, topic, str(partition), str(offset), str(timestamp_ms), digest)


def derive_correlation_id(*, tenant: str, message_id: UUID) -> UUID:
    """The execution of a request that names none."""
    return _derive(_EXECUTION, tenant, str(message_id))


def uuid_of(external_id: str, *, tenant: str) -> UUID:
    """The UUID of an id that a requester brought, such as ``abc-123``.

    A UUID in its canonical textual form is taken as it is.
    """
    try:
        parsed = UUID(external_id)
    except ValueError:
        return _derive(_EXTERNAL, tenant, external_id)
    return parsed if str(parsed) == external_id.lower() else _derive(_EXTERNAL, tenant, external_id)

"""``millstream cancel``, ``pause``, ``resume`` and ``retry``."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal
from uuid import UUID

from psycopg import Connection

from agents.runtime.commands import Address, Speaker, make_command
from agents.runtime.database import translated_errors
from agents.runtime.queries import load_queries
from agents.runtime.settings import Settings
from ops.answers import show_answer
from ops.approvals import send, speaker_of, wait_for_answer
from ops.history import History, UnknownExecutionError, connected
from ops.keys import login
from schemas import CommandAnswer

Order = Literal["cancel", "pause", "resume", "retry"]

_SQL: Final = load_queries(Path(__file__).with_suffix(".sql"))


def run(
    settings: Settings,
    order: Order,
    given: str,
    *,
    by: str | None,
    key: Path | None,
    reason: str | None,
    timeout: float,
    as_json: bool,
) -> int:
    """Give the router an order about what ``given`` means, and say what it answered.

    Returns:
        The exit code: 0 when it was taken, 1 when it was refused, 3 when no answer came.

    Raises:
        MillstreamError: There is no such execution or no key, or something cannot be reached.
    """
    speaker = speaker_of(settings, by or login(), key)
    with connected(settings) as connection:
        about = address_of(connection, given, lane=settings.lane)
        return show_answer(
            about.correlation_id,
            lambda: command(
                settings, connection, order, about, speaker, reason=reason, timeout=timeout
            ),
            as_json=as_json,
        )


def command(
    settings: Settings,
    connection: Connection[Any],
    order: Order,
    about: Address,
    speaker: Speaker,
    *,
    reason: str | None = None,
    timeout: float = 30.0,
) -> CommandAnswer:
    """Send an order, and wait for the router's answer.

    Args:
        settings: Where the broker is, and which lane.
        connection: The database with history.
        order: What is to be done.
        about: The execution.
        speaker: Who says so.
        reason: Why, in words that everybody may read.
        timeout: Seconds to wait for the answer.

    Raises:
        InvalidMessageError: The reason breaks the contract of the topic.
        KafkaUnavailableError: No broker answers.
        NoAnswerError: The router has not answered in time.
    """
    message = make_command(order, about, speaker, now=datetime.now(UTC), reason=reason)
    send(settings, [message])
    return wait_for_answer(connection, message, timeout=timeout)


def address_of(connection: Connection[Any], given: str, *, lane: str) -> Address:
    """Where a command about the execution goes that ``given`` means.

    Raises:
        UnknownExecutionError: There is none, or several fit.
    """
    execution = History(connection, lane=lane).find(given)
    rows = _fetch(connection, lane, execution)
    if not rows:
        raise UnknownExecutionError(f"history holds no execution {execution} any more")
    tenant, received_at, external_id = rows[0]
    return Address(lane, execution, tenant, received_at, external_id)


def _fetch(connection: Connection[Any], lane: str, execution: UUID) -> Sequence[tuple[Any, ...]]:
    with translated_errors():
        return connection.execute(
            _SQL["address"], {"lane": lane, "correlation_id": execution}
        ).fetchall()

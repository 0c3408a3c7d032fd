"""Approving and rejecting: what waits for it, the command, and the router's answer.

Plain functions, which the command line and the demo use.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal
from uuid import UUID

from psycopg import Connection
from pydantic import BaseModel, ConfigDict

from agents.routing.run import Run
from agents.runtime.codec import encode
from agents.runtime.commands import COMMANDS_TOPIC, Address, Speaker, make_command
from agents.runtime.database import translated_errors
from agents.runtime.errors import ConfigurationError, MillstreamError
from agents.runtime.host import kafka_config
from agents.runtime.kafka import Producer
from agents.runtime.queries import load_queries
from agents.runtime.settings import Settings
from agents.runtime.signing import SigningKey
from ops.history import History, UnknownExecutionError
from ops.redriving import check_broker
from schemas import (
    AgentMessage,
    ApprovalRequest,
    Command,
    CommandAnswer,
    ExecutionStatus,
    Obligation,
    PlanStep,
    remaining,
)

_SQL: Final = load_queries(Path(__file__).with_suffix(".sql"))
_POLL_SECONDS: Final = 0.05
Decision = Literal["approve", "reject"]


class NoAnswerError(MillstreamError):
    """The router has not answered a command in time; it may still do so."""

    default_code = "deadline_exceeded"


class Pending(BaseModel):
    """An execution with the plan that somebody is to approve, or was."""

    model_config = ConfigDict(frozen=True)

    correlation_id: UUID
    external_id: str | None
    tenant: str
    received_at: datetime
    status: str
    title: str | None
    requester: str
    reason: str | None
    plan_hash: str
    steps: tuple[PlanStep, ...]
    approval: ApprovalRequest | None

    @property
    def missing(self) -> tuple[Obligation, ...]:
        """What is still wanted."""
        if self.approval is None:
            return ()
        return remaining(
            self.approval.obligations, self.approval.approvals, requester=self.requester
        )

    def address(self, lane: str) -> Address:
        """Where a command about it goes."""
        return Address(lane, self.correlation_id, self.tenant, self.received_at, self.external_id)


def waiting(connection: Connection[Any], *, lane: str, limit: int = 100) -> list[Pending]:
    """What waits for approval, that which expires first at the top."""
    rows = _fetch(connection, "waiting", lane=lane, limit=limit)
    return [each for row in rows if (each := _pending(*row)) is not None]


def pending(connection: Connection[Any], given: str, *, lane: str) -> Pending:
    """The execution that ``given`` means, with its plan.

    Raises:
        UnknownExecutionError: There is none, several fit, or it has no plan that was judged.
    """
    execution = History(connection, lane=lane).find(given)
    rows = _fetch(connection, "run", lane=lane, correlation_id=execution)
    found = _pending(*rows[0]) if rows else None
    if found is None:
        raise UnknownExecutionError(f"execution {execution} has no plan that anybody could approve")
    return found


def wait_for_approval(
    connection: Connection[Any], execution: UUID, *, lane: str, timeout: float
) -> Pending:
    """The execution, once it waits for approval.

    Raises:
        NoAnswerError: It does not, in that time.
    """
    deadline = time.monotonic() + timeout
    while True:
        rows = _fetch(connection, "run", lane=lane, correlation_id=execution)
        found = _pending(*rows[0]) if rows else None
        if found is not None and found.status == ExecutionStatus.NEEDS_APPROVAL:
            return found
        if time.monotonic() >= deadline:
            stands = "unknown to the router" if found is None else found.status
            raise NoAnswerError(
                f"execution {execution} does not wait for approval after {timeout:g} s; "
                f"it is {stands}"
            )
        time.sleep(_POLL_SECONDS)


def speaker_of(settings: Settings, name: str, key_file: Path | None = None) -> Speaker:
    """Who speaks, with the key that the settings or the caller name.

    Raises:
        ConfigurationError: There is no key although one is needed, or it cannot be read.
    """
    file = key_file or settings.signing_key_file
    if file is not None:
        return Speaker(name, SigningKey.read(file))
    if settings.trust_unsigned_commands:
        return Speaker(name, None)
    raise ConfigurationError(
        "commands are signed, and no key is given: set MILLSTREAM_SIGNING_KEY_FILE or say --key; "
        "make one with `millstream approvals make-key`"
    )


def decide(
    settings: Settings,
    connection: Connection[Any],
    decision: Decision,
    about: Pending,
    speaker: Speaker,
    *,
    reason: str | None = None,
    plan_hash: str | None = None,
    timeout: float = 30.0,
) -> CommandAnswer:
    """Approve or reject, and wait for the router's answer.

    Args:
        settings: Where the broker is, and which lane.
        connection: The database with history.
        decision: Which of both.
        about: The execution, as the speaker has seen it.
        speaker: Who decides.
        reason: Why, in words that everybody may read.
        plan_hash: The plan that the speaker has seen, where that was another moment.
        timeout: Seconds to wait for the answer.

    Raises:
        InvalidMessageError: The reason or the hash breaks the contract of the topic.
        KafkaUnavailableError: No broker answers.
        NoAnswerError: The router has not answered in time.
    """
    message = make_command(
        decision,
        about.address(settings.lane),
        speaker,
        now=datetime.now(UTC),
        reason=reason,
        plan_hash=about.plan_hash if plan_hash is None else plan_hash,
    )
    send(settings, [message])
    return wait_for_answer(connection, message, timeout=timeout)


def send(settings: Settings, messages: Sequence[AgentMessage[Command]]) -> None:
    """Produce commands and return when the broker has confirmed them.

    Raises:
        KafkaUnavailableError: No broker answers; says what to do.
        ConfigurationError: The broker has no topic for commands.
    """
    topic = settings.lane + COMMANDS_TOPIC
    check_broker(settings, [topic])

    async def produce() -> None:
        # A producer that numbers its records begins half a second later; the ids say enough.
        producer = Producer(replace(kafka_config(settings), idempotence=False))
        try:
            await producer.send_all(encode(each, topic, traceparent=None) for each in messages)
        finally:
            await producer.close()

    asyncio.run(produce())


def wait_for_answer(
    connection: Connection[Any], message: AgentMessage[Command], *, timeout: float
) -> CommandAnswer:
    """What the router made of a command, once history knows.

    Raises:
        NoAnswerError: Nothing, in that time.
    """
    deadline = time.monotonic() + timeout
    about = {
        "lane": message.lane,
        "correlation_id": message.correlation_id,
        "message_id": message.message_id,
    }
    while not (rows := _fetch(connection, "answer", **about)):
        if time.monotonic() >= deadline:
            raise NoAnswerError(
                f"the command was sent as message {message.message_id}, and the router has not "
                f"answered after {timeout:g} s; see `millstream show {message.correlation_id}`"
            )
        time.sleep(_POLL_SECONDS)
    return CommandAnswer.model_validate(rows[0][0])


def _fetch(connection: Connection[Any], query: str, **parameters: Any) -> list[tuple[Any, ...]]:
    with translated_errors():
        return connection.execute(_SQL[query], parameters).fetchall()


def _pending(correlation_id: UUID, document: str) -> Pending | None:
    run = Run.model_validate_json(document)
    if run.plan is None:
        return None
    return Pending(
        correlation_id=correlation_id,
        external_id=run.external_id,
        tenant=run.tenant,
        received_at=run.received_at,
        status="new" if run.status is None else run.status.value,
        title=run.title,
        requester=run.plan.requester,
        reason=run.reason,
        plan_hash=run.plan.plan_hash,
        steps=run.plan.steps,
        approval=run.approval,
    )

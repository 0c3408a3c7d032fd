"""Commands as the one who issues them makes them: addressed, identified, signed.

The message id comes from the command's own, so that sending it again is the same message.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID, uuid4

from pydantic import ValidationError

from agents.runtime.codec import invalid
from agents.runtime.signing import SigningKey
from schemas import AgentMessage, Command, JsonObject, compose
from schemas.command import CommandKind, EffectOutcome
from schemas.identity import derive_message_id

COMMANDS_TOPIC: Final = "millstream.commands.v1"
OPERATOR: Final = "operator"
"""Whom topics.yaml calls a client outside of the pipeline that issues commands."""


@dataclass(frozen=True, slots=True)
class Address:
    """The execution that a command is about, with what all its messages carry."""

    lane: str
    correlation_id: UUID
    tenant: str
    received_at: datetime
    external_id: str | None = None


@dataclass(frozen=True, slots=True)
class Speaker:
    """Who issues commands."""

    name: str
    key: SigningKey | None
    """``None`` where the deployment trusts what is not signed."""


@dataclass(frozen=True, slots=True)
class Said:
    """What somebody says became of an effect that was in doubt."""

    step_id: str
    run_no: int
    outcome: EffectOutcome
    output: JsonObject | None = None


def make_command(
    kind: CommandKind,
    address: Address,
    speaker: Speaker,
    *,
    now: datetime,
    reason: str | None = None,
    plan_hash: str | None = None,
    said: Said | None = None,
    command_id: UUID | None = None,
) -> AgentMessage[Command]:
    """A command in its envelope, signed where the speaker has a key.

    Args:
        kind: What is to be done.
        address: The execution.
        speaker: Who says so.
        now: When.
        reason: Why, in words that everybody may read.
        plan_hash: For ``approve`` and ``reject``: the plan that the speaker has seen.
        said: For ``resolve``: what became of the effect.
        command_id: An id of the caller's own; the same id is the same command.

    Raises:
        InvalidMessageError: A value breaks the contract of the topic.
    """
    try:
        command = Command(
            kind=kind,
            issued_by=speaker.name,
            reason=reason,
            plan_hash=plan_hash,
            step_id=None if said is None else said.step_id,
            run_no=None if said is None else said.run_no,
            outcome=None if said is None else said.outcome,
            output=None if said is None else said.output,
            command_id=uuid4() if command_id is None else command_id,
        )
    except ValidationError as error:
        raise invalid(error) from None
    message: AgentMessage[Command] = compose(
        command,
        message_id=derive_message_id(
            lane=address.lane,
            correlation_id=address.correlation_id,
            role=OPERATOR,
            cause=command.command_id,
            index=0,
        ),
        correlation_id=address.correlation_id,
        causation_id=None,
        from_agent=OPERATOR,
        to_agent="router",
        tenant=address.tenant,
        lane=address.lane,
        timestamp=now,
        received_at=address.received_at,
        external_id=address.external_id,
    )
    return message if speaker.key is None else speaker.key.sign(message)

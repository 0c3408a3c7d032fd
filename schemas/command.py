"""What a person tells a running execution."""

from typing import Annotated, ClassVar, Literal
from uuid import UUID

from pydantic import ConfigDict, Field, StringConstraints

from schemas.base import Code, JsonObject, Name, Payload, Sha256, StepId, Text

EffectOutcome = Literal["done", "failed"]
"""``failed`` is for certain without an effect."""

CommandKind = Literal["approve", "reject", "cancel", "pause", "resume", "retry", "resolve"]

Signature = Annotated[str, StringConstraints(pattern=r"^ed25519:[A-Za-z0-9+/]{86}==$")]
"""``ed25519:`` and a signature (RFC 8032) in base64; what it covers says
:mod:`agents.runtime.signing`."""


class Command(Payload):
    """An order to the router about one execution."""

    schema_version: ClassVar[int] = 2

    model_config: ClassVar[ConfigDict] = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "kind": "cancel",
                    "issued_by": "ann",
                    "reason": "the wrong environment",
                    "command_id": "00000000-0000-4000-8000-000000000009",
                }
            ]
        }
    )

    kind: CommandKind
    issued_by: Name
    reason: Text | None = None
    plan_hash: Sha256 | None = None
    """For ``approve`` and ``reject``: the plan that the person saw."""
    step_id: StepId | None = None
    """For ``resolve``: the step whose effect is in doubt."""
    run_no: Annotated[int, Field(ge=1)] | None = None
    """For ``resolve``: the run in which it came to be in doubt, as the person saw."""
    outcome: EffectOutcome | None = None
    """For ``resolve``: what became of the effect."""
    output: JsonObject | None = None
    """For ``resolve``: what the step would have put out, where it was done."""
    command_id: UUID
    signature: Signature | None = None
    """Proves who issued it; without one the router takes it only where the deployment says that
    the topic's access rules can be trusted."""


class CommandAnswer(Payload):
    """What the router made of one command; the command is the message that caused it."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "command_id": "00000000-0000-4000-8000-000000000009",
                    "kind": "approve",
                    "issued_by": "ann",
                    "is_accepted": False,
                    "code": "self_approval",
                    "reason": "ann asked for it; somebody else must approve.",
                }
            ]
        }
    )

    command_id: UUID
    kind: CommandKind
    issued_by: Name
    """Who the command says issued it."""
    is_accepted: bool
    code: Code | None = None
    """Why it was refused."""
    reason: Text | None = None

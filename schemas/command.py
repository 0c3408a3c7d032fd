"""What a person tells a running execution."""

from typing import ClassVar, Literal
from uuid import UUID

from pydantic import ConfigDict

from schemas.base import Name, Payload, Sha256, StepId, Text

CommandKind = Literal["approve", "reject", "cancel", "pause", "resume", "retry", "resolve"]


class Command(Payload):
    """An order to the router about one execution."""

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
    """For ``resolve``: the step whose effect was in doubt."""
    command_id: UUID

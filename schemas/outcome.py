"""How a role before the router ends an execution."""

from typing import Annotated, ClassVar, Literal
from uuid import UUID

from pydantic import ConfigDict, Field

from schemas.base import Code, Name, Payload, Text


class Outcome(Payload):
    """The execution ends here: it failed before it could be judged, or nobody understood it."""

    schema_version: ClassVar[int] = 2

    model_config: ClassVar[ConfigDict] = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "request_id": "00000000-0000-4000-8000-000000000001",
                    "status": "needs_clarification",
                    "code": "needs_clarification",
                    "reason": "In which environment? development, staging or production.",
                    "title": "restart checkout",
                    "requester": "ann",
                }
            ]
        }
    )

    request_id: UUID
    status: Literal["failed", "needs_clarification"]
    code: Code
    reason: Text
    """For ``needs_clarification``, the question to the requester."""
    title: Text | None = None
    requester: Name | None = None
    evaluation: Annotated[int, Field(ge=1)] = 1
    """Which evaluation of the plan failed, where it failed in being judged again."""

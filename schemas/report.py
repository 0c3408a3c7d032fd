"""What the requester gets to read when an execution has ended."""

from typing import Annotated, ClassVar
from uuid import UUID

from pydantic import ConfigDict, Field

from schemas.base import ActionId, Code, JsonObject, Model, Name, Payload, StepId, Text, UtcDatetime
from schemas.plan import CostEstimate
from schemas.state import ExecutionStatus, StepStatus


class TimelineEntry(Model):
    """One step in the order in which the steps ran."""

    step_id: StepId
    action: ActionId
    status: StepStatus
    attempts: Annotated[int, Field(ge=0)]
    started_at: UtcDatetime | None
    finished_at: UtcDatetime | None
    summary: Text
    compensates: StepId | None = None
    """The step that it undid, or was to undo."""


class ExecutionReport(Payload):
    """Summary, timeline, outputs and cost of one run of an execution."""

    schema_version: ClassVar[int] = 2

    model_config: ClassVar[ConfigDict] = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "request_id": "00000000-0000-4000-8000-000000000001",
                    "run_no": 1,
                    "status": "success",
                    "summary": "Success: 1 of 1 step done.",
                    "timeline": [
                        {
                            "step_id": "restart_checkout",
                            "action": "service.restart",
                            "status": "success",
                            "attempts": 1,
                            "started_at": "2026-01-05T09:00:00Z",
                            "finished_at": "2026-01-05T09:00:01Z",
                            "summary": "done",
                        }
                    ],
                    "outputs": {"restart_checkout": {"version": "2.4.0"}},
                    "received_at": "2026-01-05T09:00:00Z",
                    "finished_at": "2026-01-05T09:00:01Z",
                    "duration_seconds": 1,
                }
            ]
        }
    )

    request_id: UUID | None
    run_no: Annotated[int, Field(ge=1)]
    status: ExecutionStatus
    code: Code | None = None
    summary: Text
    title: Text | None = None
    requester: Name | None = None
    timeline: tuple[TimelineEntry, ...] = ()
    outputs: dict[StepId, JsonObject] = Field(default_factory=dict)
    cost: CostEstimate = CostEstimate()
    """What the attempts have cost, those that have failed included."""
    received_at: UtcDatetime
    finished_at: UtcDatetime
    duration_seconds: Annotated[float, Field(ge=0)]
    """From the intake record's broker time to the terminal state."""

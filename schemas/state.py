"""Where an execution stands."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, ClassVar, Literal, Self
from uuid import UUID

from pydantic import ConfigDict, Field

from schemas.approval import ApprovalRequest
from schemas.base import (
    ActionId,
    Code,
    JsonObject,
    Model,
    Name,
    Payload,
    Sha256,
    StepId,
    Text,
    UtcDatetime,
)
from schemas.plan import CostEstimate
from schemas.step import Failure
from schemas.verdict import Decision, Reason, Verdict


class ExecutionStatus(StrEnum):
    """The life of an execution; ``received``, ``parsed`` and ``planned`` are the sink's view."""

    RECEIVED = "received"
    PARSED = "parsed"
    PLANNED = "planned"
    NEEDS_APPROVAL = "needs_approval"
    RUNNING = "running"
    PAUSED = "paused"
    CANCELLING = "cancelling"
    SUCCESS = "success"
    FAILED = "failed"
    DENIED = "denied"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    NEEDS_CLARIFICATION = "needs_clarification"
    UNKNOWN = "unknown"

    @property
    def is_terminal(self) -> bool:
        """Whether the execution has ended; only ``retry`` and ``resolve`` leave such a state."""
        return self in _TERMINAL


_TERMINAL = frozenset(
    {
        ExecutionStatus.SUCCESS,
        ExecutionStatus.FAILED,
        ExecutionStatus.DENIED,
        ExecutionStatus.CANCELLED,
        ExecutionStatus.EXPIRED,
        ExecutionStatus.NEEDS_CLARIFICATION,
        ExecutionStatus.UNKNOWN,
    }
)

StepStatus = Literal[
    "pending", "running", "waiting_retry", "success", "failed", "unknown", "skipped"
]


class StepState(Model):
    """Where one step of an execution stands."""

    step_id: StepId
    action: ActionId
    status: StepStatus
    attempt: Annotated[int, Field(ge=0)] = 0
    """Attempts dispatched so far."""
    output: JsonObject = Field(default_factory=dict)
    failure: Failure | None = None
    started_at: UtcDatetime | None = None
    finished_at: UtcDatetime | None = None
    compensates: StepId | None = None
    """The step that it undoes."""


class Judgement(Model):
    """The verdict that the router accepted, without its plan.

    Under a correlation id that was used twice there may be verdicts on several plans.
    """

    verdict_id: UUID
    """The verdict's message id."""
    evaluation: Annotated[int, Field(ge=1)]
    """The evaluation of the plan that it judges."""
    decision: Decision
    reasons: tuple[Reason, ...] = ()

    @classmethod
    def by(cls, verdict_id: UUID, verdict: Verdict) -> Self:
        """What ``verdict`` decides, whose message id is ``verdict_id``."""
        return cls.of(
            {
                "verdict_id": verdict_id,
                "evaluation": verdict.plan.evaluation,
                "decision": verdict.decision,
                "reasons": verdict.reasons,
            }
        )


class ExecutionState(Payload):
    """One version of an execution's state; readers keep the highest version."""

    schema_version: ClassVar[int] = 3

    model_config: ClassVar[ConfigDict] = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "request_id": "00000000-0000-4000-8000-000000000001",
                    "version": 2,
                    "run_no": 1,
                    "status": "success",
                    "title": "restart checkout in staging",
                    "requester": "ann",
                    "plan_id": "00000000-0000-4000-8000-000000000003",
                    "plan_hash": "719470661d7bcaff37673edac3675fcfc435e78ebf53ab13291e985097f14f5b",
                    "steps": [
                        {
                            "step_id": "restart_checkout",
                            "action": "service.restart",
                            "status": "success",
                            "attempt": 1,
                            "output": {"version": "2.4.0"},
                            "started_at": "2026-01-05T09:00:00Z",
                            "finished_at": "2026-01-05T09:00:01Z",
                        }
                    ],
                    "started_at": "2026-01-05T09:00:00Z",
                    "updated_at": "2026-01-05T09:00:01Z",
                }
            ]
        }
    )

    request_id: UUID | None
    """``None`` for an execution that was cancelled before its request was seen."""
    version: Annotated[int, Field(ge=1)]
    run_no: Annotated[int, Field(ge=1)]
    status: ExecutionStatus
    code: Code | None = None
    reason: Text | None = None
    title: Text | None = None
    requester: Name | None = None
    plan_id: UUID | None = None
    plan_hash: Sha256 | None = None
    judgement: Judgement | None = None
    """The verdict that led to this version; later versions do not repeat it."""
    steps: tuple[StepState, ...] = ()
    cost: CostEstimate = CostEstimate()
    """What the attempts so far cost, those that have failed included."""
    approval: ApprovalRequest | None = None
    """Who must approve and who has, where the execution needed or needs approval."""
    started_at: UtcDatetime
    updated_at: UtcDatetime

    def elapsed_seconds(self, since: datetime) -> float:
        """Seconds from ``since`` to this version."""
        return (self.updated_at - since).total_seconds()

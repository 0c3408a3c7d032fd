"""A step on its way to an executor, and what came of it."""

from datetime import timedelta
from typing import Annotated, ClassVar, Literal, Self
from uuid import UUID

from pydantic import ConfigDict, Field, model_validator

from schemas.base import (
    ActionId,
    Code,
    Identifier,
    JsonObject,
    Model,
    Payload,
    Sha256,
    StepId,
    Text,
    UtcDatetime,
)
from schemas.plan import Effect


class Step(Payload):
    """One attempt at one step; the router has resolved its references."""

    schema_version: ClassVar[int] = 2

    model_config: ClassVar[ConfigDict] = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "request_id": "00000000-0000-4000-8000-000000000001",
                    "plan_id": "00000000-0000-4000-8000-000000000003",
                    "plan_hash": "719470661d7bcaff37673edac3675fcfc435e78ebf53ab13291e985097f14f5b",
                    "run_no": 1,
                    "step_id": "restart_checkout",
                    "action": "service.restart",
                    "executor": "http",
                    "effect": "effect",
                    "parameters": {"service": "checkout", "environment": "staging"},
                    "attempt": 1,
                    "timeout": 30,
                }
            ]
        }
    )

    request_id: UUID
    plan_id: UUID
    """The message id of the plan whose verdict allows this step."""
    plan_hash: Sha256
    run_no: Annotated[int, Field(ge=1)]
    step_id: StepId
    action: ActionId
    executor: Identifier
    effect: Effect
    parameters: JsonObject
    resolved: tuple[Identifier, ...] = ()
    """The parameters that refer to outputs of earlier steps: nobody knew their values when the
    plan was judged, so the executor has them judged."""
    attempt: Annotated[int, Field(ge=1)]
    timeout: Annotated[float, Field(gt=0)]
    """Seconds that this attempt may take."""

    @property
    def time_limit(self) -> timedelta:
        """``timeout`` as a duration."""
        return timedelta(seconds=self.timeout)


class Failure(Model):
    """Why something did not succeed."""

    code: Code
    reason: Text
    retriable: bool = False
    """Whether another attempt may succeed without breaking the promise about effects."""
    retry_after: Annotated[float, Field(ge=0)] | None = None
    """Seconds that the other side asked for."""


class StepResult(Payload):
    """What came of one attempt at one step.

    ``unknown`` means that the effect may or may not have happened; nobody repeats it silently.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "request_id": "00000000-0000-4000-8000-000000000001",
                    "run_no": 1,
                    "step_id": "restart_checkout",
                    "action": "service.restart",
                    "attempt": 1,
                    "status": "failed",
                    "failure": {
                        "code": "transient",
                        "reason": "the service answered 503",
                        "retriable": True,
                        "retry_after": 2,
                    },
                    "started_at": "2026-01-05T09:00:00Z",
                    "finished_at": "2026-01-05T09:00:01Z",
                }
            ]
        }
    )

    request_id: UUID
    run_no: Annotated[int, Field(ge=1)]
    step_id: StepId
    action: ActionId
    attempt: Annotated[int, Field(ge=1)]
    status: Literal["success", "failed", "unknown"]
    output: JsonObject = Field(default_factory=dict)
    failure: Failure | None = None
    started_at: UtcDatetime
    finished_at: UtcDatetime

    @model_validator(mode="after")
    def _a_failure_says_why(self) -> Self:
        if (self.status == "success") == (self.failure is not None):
            raise ValueError("a failure is given exactly when the status is not success")
        return self

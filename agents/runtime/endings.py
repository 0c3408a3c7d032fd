"""How an execution, or a step, ends when its role cannot go on.

Before there is a run, an ``Outcome`` ends the execution. Once there is one only the router ends it,
so a step that nobody could carry out gets a ``StepResult`` that says so.
"""

from datetime import datetime
from typing import Any

from agents.runtime.errors import ErrorCode, MillstreamError, RefusedMessageError
from agents.runtime.outcomes import is_repeatable, sayable
from schemas import (
    AgentMessage,
    ExecutionRequest,
    Failure,
    Intent,
    Outcome,
    Payload,
    Plan,
    Step,
    StepResult,
)


def ending_of(
    message: AgentMessage[Any], error: Exception, *, code: ErrorCode, role: str, now: datetime
) -> Payload | None:
    """What to tell the router; ``None`` where the role cannot say that something ended."""
    if isinstance(error, RefusedMessageError):
        return None
    reason = reason_of(error, role)
    match message.payload:
        case ExecutionRequest() as request:
            return Outcome(
                request_id=message.message_id,
                status="failed",
                code=code,
                reason=reason,
                title=request.text,
                requester=request.requester.user,
            )
        case Intent() | Plan() as payload:
            return Outcome(
                evaluation=payload.evaluation if isinstance(payload, Plan) else 1,
                request_id=payload.request_id,
                status="failed",
                code=code,
                reason=reason,
                title=payload.title,
                requester=payload.requester,
            )
        case Step() as step:
            return StepResult(
                request_id=step.request_id,
                run_no=step.run_no,
                step_id=step.step_id,
                action=step.action,
                attempt=step.attempt,
                # Nobody knows how far it came, and an effect must not be repeated on a guess.
                status="failed" if is_repeatable(step) else "unknown",
                failure=Failure(code=code, reason=reason),
                started_at=now,
                finished_at=now,
            )
        case _:
            return None


def reason_of(error: Exception, role: str) -> str:
    """Why ``role`` cannot go on, as people may read it."""
    return sayable(_reason(error, role))


def _reason(error: Exception, role: str) -> str:
    if isinstance(error, MillstreamError):
        return error.reason
    if isinstance(error, TimeoutError):
        return f"{role} did not answer in time."
    # What a bug says of itself may repeat values that belong nowhere but in the log.
    return f"{role} failed unexpectedly ({type(error).__name__}); the log has the details."

"""What happened in one execution, in the order in which a person wants to read it."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from agents.sink.queries import Event as StoredEvent
from agents.sink.queries import Execution, StepOfExecution
from schemas import ExecutionStatus


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", from_attributes=True)


class Event(_Value):
    """One message of the execution."""

    model_config = ConfigDict(frozen=True, extra="ignore", from_attributes=True)

    message_id: UUID
    causation_id: UUID | None
    message_type: str
    from_agent: str
    timestamp: datetime
    attempt: int
    payload: dict[str, Any]


class Try(_Value):
    """One attempt at a step that has come to an end."""

    attempt: int
    status: str
    started_at: datetime
    finished_at: datetime
    reason: str | None
    """Why it did not succeed."""


class StepLine(_Value):
    """One step, with everything that was tried."""

    step_id: str
    action: str
    status: str
    attempts: int
    parameters: dict[str, Any]
    output: dict[str, Any]
    reason: str | None
    """Why it did not succeed."""
    started_at: datetime | None
    finished_at: datetime | None
    tries: tuple[Try, ...]


class Timeline(_Value):
    """One execution: what was asked, understood, planned, judged, done and reported."""

    correlation_id: UUID
    external_id: str | None
    tenant: str
    requester: str | None
    title: str | None
    status: ExecutionStatus
    run_no: int
    code: str | None
    reason: str | None
    received_at: datetime
    finished_at: datetime | None
    duration_seconds: float | None
    cost: Decimal | None
    """In US dollars."""
    report: str | None
    """The summary that the requester got for this run."""
    steps: tuple[StepLine, ...]
    events: tuple[Event, ...]

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will happen by itself, the report included."""
        return self.status.is_terminal and self.report is not None

    def seconds_at(self, moment: datetime) -> float:
        """Seconds from intake to ``moment``."""
        return max(0.0, (moment - self.received_at).total_seconds())


def make_timeline(
    execution: Execution, steps: Sequence[StepOfExecution], events: Sequence[StoredEvent]
) -> Timeline:
    """A timeline of what history holds of the newest run.

    Args:
        execution: Where it stands.
        steps: Of all its runs.
        events: Each after the one that caused it.
    """
    run_no = execution.run_no
    results = [event.payload for event in events if event.message_type == "StepResult"]
    reports = [event.payload for event in events if event.message_type == "ExecutionReport"]
    tries = _tries([result for result in results if result["run_no"] == run_no])
    summaries = [report["summary"] for report in reports if report["run_no"] == run_no]
    plans = [event.payload for event in events if event.message_type == "Plan"]
    lines = [
        StepLine(
            step_id=step.step_id,
            action=step.action,
            status=step.status,
            attempts=step.attempt,
            parameters=step.parameters or {},
            output=step.output or {},
            reason=(step.failure or {}).get("reason"),
            started_at=step.started_at,
            finished_at=step.finished_at,
            tries=tries.get(step.step_id, ()),
        )
        for step in steps
        if step.run_no == run_no
    ]
    planned = [step["step_id"] for step in plans[-1]["steps"]] if plans else []
    return Timeline(
        **{name: getattr(execution, name) for name in _COPIED},
        status=ExecutionStatus(execution.status),
        report=summaries[-1] if summaries else None,
        steps=_in_order(lines, planned),
        events=tuple(Event.model_validate(event) for event in events),
    )


_COPIED = frozenset(Timeline.model_fields) - {"status", "report", "steps", "events"}


def _tries(results: Iterable[dict[str, Any]]) -> dict[str, tuple[Try, ...]]:
    """By step, what was tried."""
    tries: dict[str, dict[int, Try]] = {}
    for result in results:
        tries.setdefault(result["step_id"], {})[result["attempt"]] = Try(
            attempt=result["attempt"],
            status=result["status"],
            started_at=result["started_at"],
            finished_at=result["finished_at"],
            reason=(result.get("failure") or {}).get("reason"),
        )
    return {step: tuple(by_no[no] for no in sorted(by_no)) for step, by_no in tries.items()}


def _in_order(steps: Iterable[StepLine], planned: Sequence[str]) -> tuple[StepLine, ...]:
    """Steps in the order in which they began; those that never did follow as planned."""
    position = {step_id: number for number, step_id in enumerate(planned)}

    def key(step: StepLine) -> tuple[bool, float, int]:
        began = step.started_at
        place = position.get(step.step_id, len(position))
        return (began is None, began.timestamp() if began else 0.0, place)

    return tuple(sorted(steps, key=key))

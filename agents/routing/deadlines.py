"""How long an execution and its steps may take, and what becomes of them when time is up. Pure.

Nothing of it is stored: both limits count from moments that a run knows anyway, so a changed
setting holds for runs that are open, too.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from agents.routing.run import Run
from schemas import ExecutionStatus, Failure, PlanStep, StepResult, StepState

DEADLINE_EXCEEDED: Final = "deadline_exceeded"
"""The code of what ends because its time is up."""
_GRAIN: Final = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Limits:
    """How long something may take that nobody ends."""

    execution: timedelta = timedelta(hours=24)
    """From the router's first look at an execution, or from its retry, until it expires."""
    answer: timedelta = timedelta(hours=1)
    """How long an executor may take beyond a step's own time limit, before the router gives the
    attempt up."""


def next_wakeup(run: Run, limits: Limits) -> datetime | None:
    """When the run wants to be looked at without a message, if at all.

    Deadlines are rounded up to a minute: most moves of a run then leave the ledger's column, and
    the index on it, alone.
    """
    if not run.is_open:
        return None
    due = None if _only_waits_for_steps(run) else run.begun_at + limits.execution
    for _, _, late in _deadlines_of_steps(run, limits):
        if due is None or late < due:
            due = late
    due = None if due is None else due.replace(second=0, microsecond=0) + _GRAIN
    exact = None
    if run.retry_at and run.status is ExecutionStatus.RUNNING:
        exact = min(run.retry_at.values())
    elif run.approval is not None and run.status is ExecutionStatus.NEEDS_APPROVAL:
        exact = run.approval.expires_at
    if due is None or exact is None:
        return due or exact
    return min(due, exact)


def is_over_time(run: Run, now: datetime, limits: Limits) -> bool:
    """Whether the whole execution is to be ended."""
    return not _only_waits_for_steps(run) and run.begun_at + limits.execution <= now


def unanswered(run: Run, now: datetime, limits: Limits) -> Iterator[StepResult]:
    """What is to be thought of attempts that no executor has answered in time."""
    for planned, step, due in _deadlines_of_steps(run, limits):
        if due <= now and run.request_id is not None:
            repeatable = planned.effect != "effect"
            doubt = "" if repeatable else "; whether it took effect is not known"
            yield StepResult(
                request_id=run.request_id,
                run_no=run.run_no,
                step_id=step.step_id,
                action=step.action,
                attempt=step.attempt,
                status="failed" if repeatable else "unknown",
                failure=Failure(
                    code=DEADLINE_EXCEEDED,
                    reason=f"no executor has answered in time{doubt}",
                    retriable=repeatable,
                ),
                started_at=step.started_at or now,
                finished_at=now,
            )


def _deadlines_of_steps(run: Run, limits: Limits) -> Iterator[tuple[PlanStep, StepState, datetime]]:
    """The steps that wait for an executor's answer, each with the moment when that is late."""
    if run.plan is None:
        return
    again = run.asked_again_at
    for planned, step in zip(run.plan.steps, run.steps, strict=True):
        if step.status == "running" and step.started_at is not None:
            asked_at = again.get(step.step_id, step.started_at) if again else step.started_at
            yield planned, step, asked_at + limits.answer + timedelta(seconds=planned.timeout)


def _only_waits_for_steps(run: Run) -> bool:
    """Whether nothing is left to be stopped: each step in flight has a deadline of its own."""
    return run.status is ExecutionStatus.CANCELLING and run.request_id is not None

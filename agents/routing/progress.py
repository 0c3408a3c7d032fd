"""What a run does next: it starts the steps that can start, and ends when nothing is left. Pure."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from agents.routing.deadlines import DEADLINE_EXCEEDED
from agents.routing.run import Run, Stopped
from agents.runtime.errors import PermanentError
from agents.runtime.references import find, resolve
from schemas import (
    ExecutionStatus,
    Failure,
    JsonObject,
    Judgement,
    Plan,
    PlanStep,
    Step,
    StepState,
)

SETTLED: Final = frozenset({"success", "failed", "unknown", "skipped"})
"""Statuses of a step of which nothing more will come."""


@dataclass(frozen=True, slots=True)
class Moved:
    """The next version of a run, and the steps that start because of it."""

    run: Run
    dispatch: tuple[Step, ...] = ()
    judgement: Judgement | None = None
    """The verdict that made it move, if one did."""
    plan: Plan | None = None
    """The plan as it goes back to be judged again, where it does."""


def progress(run: Run, cause: UUID, now: datetime) -> Moved:
    """Dispatch what can start, and end the run when nothing is left to do."""
    dispatch: list[Step] = []
    if run.status is ExecutionStatus.RUNNING and not _has_failed(run):
        run = _dispatch_ready(run, now, dispatch)
    if run.status in (ExecutionStatus.RUNNING, ExecutionStatus.PAUSED) and _has_failed(run):
        run = skip_pending(run)
    return Moved(next_version(_ended(run), cause, now), tuple(dispatch))


def _dispatch_ready(run: Run, now: datetime, dispatch: list[Step]) -> Run:
    if run.plan is None:
        return run
    for planned in run.plan.steps:
        step = run.step(planned.step_id)
        if step is None or not _is_ready(run, planned, step, now):
            continue
        try:
            parameters = {
                name: resolve(value, run.outputs) for name, value in planned.parameters.items()
            }
        except PermanentError as error:
            failure = Failure(code=error.code, reason=error.reason)
            run = run.with_step(step.replace(status="failed", failure=failure))
            break
        attempt = step.attempt + 1
        dispatch.append(_order(run, planned, attempt, parameters))
        retry_at = {name: due for name, due in run.retry_at.items() if name != planned.step_id}
        started = step.replace(status="running", attempt=attempt, started_at=step.started_at or now)
        run = run.with_step(started).replace(retry_at=retry_at)
        if attempt > 1:
            run = run.replace(asked_again_at={**run.asked_again_at, planned.step_id: now})
    return run


def _is_ready(run: Run, planned: PlanStep, step: StepState, now: datetime) -> bool:
    if step.status == "waiting_retry":
        return run.retry_at.get(step.step_id, now) <= now
    outputs = run.outputs
    return step.status == "pending" and all(name in outputs for name in planned.depends_on)


def _order(run: Run, planned: PlanStep, attempt: int, parameters: JsonObject) -> Step:
    if run.request_id is None or run.plan is None or run.plan_id is None:
        raise ValueError("a run without a plan has no steps to dispatch")
    return Step.model_validate(
        {
            "request_id": run.request_id,
            "plan_id": run.plan_id,
            "plan_hash": run.plan.plan_hash,
            "run_no": run.run_no,
            "step_id": planned.step_id,
            "action": planned.action,
            "executor": planned.executor,
            "effect": planned.effect,
            "parameters": parameters,
            "resolved": tuple(name for name, value in planned.parameters.items() if find(value)),
            "attempt": attempt,
            "timeout": planned.timeout,
        }
    )


def _ended(run: Run) -> Run:
    if run.status not in (
        ExecutionStatus.RUNNING,
        ExecutionStatus.PAUSED,
        ExecutionStatus.CANCELLING,
    ) or any(step.status not in SETTLED for step in run.steps):
        return run
    if run.request_id is None:
        return run  # cancelled before its request came
    unknown = next((step for step in run.steps if step.status == "unknown"), None)
    if unknown is not None:
        if run.status is ExecutionStatus.CANCELLING:
            run = run.replace(stopped=Stopped(code=run.code, reason=run.reason))
        return run.moved(ExecutionStatus.UNKNOWN, code="effect_unknown", reason=_why(unknown))
    if run.status is ExecutionStatus.CANCELLING:
        over_time = run.code == DEADLINE_EXCEEDED
        ended = ExecutionStatus.EXPIRED if over_time else ExecutionStatus.CANCELLED
        return run.moved(ended, code=run.code, reason=run.reason)
    failed = next((step for step in run.steps if step.status == "failed"), None)
    if failed is not None:
        return run.moved(ExecutionStatus.FAILED, code="step_failed", reason=_why(failed))
    return run.moved(ExecutionStatus.SUCCESS)


def _why(step: StepState) -> str:
    detail = step.failure.reason if step.failure else "no reason was given"
    return f"step {step.step_id} ({step.action}): {detail}"[:10_000]


def _has_failed(run: Run) -> bool:
    return any(step.status in ("failed", "unknown") for step in run.steps)


def skip_pending(run: Run) -> Run:
    """The run without what has not begun."""
    steps = tuple(
        step.replace(status="skipped") if step.status in ("pending", "waiting_retry") else step
        for step in run.steps
    )
    return run.replace(steps=steps, retry_at={})


def next_version(run: Run, cause: UUID, now: datetime) -> Run:
    """The run as it is written, moved by ``cause``."""
    return run.replace(version=run.version + 1, cause=cause, updated_at=now)

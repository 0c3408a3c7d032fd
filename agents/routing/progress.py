"""What a run does next: it starts the steps that can start, and ends when nothing is left. Pure."""

from datetime import datetime
from uuid import UUID

from agents.routing.deadlines import DEADLINE_EXCEEDED
from agents.routing.events import Moved
from agents.routing.failing import (
    SETTLED,
    first_failed,
    next_to_undo,
    skip_unreachable,
    tolerated,
    wind_up,
)
from agents.routing.run import Run
from agents.runtime.errors import PermanentError
from agents.runtime.references import find, resolve
from schemas import ExecutionStatus, Failure, JsonObject, PlanStep, Step, StepState

_GOING_ON = (ExecutionStatus.RUNNING, ExecutionStatus.PAUSED)


def progress(run: Run, cause: UUID, now: datetime) -> Moved:
    """Dispatch what can start, and end the run when nothing is left to do."""
    dispatch: list[Step] = []
    if run.status is ExecutionStatus.RUNNING and first_failed(run) is None:
        run = _begin_ready(run, now, dispatch)
    if run.status in _GOING_ON and first_failed(run) is not None:
        run = wind_up(run)
        if run.status is ExecutionStatus.RUNNING and (step := next_to_undo(run, now)) is not None:
            run = _begin(run, run.planned(step.step_id), step, now, dispatch)
            run = wind_up(run)  # what it refers to may not be there
    return Moved(next_version(_ended(run), cause, now), tuple(dispatch))


def next_version(run: Run, cause: UUID, now: datetime) -> Run:
    """The run as it is written, moved by ``cause``."""
    return run.replace(version=run.version + 1, cause=cause, updated_at=now)


def _begin_ready(run: Run, now: datetime, dispatch: list[Step]) -> Run:
    done = {step.step_id for step in run.steps if step.status == "success"}
    if failed := tolerated(run):
        run = skip_unreachable(run, failed)
        done |= failed
    for planned, step in list(run.in_pairs()):
        if not _is_ready(run, planned, step, done, now):
            continue
        run = _begin(run, planned, step, now, dispatch)
        if first_failed(run) is not None:
            break
    return run


def _is_ready(run: Run, planned: PlanStep, step: StepState, done: set[str], now: datetime) -> bool:
    if step.status == "waiting_retry":
        return run.retry_at.get(step.step_id, now) <= now
    return step.status == "pending" and done.issuperset(planned.depends_on)


def _begin(
    run: Run, planned: PlanStep, step: StepState, now: datetime, dispatch: list[Step]
) -> Run:
    """The run with the next attempt at a step; or without, where what it refers to is not there."""
    try:
        outputs = run.outputs if planned.depends_on else {}
        parameters = {name: resolve(value, outputs) for name, value in planned.parameters.items()}
    except PermanentError as error:
        failure = Failure(code=error.code, reason=error.reason)
        return run.with_step(step.replace(status="failed", failure=failure, finished_at=now))
    attempt = step.attempt + 1
    dispatch.append(_order(run, planned, attempt, parameters))
    started = step.replace(status="running", attempt=attempt, started_at=step.started_at or now)
    run = run.with_step(started)
    if planned.step_id in run.retry_at:
        retry_at = {name: due for name, due in run.retry_at.items() if name != planned.step_id}
        run = run.replace(retry_at=retry_at)
    if attempt > 1:
        run = run.replace(asked_again_at={**run.asked_again_at, planned.step_id: now})
    return run


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
    is_cancelling = run.status is ExecutionStatus.CANCELLING
    if not (is_cancelling or run.status in _GOING_ON) or any(
        step.status not in SETTLED for step in run.steps
    ):
        return run
    if run.request_id is None:
        return run  # cancelled before its request came
    failed = first_failed(run)
    if failed is not None and failed.status == "unknown":
        run = run.remembering_why()
        return run.moved(ExecutionStatus.UNKNOWN, code="effect_unknown", reason=_why(failed))
    if is_cancelling:
        over_time = run.code == DEADLINE_EXCEEDED
        ended = ExecutionStatus.EXPIRED if over_time else ExecutionStatus.CANCELLED
        return run.moved(ended, code=run.code, reason=run.reason)
    return _succeeded(run) if failed is None else _failed(run, failed)


def _succeeded(run: Run) -> Run:
    allowed = tolerated(run)
    if not allowed:
        return run.moved(ExecutionStatus.SUCCESS)
    whys = (_why(step) for step in run.steps if step.step_id in allowed)
    reason = f"allowed to fail: {'; '.join(whys)}"[:10_000]
    return run.moved(ExecutionStatus.SUCCESS, code="step_failed", reason=reason)


def _failed(run: Run, failed: StepState) -> Run:
    """The end of a run in which a step has failed, with what was undone because of it."""
    undoing = [step for step in run.steps if step.compensates is not None]
    undone = [step.compensates for step in undoing if step.status == "success"]
    stuck = next((step for step in undoing if step.status == "failed"), None)
    code, reason = "step_failed", _why(failed)
    if undoing:
        code = "compensated" if stuck is None else "compensation_failed"
        reason += f"; undone: {', '.join(filter(None, undone)) or 'nothing'}"
    if stuck is not None:
        reason += f"; undoing failed in {_why(stuck)}"
    return run.moved(ExecutionStatus.FAILED, code=code, reason=reason[:10_000])


def _why(step: StepState) -> str:
    detail = step.failure.reason if step.failure else "no reason was given"
    return f"step {step.step_id} ({step.action}): {detail}"[:4_000]

"""Reporter: tells the requester what happened, once an execution has ended.

Consumes ``ExecutionState``; emits an ``ExecutionReport`` for a terminal one.
"""

from agents.runtime import Context, role
from schemas import (
    ExecutionReport,
    ExecutionState,
    ExecutionStatus,
    StepState,
    TimelineEntry,
)


@role("reporter")
async def report(state: ExecutionState, ctx: Context) -> ExecutionReport | None:
    """Summarise a run that has ended; states on the way there are not reported."""
    if not state.status.is_terminal:
        return None
    received_at = ctx.message.received_at
    return ExecutionReport(
        request_id=state.request_id,
        run_no=state.run_no,
        status=state.status,
        code=state.code,
        summary=summarise(state),
        title=state.title,
        requester=state.requester,
        timeline=tuple(
            TimelineEntry(
                step_id=step.step_id,
                action=step.action,
                status=step.status,
                attempts=step.attempt,
                started_at=step.started_at,
                finished_at=step.finished_at,
                compensates=step.compensates,
                summary=_of_step(step),
            )
            for step in sorted(state.steps, key=_by_start)
        ),
        outputs={step.step_id: step.output for step in state.steps if step.output},
        cost=state.cost,
        received_at=received_at,
        finished_at=state.updated_at,
        duration_seconds=max(0.0, state.elapsed_seconds(received_at)),
    )


def summarise(state: ExecutionState) -> str:
    """The whole run in one or two sentences."""
    done = [step.status == "success" for step in state.steps if step.compensates is None]
    total = len(done)
    steps = f"{sum(done)} of {total} step{'' if total == 1 else 's'} done"
    undone = [step.status == "success" for step in state.steps if step.compensates is not None]
    if undone:
        steps += f", {sum(undone)} undone"
    match state.status:
        case ExecutionStatus.SUCCESS:
            return f"Success: {steps}. {state.reason or ''}".strip()
        case ExecutionStatus.NEEDS_CLARIFICATION:
            return f"Not understood well enough to act. {state.reason or ''}".strip()
        case ExecutionStatus.DENIED:
            return f"Denied, nothing was run. {state.reason or ''}".strip()
        case status:
            reason = f" {state.reason}" if state.reason else ""
            counted = f", {steps}" if total else ""
            if status is ExecutionStatus.CANCELLED and not any(s.attempt for s in state.steps):
                counted = " before it began"
            return f"{status.value.capitalize()}{counted}.{reason}"


def _by_start(step: StepState) -> tuple[bool, float]:
    started = step.started_at
    return (started is None, 0.0 if started is None else started.timestamp())


def _of_step(step: StepState) -> str:
    attempts = f" after {step.attempt} attempts" if step.attempt > 1 else ""
    match step.status:
        case "success":
            return f"done{attempts}"
        case "skipped" if step.failure is not None:  # it waited for another attempt
            return f"given up{attempts}: {step.failure.reason}"[:10_000]
        case "skipped" | "pending":
            return "not run"
        case status:
            reason = f": {step.failure.reason}" if step.failure is not None else ""
            return f"{status.replace('_', ' ')}{attempts}{reason}"[:10_000]

"""What comes of the attempts at steps: results are taken, the next attempts planned. Pure."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

from pydantic_core import to_json

from agents.routing.events import Answer
from agents.routing.failing import completed
from agents.routing.progress import progress
from agents.routing.run import Run
from schemas import AgentMessage, ExecutionStatus, Failure, Payload, StepResult, StepState

MAX_OUTPUTS: Final = 1_500_000
"""Bytes that the outputs of all steps of a run may take as JSON: every state carries them."""
LONGEST_RETRY: Final = 3600.0
"""Seconds that a step waits at most for its next attempt, whatever the other side asks for."""
_JITTER: Final = 0.25


def take(
    run: Run, message: AgentMessage[Payload], result: StepResult, now: datetime, jitter: float
) -> Answer:
    """Take the result of an attempt, unless that is over."""
    step = run.step(result.step_id)
    if (
        not run.is_open
        or step is None
        or step.status != "running"
        or (result.run_no, result.attempt) != (run.run_no, step.attempt)
    ):
        return None
    return progress(settled(run, step, result, now, jitter), message.message_id, now)


def take_all(run: Run, results: Iterable[StepResult], now: datetime, jitter: float) -> Run:
    """The run after the ends of several attempts that it waits for."""
    for result in results:
        step = run.step(result.step_id)
        if step is not None:
            run = settled(run, step, result, now, jitter)
    return run


def settled(run: Run, step: StepState, result: StepResult, now: datetime, jitter: float) -> Run:
    """The run after the end of one attempt at ``step``, which may be followed by another."""
    update: dict[str, object] = {
        "status": result.status,
        "output": result.output,
        "failure": result.failure,
        "finished_at": result.finished_at,
    }
    planned = run.planned(step.step_id)
    failure = result.failure
    if result.status == "success":
        run = completed(run, step.step_id)
    if _is_too_much(run, result):
        run = run.replace(done_anyway=(*run.done_anyway, step.step_id))
        update["status"] = "failed"
        update["output"] = {}
        update["failure"] = Failure(
            code="message_too_large",
            reason=f"it was done, but the steps together put out more than {MAX_OUTPUTS} bytes",
        )
    if (
        result.status == "failed"
        and failure is not None
        and failure.retriable
        and step.attempt < planned.retry.max_attempts
        and run.status is not ExecutionStatus.CANCELLING
    ):
        update["status"] = "waiting_retry"
        delay = min(planned.retry.delay_after(step.attempt), LONGEST_RETRY) * (1 + _JITTER * jitter)
        due = now + timedelta(seconds=min(max(delay, failure.retry_after or 0.0), LONGEST_RETRY))
        run = run.replace(retry_at={**run.retry_at, step.step_id: due})
    return run.with_step(step.replace(**update))


def _is_too_much(run: Run, result: StepResult) -> bool:
    if not result.output:
        return False
    sizes = (len(to_json(output)) for output in (*run.outputs.values(), result.output))
    return sum(sizes) > MAX_OUTPUTS

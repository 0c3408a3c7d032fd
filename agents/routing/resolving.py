"""Effects in doubt, and what becomes of a run when a person says what is true of one. Pure.

The ledger is asked first: :func:`ask` makes the question out of the command, or refuses it. What
the ledger answers is then what the step came to, and :func:`resolve` lets the run go on from there,
or end, as if that had been known all along. That is a new run of the execution.
"""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Final, Literal

from agents.routing.failing import completed
from agents.routing.run import Run
from agents.runtime.outcomes import UnusableAnswerError, check_output, sayable
from agents.runtime.ports import Refusal, Resolution
from agents.runtime.principals import Issuer
from agents.runtime.references import find
from schemas import AgentMessage, Command, ExecutionStatus, Failure, StepResult, StepState

_STATUS: Final[Mapping[str, Literal["success", "failed"]]] = MappingProxyType(
    {"done": "success", "failed": "failed"}
)


def ask(
    run: Run | None, message: AgentMessage[Command], issuer: Issuer, now: datetime
) -> Resolution | Refusal:
    """What the ledger is to hold of the effect that a command is about, or why it may not."""
    command = message.payload
    if run is None or run.plan is None or run.plan_id is None or run.request_id is None:
        return Refusal("refused", "there is no execution to resolve")
    if refusal := _incomplete(command):
        return refusal
    step = run.step(command.step_id or "")
    if step is None:
        return Refusal("refused", f"the execution has no step {command.step_id}")
    if refusal := objection(run, step, command) or _lacking(run, step, command):
        return refusal
    status = _STATUS[command.outcome or "failed"]
    said = sayable(f"{issuer.name}: {command.reason}")
    result = StepResult(
        request_id=run.request_id,
        run_no=run.run_of(step.step_id),
        step_id=step.step_id,
        action=step.action,
        attempt=step.attempt,
        status=status,
        output=command.output or {},
        failure=None
        if status == "success"
        else Failure(code="resolved", reason=f"it was not done, says {said}"),
        started_at=step.started_at or now,
        finished_at=now,
    )
    return Resolution(
        lane=message.lane,
        correlation_id=message.correlation_id,
        plan_id=run.plan_id,
        plan_hash=run.plan.plan_hash,
        result=result,
        resolved_by=issuer.name,
        reason=command.reason or "",
        command_id=command.command_id,
        now=now,
    )


def resolve(
    run: Run | None, command: Command, result: StepResult, *, broker_id: str, now: datetime
) -> Run | Refusal:
    """The next run of the execution, with one effect known to be what ``result`` says.

    What had not begun when the doubt came can begin again, unless the execution was being cancelled
    or its time was over. It is refused where somebody else has moved the run since the ledger was
    asked.
    """
    doubtful = None if run is None else run.step(result.step_id)
    if run is None or doubtful is None:
        raise ValueError("the ledger has resolved an effect of no execution")
    if refusal := objection(run, doubtful, command):
        return refusal
    steps = tuple(
        step.replace(
            status=result.status,
            output=result.output,
            failure=result.failure,
            finished_at=result.finished_at,
        )
        if step.step_id == result.step_id
        else step
        for step in run.steps
    )
    doubts = {
        step.step_id: run.run_of(step.step_id)
        for step in steps
        if step.status == "unknown" and step.step_id != result.step_id
    }
    spent_before = Decimal(0) if run.spent is None else run.spent.total
    stopped = run.stopped
    is_cancelled = stopped is not None and not stopped.is_paused
    if result.status == "success":
        run = completed(run, result.step_id)
    run = run.replace(
        run_no=run.run_no + 1,
        steps=steps if is_cancelled else tuple(map(_to_come, steps)),
        doubts=doubts,
        stopped=None,
        broker_id=broker_id,
        retried_at=now,
        # Its reservation is released, but what it goes on to cost still counts.
        spent_before=spent_before,
    )
    if stopped is None:
        return run.moved(ExecutionStatus.RUNNING)
    status = ExecutionStatus.PAUSED if stopped.is_paused else ExecutionStatus.CANCELLING
    return run.moved(status, code=stopped.code, reason=stopped.reason)


def _to_come(step: StepState) -> StepState:
    return step.replace(status="pending") if step.status == "skipped" else step


def _incomplete(command: Command) -> Refusal | None:
    wanted = {
        "the step": command.step_id,
        "the run": command.run_no,
        "the outcome": command.outcome,
        "a reason": command.reason,
    }
    missing = [name for name, value in wanted.items() if not value]
    if missing:
        return Refusal("refused", f"the command does not name {', '.join(missing)}")
    if command.output is not None:
        if command.outcome == "failed":
            return Refusal("refused", "what was not done has put out nothing")
        try:
            check_output(command.output)
        except UnusableAnswerError as error:
            return Refusal(error.code, error.reason)
    return None


def _lacking(run: Run, step: StepState, command: Command) -> Refusal | None:
    """What steps that are to come need, where nobody has said that it is not to be had."""
    if command.outcome == "failed" or command.output is not None or run.plan is None:
        return None
    to_come = [
        planned
        for planned, state in run.in_pairs()
        if state.status == "skipped" and (run.stopped is None or run.stopped.is_paused)
    ]
    # What would undo it may come as well, and is read from the plan, as it is not in the run yet.
    to_come += [planned for planned in run.plan.steps if planned.compensates == step.step_id]
    wanted = {
        reference.output
        for planned in to_come
        for reference in find(planned.parameters)
        if reference.step_id == step.step_id
    }
    if not wanted:
        return None
    return Refusal(
        "refused",
        f"steps to come refer to its output: say what {', '.join(sorted(wanted))} is, or that "
        "there is none, with which they fail",
    )


def objection(run: Run, step: StepState, command: Command) -> Refusal | None:
    """Why the command cannot be about this step as it stands."""
    if step.status != "unknown":
        return Refusal(
            "effect_settled", f"step {step.step_id} is {step.status}; nobody is in doubt about it"
        )
    if run.is_open:
        # It is still under way elsewhere, and hears of it when it has ended.
        return Refusal("refused", "the execution has not ended yet; say it again when it has")
    if (run_no := run.run_of(step.step_id)) != command.run_no:
        return Refusal(
            "effect_settled",
            f"step {step.step_id} is in doubt since run {run_no}, not {command.run_no}",
        )
    return None

"""What people command of a run: approve, reject, cancel, pause, resume, retry. Pure."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from agents.routing import approvals
from agents.routing.beginnings import begin, considered
from agents.routing.events import Answer
from agents.routing.failing import skip_pending
from agents.routing.progress import progress
from agents.routing.run import Run
from agents.runtime.ports import Refusal
from agents.runtime.principals import Issuer
from schemas import AgentMessage, Approval, Command, ExecutionStatus, Payload, Plan, StepState


def obey(
    run: Run | None,
    message: AgentMessage[Payload],
    command: Command,
    issuer: Issuer | Refusal | None,
    now: datetime,
    broker: str,
) -> Answer:
    """Do as ``command`` says, or say why not."""
    if issuer is None:
        raise ValueError("a command comes with who issued it")
    if isinstance(issuer, Refusal):
        return issuer
    if run is None:
        if command.kind != "cancel":
            return Refusal("refused", f"there is no execution to {command.kind} yet")
        # The request may still be on its way: the run absorbs what becomes of it.
        run = begin(message, now, broker)
    if command.kind in ("approve", "reject"):
        opinion = approvals.consider(run, command, issuer, now)
    elif command.kind == "retry":
        opinion = _retry(run, command, now, broker)
    else:
        obeyed = _COMMANDS.get((command.kind, run.status))
        if obeyed is None:
            return _impossible(run, command)
        return progress(obeyed(run, command), message.message_id, now)
    if isinstance(opinion, Refusal):
        return opinion
    return considered(opinion, message.message_id, now)


def _cancel(run: Run, command: Command) -> Run:
    run = skip_pending(run)
    in_flight = any(step.status == "running" for step in run.steps)
    # Without a request it waits for one, so that what is cancelled has a name and an end.
    waits = in_flight or run.request_id is None
    status = ExecutionStatus.CANCELLING if waits else ExecutionStatus.CANCELLED
    return run.moved(status, code="cancelled", reason=_reason("cancelled", command))


def _pause(run: Run, command: Command) -> Run:
    reason = _reason("paused", command)
    return run.moved(ExecutionStatus.PAUSED, code="paused", reason=reason)


def _resume(run: Run, _command: Command) -> Run:
    return run.moved(ExecutionStatus.RUNNING)


_COMMANDS: Final[dict[tuple[str, ExecutionStatus | None], Callable[[Run, Command], Run]]] = {
    ("cancel", None): _cancel,
    ("cancel", ExecutionStatus.PLANNED): _cancel,
    ("cancel", ExecutionStatus.NEEDS_APPROVAL): _cancel,
    ("cancel", ExecutionStatus.RUNNING): _cancel,
    ("cancel", ExecutionStatus.PAUSED): _cancel,
    ("pause", ExecutionStatus.RUNNING): _pause,
    ("resume", ExecutionStatus.PAUSED): _resume,
}
"""What a command does in which status; anything else is refused."""
_RETRIED: Final = frozenset(
    {
        ExecutionStatus.FAILED,
        ExecutionStatus.DENIED,
        ExecutionStatus.CANCELLED,
        ExecutionStatus.EXPIRED,
    }
)


def _retry(
    run: Run, command: Command, now: datetime, broker: str
) -> approvals.Considered | Refusal:
    """The next run of an execution: what is done is kept, and its plan is judged anew.

    What was undone is done again. What is not known to have had no effect is never repeated.
    """
    if refusal := _objection(run, command):
        return refusal
    if run.plan is None:
        return Refusal("refused", "it never had a plan that could be run again; send it again")
    undone = {step.compensates for step in run.steps if step.status == "success"} - {None}
    steps = tuple(
        step
        if step.status == "success" and step.step_id not in undone
        else StepState(step_id=step.step_id, action=step.action, status="pending")
        for step in run.steps
        if step.compensates is None
    )
    plan = _plan_of_retry(run, run.plan, steps, now)
    request = run.approval
    run = run.replace(
        run_no=run.run_no + 1,
        steps=steps,
        completed=tuple(name for name in run.completed if name not in undone),
        done_anyway=(),
        retry_at={},
        asked_again_at={},
        approval=None if request is None else request.replace(approvals=plan.approvals),
        plan=plan,
        retried_at=now,
        stopped=None,
        broker_id=broker,
    ).moved(ExecutionStatus.PLANNED, code="retried", reason=_reason("retried", command))
    return approvals.Considered(run, plan)


def _objection(run: Run, command: Command) -> Refusal | None:
    in_doubt = [step.step_id for step in run.steps if step.status == "unknown"]
    if in_doubt and not run.is_open:
        return Refusal(
            "effect_unknown",
            f"nobody knows whether {', '.join(in_doubt)} took effect; that must be resolved first",
        )
    if run.status not in _RETRIED:
        return _impossible(run, command)
    for name in run.done_anyway:
        if run.planned(name).effect == "effect":
            return Refusal(
                "refused",
                f"step {name} was done although its result was lost, and would be done twice",
            )
    return None


def _plan_of_retry(run: Run, plan: Plan, steps: tuple[StepState, ...], now: datetime) -> Plan:
    """The plan as it is judged for the next run.

    Approvals count for as long as they would have been waited for: soon after a failure nobody is
    asked twice, and much later nobody is taken at their old word.
    """
    newest, approved = plan.evaluation, tuple[Approval, ...]()
    if run.approval is not None:
        newest = max(newest, run.approval.evaluation)
        within = min(each.expires_after for each in run.approval.obligations)
        oldest = now - timedelta(seconds=within)
        approved = tuple(each for each in run.approval.approvals if each.approved_at > oldest)
    finished = tuple(step.step_id for step in steps if step.status == "success")
    return plan.replace(evaluation=newest + 1, approvals=approved, finished=finished)


def _impossible(run: Run, command: Command) -> Refusal:
    status = run.status.value if run.status is not None else "new"
    return Refusal("refused", f"an execution that is {status} cannot {command.kind}")


def _reason(done: str, command: Command) -> str:
    """Who did it, and why."""
    why = f": {command.reason}" if command.reason else ""
    return f"{done} by {command.issued_by}{why}"[:10_000]

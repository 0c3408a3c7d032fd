"""The state machine: a run and an event give the next run and the steps to dispatch.

Pure: time, jitter and the event come in as arguments, nothing goes out but the answer.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

from pydantic_core import to_json

from agents.routing.run import Run
from agents.runtime.errors import PermanentError
from agents.runtime.ports import Refusal
from agents.runtime.references import resolve
from schemas import (
    AgentMessage,
    Command,
    ExecutionStatus,
    Failure,
    JsonObject,
    Judgement,
    Outcome,
    Payload,
    PlanStep,
    Step,
    StepResult,
    StepState,
    Verdict,
)

MAX_OUTPUTS = 1_500_000
"""Bytes that the outputs of all steps of a run may take as JSON: every state carries them."""
LONGEST_RETRY = 3600.0
"""Seconds that a step waits at most for its next attempt, whatever the other side asks for."""
_JITTER = 0.25
_SETTLED = frozenset({"success", "failed", "unknown", "skipped"})


@dataclass(frozen=True, slots=True)
class Wakeup:
    """The time that a run asked to be woken at has come."""


@dataclass(frozen=True, slots=True)
class BrokerLost:
    """The broker that carried the run is gone with its topics."""


@dataclass(frozen=True, slots=True)
class Moved:
    """The next version of a run, and the steps that start because of it."""

    run: Run
    dispatch: tuple[Step, ...] = ()
    judgement: Judgement | None = None
    """The verdict that made it move, if one did."""


Event = AgentMessage[Payload] | Wakeup | BrokerLost
Answer = Moved | Refusal | None
"""``None``: the event changes nothing, such as a result of an attempt that is over."""


def react(run: Run | None, event: Event, *, now: datetime, jitter: float, broker_id: str) -> Answer:
    """What ``event`` makes of ``run``.

    Args:
        run: The execution so far; ``None`` when the router sees it for the first time.
        event: A message of one of the router's topics, or something that happened by itself.
        now: The moment of the decision.
        jitter: Between 0 and 1; spreads retries of steps that failed together.
        broker_id: The broker that a new run belongs to.
    """
    match event:
        case Wakeup():
            return None if run is None else _wake(run, now)
        case BrokerLost():
            return None if run is None else _lose(run, now)
        case AgentMessage(payload=Verdict() as verdict):
            return _judge(run, event, verdict, now, broker_id)
        case AgentMessage(payload=Outcome() as outcome):
            return _conclude(run, event, outcome, now, broker_id)
        case AgentMessage(payload=StepResult() as result):
            return None if run is None else _take(run, event, result, now, jitter)
        case AgentMessage(payload=Command() as command):
            return _obey(run, event, command, now, broker_id)
        case _:
            raise TypeError(f"the router takes no {event.message_type}")


def _begin(message: AgentMessage[Payload], now: datetime, broker_id: str) -> Run:
    return Run(
        request_id=None,
        tenant=message.tenant,
        received_at=message.received_at,
        external_id=message.external_id,
        broker_id=broker_id,
        cause=message.message_id,
        started_at=now,
        updated_at=now,
    )


def _in_use(run: Run, request_id: UUID) -> Refusal | None:
    if run.request_id is None or run.request_id == request_id:
        return None
    return Refusal(
        "correlation_id_in_use",
        f"the correlation id belongs to the execution of request {run.request_id}; "
        f"send request {request_id} under another one",
    )


def _judge(
    run: Run | None, message: AgentMessage[Payload], verdict: Verdict, now: datetime, broker: str
) -> Answer:
    if run is not None:
        # A second request is refused; a repeated verdict, or one for an execution that was
        # cancelled before it came, changes nothing.
        return _in_use(run, verdict.request_id)
    plan = verdict.plan
    run = _begin(message, now, broker).replace(
        request_id=verdict.request_id,
        title=plan.title,
        requester=plan.requester,
        plan=plan,
        plan_id=verdict.plan_id,
        steps=tuple(
            StepState(step_id=step.step_id, action=step.action, status="pending")
            for step in plan.steps
        ),
    )
    if verdict.decision == "approved":
        run = run.moved(ExecutionStatus.RUNNING)
    else:
        run = _refused(run, verdict)
    judgement = Judgement.by(message.message_id, verdict)
    return replace(_progress(run, message.message_id, now), judgement=judgement)


def _refused(run: Run, verdict: Verdict) -> Run:
    code = verdict.reasons[0].code
    reason = " ".join(reason.text for reason in verdict.reasons)[:10_000]
    if verdict.decision == "needs_approval":
        return run.moved(ExecutionStatus.NEEDS_APPROVAL, code=code, reason=reason)
    return _skip_pending(run).moved(ExecutionStatus.DENIED, code=code, reason=reason)


def _conclude(
    run: Run | None, message: AgentMessage[Payload], outcome: Outcome, now: datetime, broker: str
) -> Answer:
    if run is None:
        run = _begin(message, now, broker).replace(
            request_id=outcome.request_id, title=outcome.title, requester=outcome.requester
        )
    elif (refusal := _in_use(run, outcome.request_id)) is not None:
        return refusal
    elif not run.is_open or run.plan is not None:
        # A verdict came first, such as one whose checker failed on it a second time.
        return None
    run = _skip_pending(run).moved(
        ExecutionStatus(outcome.status), code=outcome.code, reason=outcome.reason
    )
    return _progress(run, message.message_id, now)


def _take(
    run: Run, message: AgentMessage[Payload], result: StepResult, now: datetime, jitter: float
) -> Answer:
    step = run.step(result.step_id)
    if (
        not run.is_open
        or step is None
        or step.status != "running"
        or (result.run_no, result.attempt) != (run.run_no, step.attempt)
    ):
        return None
    update: dict[str, object] = {
        "status": result.status,
        "output": result.output,
        "failure": result.failure,
        "finished_at": result.finished_at,
    }
    planned = _planned(run, step.step_id)
    failure = result.failure
    if _is_too_much(run, result):
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
    run = run.with_step(step.replace(**update))
    return _progress(run, message.message_id, now)


def _is_too_much(run: Run, result: StepResult) -> bool:
    if not result.output:
        return False
    sizes = (len(to_json(output)) for output in (*run.outputs.values(), result.output))
    return sum(sizes) > MAX_OUTPUTS


def _wake(run: Run, now: datetime) -> Answer:
    if run.status is not ExecutionStatus.RUNNING or not any(
        due <= now for due in run.retry_at.values()
    ):
        return None
    return _progress(run, run.cause, now)


def _lose(run: Run, now: datetime) -> Answer:
    if not run.is_open:
        return None
    steps = tuple(
        step if step.status in _SETTLED else step.replace(status="skipped") for step in run.steps
    )
    run = run.replace(steps=steps, retry_at={}).moved(
        ExecutionStatus.FAILED,
        code="broker_reset",
        reason="The broker that carried this execution is gone with its topics; send it again.",
    )
    return Moved(_next_version(run, run.cause, now))


def _obey(
    run: Run | None, message: AgentMessage[Payload], command: Command, now: datetime, broker: str
) -> Answer:
    if run is None:
        if command.kind != "cancel":
            return Refusal("refused", f"there is no execution to {command.kind} yet")
        # The request may still be on its way: the run absorbs its verdict when that comes.
        run = _begin(message, now, broker)
    obey = _COMMANDS.get((command.kind, run.status))
    if obey is None:
        status = run.status.value if run.status is not None else "new"
        return Refusal("refused", f"an execution that is {status} cannot {command.kind}")
    return _progress(obey(run, command), message.message_id, now)


def _cancel(run: Run, command: Command) -> Run:
    reason = command.reason or f"cancelled by {command.issued_by}"
    run = _skip_pending(run)
    in_flight = any(step.status == "running" for step in run.steps)
    status = ExecutionStatus.CANCELLING if in_flight else ExecutionStatus.CANCELLED
    return run.moved(status, code="cancelled", reason=reason)


def _pause(run: Run, command: Command) -> Run:
    reason = command.reason or f"paused by {command.issued_by}"
    return run.moved(ExecutionStatus.PAUSED, code="paused", reason=reason)


def _resume(run: Run, _command: Command) -> Run:
    return run.moved(ExecutionStatus.RUNNING)


_COMMANDS: dict[tuple[str, ExecutionStatus | None], Callable[[Run, Command], Run]] = {
    ("cancel", None): _cancel,
    ("cancel", ExecutionStatus.NEEDS_APPROVAL): _cancel,
    ("cancel", ExecutionStatus.RUNNING): _cancel,
    ("cancel", ExecutionStatus.PAUSED): _cancel,
    ("pause", ExecutionStatus.RUNNING): _pause,
    ("resume", ExecutionStatus.PAUSED): _resume,
}
"""What a command does in which status; anything else is refused."""


def _progress(run: Run, cause: UUID, now: datetime) -> Moved:
    """Dispatch what can start, and end the run when nothing is left to do."""
    dispatch: list[Step] = []
    if run.status is ExecutionStatus.RUNNING and not _has_failed(run):
        run = _dispatch_ready(run, now, dispatch)
    if run.status in (ExecutionStatus.RUNNING, ExecutionStatus.PAUSED) and _has_failed(run):
        run = _skip_pending(run)
    return Moved(_next_version(_ended(run), cause, now), tuple(dispatch))


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
            "attempt": attempt,
            "timeout": planned.timeout,
        }
    )


def _ended(run: Run) -> Run:
    if run.status not in (
        ExecutionStatus.RUNNING,
        ExecutionStatus.PAUSED,
        ExecutionStatus.CANCELLING,
    ) or any(step.status not in _SETTLED for step in run.steps):
        return run
    unknown = next((step for step in run.steps if step.status == "unknown"), None)
    if unknown is not None:
        return run.moved(ExecutionStatus.UNKNOWN, code="effect_unknown", reason=_why(unknown))
    if run.status is ExecutionStatus.CANCELLING:
        return run.moved(ExecutionStatus.CANCELLED, code=run.code, reason=run.reason)
    failed = next((step for step in run.steps if step.status == "failed"), None)
    if failed is not None:
        return run.moved(ExecutionStatus.FAILED, code="step_failed", reason=_why(failed))
    return run.moved(ExecutionStatus.SUCCESS)


def _why(step: StepState) -> str:
    detail = step.failure.reason if step.failure else "no reason was given"
    return f"step {step.step_id} ({step.action}): {detail}"[:10_000]


def _has_failed(run: Run) -> bool:
    return any(step.status in ("failed", "unknown") for step in run.steps)


def _skip_pending(run: Run) -> Run:
    steps = tuple(
        step.replace(status="skipped") if step.status in ("pending", "waiting_retry") else step
        for step in run.steps
    )
    return run.replace(steps=steps, retry_at={})


def _planned(run: Run, step_id: str) -> PlanStep:
    if run.plan is None:
        raise ValueError("a run without a plan has no steps")
    return next(step for step in run.plan.steps if step.step_id == step_id)


def _next_version(run: Run, cause: UUID, now: datetime) -> Run:
    return run.replace(version=run.version + 1, cause=cause, updated_at=now)

"""The state machine: a run and an event give the next run and the steps to dispatch.

Pure: time, jitter and the event come in as arguments, nothing goes out but the answer.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

from pydantic_core import to_json

from agents.routing import approvals, resolving
from agents.routing.deadlines import DEADLINE_EXCEEDED, Limits, is_over_time, unanswered
from agents.routing.progress import SETTLED, Moved, next_version, progress, skip_pending
from agents.routing.run import Run
from agents.runtime.errors import ErrorCode
from agents.runtime.ports import Refusal
from agents.runtime.principals import Issuer
from schemas import (
    AgentMessage,
    Command,
    ExecutionStatus,
    Failure,
    Judgement,
    Outcome,
    Payload,
    PlanStep,
    StepResult,
    StepState,
    Verdict,
)

MAX_OUTPUTS = 1_500_000
"""Bytes that the outputs of all steps of a run may take as JSON: every state carries them."""
LONGEST_RETRY = 3600.0
"""Seconds that a step waits at most for its next attempt, whatever the other side asks for."""
_JITTER = 0.25
_DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Wakeup:
    """The time that a run asked to be woken at has come."""


@dataclass(frozen=True, slots=True)
class BrokerLost:
    """The broker that carried the run is gone with its topics."""


@dataclass(frozen=True, slots=True)
class GivenUp:
    """The router cannot handle a message, or cannot wake a run where there is none: a bug."""

    message: AgentMessage[Payload] | None
    code: ErrorCode
    reason: str


Event = AgentMessage[Payload] | Wakeup | BrokerLost | GivenUp
Answer = Moved | Refusal | None
"""``None``: the event changes nothing, such as a result of an attempt that is over."""


def react(
    run: Run | None,
    event: Event,
    *,
    now: datetime,
    jitter: float,
    broker_id: str,
    limits: Limits = _DEFAULT_LIMITS,
    issuer: Issuer | Refusal | None = None,
    resolved: StepResult | Refusal | None = None,
) -> Answer:
    """What ``event`` makes of ``run``.

    Args:
        run: The execution so far; ``None`` when the router sees it for the first time.
        event: A message of one of the router's topics, or something that happened by itself.
        now: The moment of the decision.
        jitter: Between 0 and 1; spreads retries of steps that failed together.
        broker_id: The broker that a new run belongs to.
        limits: How long things may take.
        issuer: Who stands behind a command, or why that cannot be said.
        resolved: For a ``resolve``: what the ledger holds of the effect, or why not what was said.
    """
    match event:
        case GivenUp():
            return _give_up(run, event, now, jitter, broker_id)
        case AgentMessage(payload=Verdict() as verdict):
            return _judge(run, event, verdict, now, broker_id)
        case AgentMessage(payload=Outcome() as outcome):
            return _conclude(run, event, outcome, now, broker_id)
        case AgentMessage(payload=Command() as command):
            if command.kind == "resolve" and not isinstance(issuer, Refusal):
                return _resolve(run, event, command, resolved, now, broker_id)
            return _obey(run, event, command, issuer, now, broker_id)
        case _:
            return None if run is None else _go_on(run, event, now, jitter, limits)


def _go_on(run: Run, event: Event, now: datetime, jitter: float, limits: Limits) -> Answer:
    """What becomes of a run by what cannot begin one."""
    match event:
        case AgentMessage(payload=StepResult() as result):
            return _take(run, event, result, now, jitter)
        case Wakeup():
            return _wake(run, now, jitter, limits)
        case BrokerLost():
            return _lose(run, now)
        case _:
            raise TypeError(f"the router takes no {event}")


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


def _awaits_its_request(run: Run) -> bool:
    """Whether it was cancelled before anything of its request was seen."""
    return run.request_id is None and run.is_open


def _absorbed(cancelled: Run, named: Run) -> Run:
    """What a cancel has left, now that the request is known which it was for."""
    named = skip_pending(named).replace(
        version=cancelled.version, status=cancelled.status, started_at=cancelled.started_at
    )
    return named.moved(ExecutionStatus.CANCELLED, code=cancelled.code, reason=cancelled.reason)


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
    cause, plan = message.message_id, verdict.plan
    if run is not None and not _awaits_its_request(run):
        if not approvals.is_expected(run, verdict):
            # A second request is refused; a repeated verdict changes nothing.
            return _in_use(run, verdict.request_id)
        moved = _judged(run.replace(plan=plan, plan_id=verdict.plan_id), verdict, cause, now)
        return replace(moved, judgement=Judgement.by(cause, verdict))
    begun = _begin(message, now, broker).replace(
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
    moved = (
        _judged(begun, verdict, cause, now)
        if run is None
        else progress(_absorbed(run, begun), cause, now)
    )
    return replace(moved, judgement=Judgement.by(cause, verdict))


def _judged(run: Run, verdict: Verdict, cause: UUID, now: datetime) -> Moved:
    if verdict.decision == "approved":
        return progress(run.moved(ExecutionStatus.RUNNING), cause, now)
    if verdict.decision == "needs_approval":
        return _considered(approvals.ask(run, verdict, now), cause, now)
    code = verdict.reasons[0].code
    reason = " ".join(reason.text for reason in verdict.reasons)[:10_000]
    denied = skip_pending(run).moved(ExecutionStatus.DENIED, code=code, reason=reason)
    return progress(denied, cause, now)


def _considered(considered: approvals.Considered, cause: UUID, now: datetime) -> Moved:
    """A run that waits for people or for the next verdict, or that somebody has rejected."""
    run = considered.run
    run = run if run.is_open else skip_pending(run)
    return Moved(next_version(run, cause, now), plan=considered.plan)


def _conclude(
    run: Run | None, message: AgentMessage[Payload], outcome: Outcome, now: datetime, broker: str
) -> Answer:
    named = _begin(message, now, broker).replace(
        request_id=outcome.request_id, title=outcome.title, requester=outcome.requester
    )
    if run is None:
        run = named
    elif _awaits_its_request(run):
        return progress(_absorbed(run, named), message.message_id, now)
    elif (refusal := _in_use(run, outcome.request_id)) is not None:
        return refusal
    elif not run.is_open or (
        run.plan is not None and not approvals.has_failed_in_judgement(run, outcome.evaluation)
    ):
        # A verdict came first, such as one whose checker failed on it a second time.
        return None
    run = skip_pending(run).moved(
        ExecutionStatus(outcome.status), code=outcome.code, reason=outcome.reason
    )
    return progress(run, message.message_id, now)


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
    return progress(_settled(run, step, result, now, jitter), message.message_id, now)


def _settled(run: Run, step: StepState, result: StepResult, now: datetime, jitter: float) -> Run:
    """The run after the end of one attempt at ``step``, which may be followed by another."""
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
    return run.with_step(step.replace(**update))


def _is_too_much(run: Run, result: StepResult) -> bool:
    if not result.output:
        return False
    sizes = (len(to_json(output)) for output in (*run.outputs.values(), result.output))
    return sum(sizes) > MAX_OUTPUTS


def _wake(run: Run, now: datetime, jitter: float, limits: Limits) -> Answer:
    if not run.is_open:
        return None
    if expired := approvals.expire(run, now):
        return progress(skip_pending(expired), run.cause, now)
    before = run
    for result in list(unanswered(run, now, limits)):
        step = run.step(result.step_id)
        if step is not None:
            run = _settled(run, step, result, now, jitter)
    if is_over_time(run, now, limits):
        run = _expired(run)
    is_retry_due = any(due <= now for due in run.retry_at.values())
    if run is before and not (is_retry_due and run.status is ExecutionStatus.RUNNING):
        return None
    return progress(run, run.cause, now)


def _expired(run: Run) -> Run:
    if _awaits_its_request(run):
        reason = f"{run.reason}; no request came under this correlation id"
        return run.moved(ExecutionStatus.CANCELLED, code=run.code, reason=reason[:10_000])
    # Where something is in flight or in doubt, that decides how the run ends.
    has_begun = run.status is not ExecutionStatus.NEEDS_APPROVAL
    status = ExecutionStatus.CANCELLING if has_begun else ExecutionStatus.EXPIRED
    reason = "it took longer than an execution may"
    return skip_pending(run).moved(status, code=DEADLINE_EXCEEDED, reason=reason)


def _give_up(run: Run | None, event: GivenUp, now: datetime, jitter: float, broker: str) -> Answer:
    message, failure = event.message, Failure(code=event.code, reason=event.reason)
    match None if message is None else message.payload:
        case None:
            return None if run is None or not run.is_open else _abandon(run, failure, now)
        case StepResult() as result if run is not None and message is not None:
            # What is known of its effect stays known.
            status = "unknown" if result.status == "unknown" else "failed"
            told = result.model_copy(update={"status": status, "output": {}, "failure": failure})
            return _take(run, message, told, now, jitter)
        case Verdict() | Outcome() as judged if message is not None and (
            run is None or _awaits_its_request(run)
        ):
            about = judged.plan if isinstance(judged, Verdict) else judged
            begun = run or _begin(message, now, broker)
            named = begun.replace(
                request_id=judged.request_id, title=about.title, requester=about.requester
            )
            failed = named.moved(ExecutionStatus.FAILED, code=failure.code, reason=failure.reason)
            return Moved(next_version(failed, message.message_id, now))
        case Verdict() as verdict if run is not None and approvals.is_expected(run, verdict):
            return _abandon(run, failure, now)
        case _:  # nobody waits for it
            return None


def _abandon(run: Run, failure: Failure, now: datetime) -> Moved:
    """End a run at once, whatever is in flight."""
    effects = {} if run.plan is None else {each.step_id: each.effect for each in run.plan.steps}
    steps = tuple(
        step.replace(
            status="unknown" if effects.get(step.step_id) == "effect" else "failed",
            failure=failure,
            finished_at=now,
        )
        if step.status == "running"
        else step
        for step in run.steps
    )
    run = skip_pending(run.replace(steps=steps))
    in_doubt = any(step.status == "unknown" for step in run.steps)
    status = ExecutionStatus.UNKNOWN if in_doubt else ExecutionStatus.FAILED
    return Moved(
        next_version(run.moved(status, code=failure.code, reason=failure.reason), run.cause, now)
    )


def _lose(run: Run, now: datetime) -> Answer:
    if not run.is_open:
        return None
    steps = tuple(
        step if step.status in SETTLED else step.replace(status="skipped") for step in run.steps
    )
    run = run.replace(steps=steps, retry_at={}).moved(
        ExecutionStatus.FAILED,
        code="broker_reset",
        reason="The broker that carried this execution is gone with its topics; send it again.",
    )
    return Moved(next_version(run, run.cause, now))


def _obey(
    run: Run | None,
    message: AgentMessage[Payload],
    command: Command,
    issuer: Issuer | Refusal | None,
    now: datetime,
    broker: str,
) -> Answer:
    if issuer is None:
        raise ValueError("a command comes with who issued it")
    if isinstance(issuer, Refusal):
        return issuer
    if run is None:
        if command.kind != "cancel":
            return Refusal("refused", f"there is no execution to {command.kind} yet")
        # The request may still be on its way: the run absorbs what becomes of it.
        run = _begin(message, now, broker)
    if command.kind in ("approve", "reject"):
        considered = approvals.consider(run, command, issuer, now)
        if isinstance(considered, Refusal):
            return considered
        return _considered(considered, message.message_id, now)
    obey = _COMMANDS.get((command.kind, run.status))
    if obey is None:
        status = run.status.value if run.status is not None else "new"
        return Refusal("refused", f"an execution that is {status} cannot {command.kind}")
    return progress(obey(run, command), message.message_id, now)


def _resolve(
    run: Run | None,
    message: AgentMessage[Payload],
    command: Command,
    resolved: StepResult | Refusal | None,
    now: datetime,
    broker: str,
) -> Answer:
    if resolved is None:
        raise ValueError("a resolve comes with what the ledger holds")
    if isinstance(resolved, Refusal):
        return resolved
    moved = resolving.resolve(run, command, resolved, broker_id=broker, now=now)
    return moved if isinstance(moved, Refusal) else progress(moved, message.message_id, now)


def _cancel(run: Run, command: Command) -> Run:
    reason = command.reason or f"cancelled by {command.issued_by}"
    run = skip_pending(run)
    in_flight = any(step.status == "running" for step in run.steps)
    # Without a request it waits for one, so that what is cancelled has a name and an end.
    waits = in_flight or run.request_id is None
    status = ExecutionStatus.CANCELLING if waits else ExecutionStatus.CANCELLED
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


def _planned(run: Run, step_id: str) -> PlanStep:
    if run.plan is None:
        raise ValueError("a run without a plan has no steps")
    return next(step for step in run.plan.steps if step.step_id == step_id)

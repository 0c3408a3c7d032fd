"""How runs begin, and which requests they belong to: verdicts and outcomes. Pure."""

from dataclasses import replace
from datetime import datetime
from uuid import UUID

from agents.routing import approvals
from agents.routing.events import Answer, Moved
from agents.routing.failing import skip_pending
from agents.routing.progress import next_version, progress
from agents.routing.run import Run
from agents.runtime.ports import Refusal
from schemas import (
    AgentMessage,
    ExecutionStatus,
    Judgement,
    Outcome,
    Payload,
    Plan,
    StepState,
    Verdict,
)


def begin(message: AgentMessage[Payload], now: datetime, broker_id: str) -> Run:
    """A run of which nothing is known but whose it is."""
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


def awaits_its_request(run: Run) -> bool:
    """Whether it was cancelled before anything of its request was seen."""
    return run.request_id is None and run.is_open


def judge(
    run: Run | None, message: AgentMessage[Payload], verdict: Verdict, now: datetime, broker: str
) -> Answer:
    """Take a verdict: the first on an execution, or the one that its run has asked for."""
    cause, plan = message.message_id, verdict.plan
    if run is not None and not awaits_its_request(run):
        if not approvals.is_expected(run, verdict):
            # A second request is refused; a repeated verdict changes nothing.
            return _in_use(run, verdict.request_id)
        judged = run.replace(plan=_own(plan, run), plan_id=verdict.plan_id)
        moved = _judged(judged, verdict, cause, now)
        return replace(moved, judgement=Judgement.by(cause, verdict))
    begun = begin(message, now, broker).replace(
        request_id=verdict.request_id,
        title=plan.title,
        requester=plan.requester,
        plan=_own(plan, None),
        plan_id=verdict.plan_id,
        steps=tuple(
            StepState(step_id=step.step_id, action=step.action, status="pending")
            for step in plan.steps
            if step.compensates is None
        ),
    )
    moved = (
        _judged(begun, verdict, cause, now)
        if run is None
        else progress(_absorbed(run, begun), cause, now)
    )
    return replace(moved, judgement=Judgement.by(cause, verdict))


def conclude(
    run: Run | None, message: AgentMessage[Payload], outcome: Outcome, now: datetime, broker: str
) -> Answer:
    """End an execution that failed, or was not understood, before it was judged."""
    named = begin(message, now, broker).replace(
        request_id=outcome.request_id, title=outcome.title, requester=outcome.requester
    )
    if run is None:
        run = named
    elif awaits_its_request(run):
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


def considered(opinion: approvals.Considered, cause: UUID, now: datetime) -> Moved:
    """A run that waits for people or for the next verdict, or that somebody has rejected."""
    run = opinion.run
    run = run if run.is_open else skip_pending(run)
    return Moved(next_version(run, cause, now), plan=opinion.plan)


def _judged(run: Run, verdict: Verdict, cause: UUID, now: datetime) -> Moved:
    if verdict.decision == "approved":
        return progress(run.moved(ExecutionStatus.RUNNING), cause, now)
    if verdict.decision == "needs_approval":
        return considered(approvals.ask(run, verdict, now), cause, now)
    code = verdict.reasons[0].code
    reason = " ".join(reason.text for reason in verdict.reasons)[:10_000]
    denied = skip_pending(run).moved(ExecutionStatus.DENIED, code=code, reason=reason)
    return progress(denied, cause, now)


def _own(plan: Plan, run: Run | None) -> Plan:
    """The plan of a verdict, with the approvals and finished steps that the router knows of.

    Whatever else it claims would otherwise come back with the next plan that the router sends.
    """
    known = None if run is None else run.plan
    request = None if run is None else run.approval
    return plan.replace(
        approvals=() if request is None else request.approvals,
        finished=() if known is None else known.finished,
    )


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

"""Approvals in the state machine: who may give one, when there are enough, when it is too late.

A run that needs approval waits in one of two ways. While people are waited for, ``expires_at`` is
set and approvals are counted. When the obligations are met the plan goes back to the safety checker
as the next evaluation, with the approvals; until that verdict comes nothing expires. Only the
verdict on the newest evaluation is taken.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from agents.routing.run import Run
from agents.runtime.ports import Refusal
from agents.runtime.principals import Issuer
from schemas import (
    Approval,
    ApprovalRequest,
    Command,
    ExecutionStatus,
    Obligation,
    Plan,
    Verdict,
    is_same_person,
    remaining,
    unmet,
)


@dataclass(frozen=True, slots=True)
class Considered:
    """A run after somebody spoke about its plan."""

    run: Run
    plan: Plan | None = None
    """The plan as it goes back to be judged again, where it does."""


def ask(run: Run, verdict: Verdict, now: datetime) -> Considered:
    """Wait for the approvals that ``verdict`` wants, or have it judged again if they are there.

    Approvals may have come while the plan was being judged, so the verdict has not seen them all.
    """
    # Only what the router has taken itself counts, whatever the verdict's plan says.
    given = () if run.approval is None else run.approval.approvals
    within = min(obligation.expires_after for obligation in verdict.obligations)
    request = ApprovalRequest(
        evaluation=verdict.plan.evaluation,
        obligations=verdict.obligations,
        approvals=given,
        expires_at=now + timedelta(seconds=within),
    )
    reason = " ".join(reason.text for reason in verdict.reasons)[:10_000]
    run = run.moved(
        ExecutionStatus.NEEDS_APPROVAL, code=verdict.reasons[0].code, reason=reason
    ).replace(approval=request)
    return _judge_again_if_met(run) if len(given) > len(verdict.plan.approvals) else Considered(run)


def is_expected(run: Run, verdict: Verdict) -> bool:
    """Whether ``verdict`` is the one that the run has asked for."""
    asked = _evaluation_asked_for(run)
    return (
        asked is not None
        and run.plan is not None
        and (verdict.plan.evaluation, verdict.plan_hash) == (asked, run.plan.plan_hash)
    )


def has_failed_in_judgement(run: Run, evaluation: int) -> bool:
    """Whether the failure of this evaluation leaves the run without anybody to judge it."""
    return _evaluation_asked_for(run) == evaluation


def consider(run: Run, command: Command, issuer: Issuer, now: datetime) -> Considered | Refusal:
    """Let somebody approve or reject; the plan is judged again when no approval is missing."""
    plan, request = run.plan, run.approval
    if run.status is ExecutionStatus.EXPIRED:
        return Refusal("approval_expired", run.reason or "it was not approved in time")
    if run.status is not ExecutionStatus.NEEDS_APPROVAL or plan is None or request is None:
        status = "new" if run.status is None else run.status.value
        return Refusal("refused", f"an execution that is {status} cannot {command.kind}")
    if refusal := _objection(plan, request, command, issuer, now):
        return refusal
    return (
        _approve(run, command, issuer, now)
        if command.kind == "approve"
        else _reject(run, command, issuer)
    )


def expire(run: Run, now: datetime) -> Run | None:
    """End the run if nobody, or too few, approved it in time; ``None`` before that."""
    request = run.approval
    is_waiting = run.status is ExecutionStatus.NEEDS_APPROVAL
    if not is_waiting or request is None or request.expires_at is None or request.expires_at > now:
        return None
    so_far = " and ".join(each.approver for each in request.approvals) or "nobody"
    return run.moved(
        ExecutionStatus.EXPIRED,
        code="approval_expired",
        reason=f"It was to be approved by {_said(request.expires_at)}, and {so_far} had approved "
        "it. Send it again.",
    )


def progress_of(request: ApprovalRequest, requester: str) -> str:
    """Who has approved, and what is still wanted, in a sentence."""
    names = " and ".join(each.approver for each in request.approvals)
    missing = remaining(request.obligations, request.approvals, requester=requester)
    still = describe_all(missing)
    return f"approved by {names}; " + (f"still wanted: {still}" if missing else "judged again")


def describe_all(obligations: Iterable[Obligation]) -> str:
    """Obligations in words; of several that want the same people, the one that wants most."""
    most: dict[tuple[tuple[str, ...], tuple[str, ...]], Obligation] = {}
    for each in obligations:
        before = most.get((each.users, each.groups))
        if before is None or before.approvers < each.approvers:
            most[each.users, each.groups] = each
    return "; ".join(describe(each) for each in most.values())


def describe(obligation: Obligation) -> str:
    """An obligation in words: ``2 people of sre or dba``."""
    number = "1 person" if obligation.approvers == 1 else f"{obligation.approvers} people"
    whose = [f"of {' or '.join(obligation.groups)}"] if obligation.groups else []
    if obligation.users:
        whose.append(" or ".join(obligation.users))
    return f"{number} {', or '.join(whose)}".strip()


def _objection(
    plan: Plan, request: ApprovalRequest, command: Command, issuer: Issuer, now: datetime
) -> Refusal | None:
    """Why nobody can approve or reject it now, or not this person."""
    name, is_requester = issuer.name, is_same_person(issuer.name, plan.requester)
    if command.plan_hash != plan.plan_hash:
        seen = "names no plan" if command.plan_hash is None else f"is about {command.plan_hash}"
        return Refusal(
            "stale_plan", f"the command {seen}; the execution's plan is {plan.plan_hash}"
        )
    if request.expires_at is not None and request.expires_at <= now:
        return Refusal("approval_expired", f"it was to be approved by {_said(request.expires_at)}")
    if is_requester and command.kind == "approve":
        return Refusal("self_approval", f"{name} asked for it; somebody else must approve")
    may = any(each.admits(name, issuer.groups) for each in request.obligations)
    if not may and not is_requester:
        wanted = describe_all(request.obligations)
        return Refusal("not_entitled", f"{name} may not {command.kind} it; wanted: {wanted}")
    if command.kind == "approve" and any(
        is_same_person(name, each.approver) for each in request.approvals
    ):
        return Refusal("already_approved", f"{name} has approved it already")
    return None


def _approve(run: Run, command: Command, issuer: Issuer, now: datetime) -> Considered:
    plan, request = _what_waits(run)
    approval = Approval(
        approver=issuer.name,
        groups=issuer.groups,
        reason=command.reason,
        approved_at=now,
        command_id=command.command_id,
        is_signed=issuer.is_signed,
    )
    request = request.replace(approvals=(*request.approvals, approval))
    run = run.replace(approval=request, reason=progress_of(request, plan.requester))
    return _judge_again_if_met(run) if request.is_waiting else Considered(run)


def _reject(run: Run, command: Command, issuer: Issuer) -> Considered:
    said = f": {command.reason}" if command.reason else ""
    reason = f"rejected by {issuer.name}{said}"[:10_000]
    return Considered(run.moved(ExecutionStatus.DENIED, code="rejected", reason=reason))


def _evaluation_asked_for(run: Run) -> int | None:
    """Which evaluation of its plan the run waits for, if it waits for the safety checker."""
    if run.status is ExecutionStatus.PLANNED and run.plan is not None:
        return run.plan.evaluation
    if run.status is not ExecutionStatus.NEEDS_APPROVAL or run.approval is None:
        return None
    return None if run.approval.is_waiting else run.approval.evaluation


def _judge_again_if_met(run: Run) -> Considered:
    plan, request = _what_waits(run)
    if unmet(request.obligations, request.approvals, requester=plan.requester):
        return Considered(run)
    evaluation = request.evaluation + 1
    return Considered(
        run.replace(approval=request.replace(evaluation=evaluation, expires_at=None)),
        plan.replace(evaluation=evaluation, approvals=request.approvals),
    )


def _what_waits(run: Run) -> tuple[Plan, ApprovalRequest]:
    if run.plan is None or run.approval is None:
        raise ValueError("a run that needs approval has a plan and says whose")
    return run.plan, run.approval


def _said(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"

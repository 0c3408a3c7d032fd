"""Why an execution got its verdict, for people."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict
from rich.console import Group, RenderableType
from rich.text import Text

from agents.policies import Judge
from agents.runtime.assessment import Assessment
from agents.runtime.errors import PermanentError
from ops import render
from ops.timeline import Timeline
from schemas import Obligation, Reason, Verdict, unmet
from schemas.verdict import Decision


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Said(_Value):
    """A decision with what speaks for it."""

    decision: Decision
    reasons: tuple[Reason, ...]
    obligations: tuple[Obligation, ...]
    missing: tuple[Obligation, ...]
    """Those of the obligations that are not met."""
    policies: tuple[str, ...]
    policy_set: str | None


class Explanation(_Value):
    """What was said of a plan then, and what is said of it now."""

    execution: UUID
    tenant: str
    requester: str
    groups: tuple[str, ...]
    title: str
    steps: dict[str, str]
    """Step id → action."""
    evaluation: int
    moment: datetime
    """What the policies took for the time."""
    approvers: tuple[str, ...]
    then: Said
    """The verdict."""
    now: Said
    """The same plan at the same moment, by the policies of today."""


def explain(timeline: Timeline | None, judge: Judge, *, lane: str) -> Explanation:
    """Explain the newest verdict of an execution.

    Raises:
        PermanentError: It has none.
    """
    verdicts = [] if timeline is None else [e for e in timeline.events if _is_verdict(e)]
    if timeline is None or not verdicts:
        status = "gone" if timeline is None else timeline.status.value
        raise PermanentError(f"the execution has no verdict to explain; it is {status}")
    event = max(verdicts, key=lambda each: int(each.payload["plan"].get("evaluation", 1)))
    verdict = Verdict.model_validate(event.payload)
    plan, moment = verdict.plan, verdict.evaluated_at or event.timestamp
    assessment = judge.judge(plan, tenant=timeline.tenant, lane=lane, moment=moment)
    return Explanation(
        execution=timeline.correlation_id,
        tenant=timeline.tenant,
        requester=plan.requester,
        groups=plan.groups,
        title=plan.title,
        steps={step.step_id: step.action for step in plan.steps},
        evaluation=plan.evaluation,
        moment=moment,
        approvers=tuple(approval.approver for approval in plan.approvals),
        then=_said(verdict, verdict),
        now=_said(assessment, verdict),
    )


def render_explanation(explanation: Explanation) -> RenderableType:
    """An explanation as text."""
    groups = f" ({', '.join(explanation.groups)})" if explanation.groups else ""
    approved = ", ".join(explanation.approvers) or "nobody"
    lines = [
        Text(explanation.title, "bold"),
        Text(
            f"asked by {explanation.requester}{groups}, tenant {explanation.tenant}; "
            f"approved by {approved}"
        ),
        Text(f"evaluation {explanation.evaluation}, judged as of {explanation.moment:%c} UTC"),
        Text(),
        *_lines("verdict", explanation.then, explanation.steps),
    ]
    if explanation.now.policy_set == explanation.then.policy_set:
        lines.append(Text("The same policies are in force today.", "dim"))
    else:
        lines += [Text(), *_lines("by today's policies", explanation.now, explanation.steps)]
    return Group(*lines)


def _is_verdict(event: Any) -> bool:
    return bool(event.message_type == "Verdict")


def _said(source: Verdict | Assessment, verdict: Verdict) -> Said:
    plan = verdict.plan
    return Said(
        decision=source.decision,
        reasons=source.reasons,
        obligations=source.obligations,
        missing=unmet(source.obligations, plan.approvals, requester=plan.requester),
        policies=source.policies,
        policy_set=source.policy_set,
    )


def _lines(heading: str, said: Said, steps: dict[str, str]) -> Iterator[Text]:
    yield Text.assemble(f"{heading}: ", render.status_text(said.decision))
    for reason in said.reasons:
        where = f"{reason.step_id} ({steps.get(reason.step_id, '?')})" if reason.step_id else ""
        yield Text.assemble("  ", (reason.policy, "cyan"), f"  {where}")
        yield Text(f"    {reason.text}")
    for obligation in said.obligations:
        if obligation not in said.missing:
            people = f"{obligation.approvers} approval{'s' if obligation.approvers > 1 else ''}"
            yield Text.assemble("  ", (obligation.policy, "cyan"), f"  has its {people}")
    if said.policies:
        yield Text(f"  policies that spoke: {', '.join(said.policies)}", "dim")
    if said.policy_set is not None:
        yield Text(f"  policy set {said.policy_set[:12]}", "dim")

"""Judging a plan: the catalogue's rules and the policies, step by step.

Pure: the moment is an argument, so the same plan at the same moment is judged the same.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from agents.policies.policy import Policy
from agents.policies.policy_set import NO_PERMIT, PolicySet
from agents.policies.questions import Asker, Target, approvals_by_others, name_of
from agents.policies.rules import APPROVAL, objections_to, obligations_of
from agents.runtime.assessment import Assessment
from agents.runtime.catalogue import ActionSpec, Catalogue
from agents.runtime.errors import PermanentError
from schemas import Obligation, Plan, PlanStep, Reason, Step, unmet
from schemas.verdict import Decision


@dataclass
class _Findings:
    """What has been found against a plan so far."""

    denials: list[Reason] = field(default_factory=list)
    obligations: list[Obligation] = field(default_factory=list)
    asks: dict[tuple[str, str | None], str] = field(default_factory=dict)
    """By policy and step, why its approval is asked for."""
    spoke: set[str] = field(default_factory=set)


APPROVAL_TTL: Final = timedelta(hours=1)


class Judge:
    """Judges plans by one catalogue and one set of policies.

    Args:
        catalogue: The catalogue in use.
        policies: Those that are in force.
        approval_ttl: How long approval is waited for where a policy does not say.
    """

    def __init__(
        self, catalogue: Catalogue, policies: PolicySet, approval_ttl: timedelta = APPROVAL_TTL
    ) -> None:
        self._catalogue = catalogue
        self._approval_seconds = approval_ttl.total_seconds()
        self.policies = policies

    def judge(self, plan: Plan, *, tenant: str, lane: str, moment: datetime) -> Assessment:
        """Whether ``plan`` may run; see :meth:`agents.runtime.assessment.Policies.judge`."""
        return self._judge(plan, plan.steps, tenant, lane, moment, resolved=False)

    def judge_step(
        self, plan: Plan, step: Step, *, tenant: str, lane: str, moment: datetime
    ) -> Assessment:
        """Whether one step may run; see :meth:`agents.runtime.assessment.Policies.judge_step`."""
        planned = next((each for each in plan.steps if each.step_id == step.step_id), None)
        if planned is None or planned.action != step.action:
            raise PermanentError(
                f"the plan has no step {step.step_id} that does {step.action}", code="invalid_plan"
            )
        final = planned.model_copy(update={"parameters": step.parameters})
        return self._judge(plan, (final,), tenant, lane, moment, resolved=True)

    def _judge(
        self,
        plan: Plan,
        steps: Sequence[PlanStep],
        tenant: str,
        lane: str,
        moment: datetime,
        *,
        resolved: bool,
    ) -> Assessment:
        asker = Asker(
            plan,
            tenant=tenant,
            lane=lane,
            moment=moment,
            zone=self.policies.zone,
            interest=self.policies.interest,
        )
        found = _Findings()
        for step in steps:
            objections = list(
                objections_to(step, self._catalogue, tenant=tenant, resolved=resolved)
            )
            found.denials += objections
            for obligation in obligations_of(step, self._catalogue):
                found.obligations.append(self._timed(obligation))
                found.asks[APPROVAL, step.step_id] = f"{step.action} needs approval each time."
            if not any(objection.policy in _UNASKABLE for objection in objections):
                self._ask(asker, plan, step, tenant, found, resolved=resolved)
        return _conclude(plan, found, self.policies.digest)

    def _ask(
        self,
        asker: Asker,
        plan: Plan,
        step: PlanStep,
        tenant: str,
        found: _Findings,
        *,
        resolved: bool,
    ) -> None:
        """Ask the policies about ``step`` and note what they find."""
        action = self._catalogue.actions[step.action]
        try:
            for target, question in asker.questions(step, action, resolved=resolved):
                finding = self.policies.ask(question)
                deed = _deed(action, target)
                if finding.errors:
                    found.denials.append(_undecided(step, deed, "; ".join(finding.errors)))
                    continue
                found.spoke.update(policy.id for policy in finding.spoke)
                values = {
                    "action": action.id,
                    "deed": deed,
                    "requester": plan.requester,
                    "risk": action.risk,
                    "tenant": tenant,
                }
                denials = list(_denials(finding.spoke, step, values))
                if not denials and not finding.is_permitted:
                    denials = [_unpermitted(step, values)]
                found.denials += denials
                for policy in finding.spoke:
                    if policy.obligation is not None:
                        obligation = policy.obligation
                        if not policy.says_how_long:
                            obligation = self._timed(obligation)
                        _oblige(found, policy, obligation, step, values)
        except (ArithmeticError, ValueError, PermanentError) as error:
            # A value that policies cannot be shown, such as a number beyond Cedar's.
            found.denials.append(_undecided(step, action.id, str(error)))

    def _timed(self, obligation: Obligation) -> Obligation:
        return obligation.model_copy(update={"expires_after": self._approval_seconds})


_UNASKABLE = frozenset({"catalogue.action", "catalogue.parameters"})
"""What is wrong with a step that does not even fit the schema that policies are written for."""


def _denials(
    policies: Sequence[Policy], step: PlanStep, values: dict[str, str]
) -> Iterator[Reason]:
    for policy in policies:
        if policy.effect == "forbid" and policy.obligation is None:
            yield Reason(
                policy=policy.id,
                code="policy_denied",
                text=policy.says(values),
                step_id=step.step_id,
            )


def _unpermitted(step: PlanStep, values: dict[str, str]) -> Reason:
    return Reason(
        policy=NO_PERMIT,
        code="policy_denied",
        text=(
            f"No policy permits {values['requester']} of tenant {values['tenant']} to do "
            f"{values['deed']}. Have one added that does."
        ),
        step_id=step.step_id,
    )


def _undecided(step: PlanStep, deed: str, why: str) -> Reason:
    return Reason(
        policy="policy-error",
        code="policy_error",
        text=(
            f"The policies came to no answer about {deed}, and what they cannot answer is denied: "
            f"{why}"
        )[:8_000],
        step_id=step.step_id,
    )


def _oblige(
    found: _Findings,
    policy: Policy,
    obligation: Obligation,
    step: PlanStep,
    values: dict[str, str],
) -> None:
    key = (policy.id, step.step_id)
    if key not in found.asks:
        found.asks[key] = policy.says(values)
        found.obligations.append(obligation.model_copy(update={"step_id": step.step_id}))


def _conclude(plan: Plan, found: _Findings, digest: str) -> Assessment:
    obligations: tuple[Obligation, ...] = tuple(found.obligations)
    missing = unmet(obligations, plan.approvals, requester=plan.requester)
    decision: Decision
    reasons: tuple[Reason, ...]
    if found.denials:
        decision, reasons, obligations = "denied", tuple(found.denials), ()
    elif missing:
        decision = "needs_approval"
        reasons = tuple(_request(plan, each, found.asks) for each in missing)
    else:
        decision, reasons = "approved", ()
    return Assessment(
        decision=decision,
        reasons=reasons,
        obligations=obligations,
        policies=tuple(sorted(found.spoke)),
        policy_set=digest,
    )


def _request(plan: Plan, obligation: Obligation, asks: dict[tuple[str, str | None], str]) -> Reason:
    """Why approval is asked for, of whom, and how much of it there is."""
    people = approvals_by_others(plan)
    given = sum(obligation.admits(each.approver, each.groups) for each in people)
    many = obligation.approvers > 1
    who = f"{obligation.approvers} different people" if many else "one person"
    allowed = [*obligation.users, *(f"the group {group}" for group in obligation.groups)]
    of_whom = f" ({' or '.join(allowed)})" if allowed else ""
    besides = "none of them" if many else "not"
    have = f"; {given} of them {'has' if given == 1 else 'have'} approved" if many else ""
    return Reason(
        policy=obligation.policy,
        code="needs_approval",
        text=(
            f"{asks[obligation.policy, obligation.step_id]} It runs when approved by {who}"
            f"{of_whom}, {besides} {plan.requester}{have}."
        ),
        step_id=obligation.step_id,
    )


def _deed(action: ActionSpec, target: Target) -> str:
    name = name_of(target)
    if not name:
        return action.id
    return f"{action.id} {name}" if name.startswith("in ") else f"{action.id} of {name}"

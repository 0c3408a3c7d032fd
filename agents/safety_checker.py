"""Safety checker: says whether a plan may run, by what the catalogue allows and who approved.

Consumes ``Plan``; emits ``Verdict``, bound to the hash of that very plan and recorded in the
ledger before anybody hears of it. Nothing else writes verdicts, and executors run nothing without
one.
"""

from collections.abc import Iterator
from datetime import timedelta

from agents.runtime import Context, role
from agents.runtime.catalogue import ActionSpec, Catalogue
from agents.runtime.catalogue.entries import ENVIRONMENT
from agents.runtime.errors import PermanentError
from schemas import (
    AgentMessage,
    Obligation,
    Plan,
    PlanStep,
    Reason,
    Verdict,
    hash_plan,
    remaining,
)

_APPROVERS = {"low": 1, "medium": 1, "high": 2}
"""By risk, how many people must approve an action that needs approval."""


@role("safety_checker")
async def check(plan: Plan, ctx: Context) -> AgentMessage[Verdict]:
    """Judge ``plan``; a plan that was judged before keeps its verdict.

    The same plan with approvals is another evaluation, under a message id of its own.

    Raises:
        PermanentError: The plan's hash is not that of its steps.
    """
    expected = hash_plan(plan.steps, lane=ctx.lane, correlation_id=ctx.correlation_id)
    if plan.plan_hash != expected:
        raise PermanentError(
            f"the plan says its hash is {plan.plan_hash}, but its steps have {expected}",
            code="invalid_plan",
        )
    objections = tuple(objections_to(plan, ctx.catalogue, tenant=ctx.tenant))
    obligations = tuple(obligations_of(plan, ctx.catalogue, ctx.settings.approval_ttl))
    missing = remaining(obligations, plan.approvals, requester=plan.requester)
    verdict = Verdict(
        request_id=plan.request_id,
        plan_id=ctx.message.message_id,
        decision="denied" if objections else "needs_approval" if missing else "approved",
        reasons=objections or tuple(_wanted(each, plan) for each in missing),
        plan=plan,
        obligations=() if objections else obligations,
    )
    return await ctx.ledger.record_verdict(ctx.compose(verdict, 0))


def objections_to(plan: Plan, catalogue: Catalogue, *, tenant: str) -> Iterator[Reason]:
    """Every rule of the catalogue that speaks against a step of ``plan``, in the steps' order."""
    for step in plan.steps:
        action = catalogue.actions.get(step.action)
        if action is None:
            yield Reason(
                policy="catalogue.action",
                code="unknown_action",
                text=f"The catalogue has no action {step.action}.",
                step_id=step.step_id,
            )
            continue
        yield from _mismatches(step, action)
        yield from _by_action(step, action, tenant)
        yield from _by_environment(step, action, catalogue)


def obligations_of(plan: Plan, catalogue: Catalogue, within: timedelta) -> Iterator[Obligation]:
    """Whose approval the steps of ``plan`` need, by the catalogue, and how soon."""
    for step in plan.steps:
        action = catalogue.actions.get(step.action)
        if action is not None and action.needs_approval:
            yield Obligation(
                policy="catalogue.approval",
                approvers=_APPROVERS[action.risk],
                step_id=step.step_id,
                expires_after=within.total_seconds(),
            )


def _wanted(obligation: Obligation, plan: Plan) -> Reason:
    action = next(step.action for step in plan.steps if step.step_id == obligation.step_id)
    number = obligation.approvers
    more = " more" if plan.approvals else ""
    who = f"one{more} person" if number == 1 else f"{number}{more} people"
    return Reason(
        policy=obligation.policy,
        code="needs_approval",
        text=f"{action} needs the approval of {who} other than {plan.requester}.",
        step_id=obligation.step_id,
    )


def _mismatches(step: PlanStep, action: ActionSpec) -> Iterator[Reason]:
    declared = (action.executor, action.effect, action.risk)
    if (step.executor, step.effect, step.risk) != declared:
        yield Reason(
            policy="catalogue.action",
            code="invalid_plan",
            text=(
                f"The plan says that {action.id} is {step.effect} of {step.risk} risk done by "
                f"{step.executor}; the catalogue says {action.effect} of {action.risk} risk done "
                f"by {action.executor}. Plan it again."
            ),
            step_id=step.step_id,
        )
    for problem in action.check_parameters(step.parameters):
        yield Reason(
            policy="catalogue.parameters",
            code="invalid_parameters",
            text=f"{action.id}: {problem}.",
            step_id=step.step_id,
        )


def _by_action(step: PlanStep, action: ActionSpec, tenant: str) -> Iterator[Reason]:
    if action.allowed_tenants is not None and tenant not in action.allowed_tenants:
        yield Reason(
            policy="catalogue.tenants",
            code="policy_denied",
            text=f"Tenant {tenant} may not use {action.id}.",
            step_id=step.step_id,
        )


def _by_environment(step: PlanStep, action: ActionSpec, catalogue: Catalogue) -> Iterator[Reason]:
    for name, _ in action.parameters_of(ENVIRONMENT):
        place = step.parameters.get(name)
        environment = catalogue.environments.get(place) if isinstance(place, str) else None
        if environment is None:
            yield Reason(
                policy="catalogue.environment",
                code="policy_denied",
                text=(
                    f"The environment of {action.id} must be named in the plan itself, as one of "
                    f"{', '.join(catalogue.environments)}."
                ),
                step_id=step.step_id,
            )
            continue
        if not environment.allows(action.risk):
            yield Reason(
                policy="catalogue.max_risk",
                code="policy_denied",
                text=(
                    f"{action.id} is of {action.risk} risk; {place} allows at most "
                    f"{environment.max_risk} risk."
                ),
                step_id=step.step_id,
            )
        if action.allowed_environments is not None and place not in action.allowed_environments:
            yield Reason(
                policy="catalogue.allowed_environments",
                code="policy_denied",
                text=(
                    f"{action.id} may run in {', '.join(action.allowed_environments)} only, "
                    f"not in {place}."
                ),
                step_id=step.step_id,
            )

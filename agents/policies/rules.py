"""The catalogue's own rules, which hold whatever the policies say."""

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Final

from agents.runtime.catalogue import ENVIRONMENT, ActionSpec, Catalogue
from agents.runtime.references import find
from schemas import CostEstimate, Obligation, Plan, PlanStep, Reason
from schemas.plan import Risk

APPROVAL: Final = "catalogue.approval"
_APPROVERS: Final[Mapping[Risk, int]] = {"low": 1, "medium": 1, "high": 2}
"""By risk, how many people must approve an action that needs approval."""
_LONGEST: Final = 8_000


def objections_to(
    step: PlanStep, catalogue: Catalogue, *, tenant: str, resolved: bool
) -> Iterator[Reason]:
    """Every rule of the catalogue that speaks against ``step``.

    Args:
        step: One step of a plan.
        catalogue: The catalogue in use.
        tenant: Who the plan is accounted to.
        resolved: Whether the step's parameters are final, rather than perhaps references.
    """
    action = catalogue.actions.get(step.action)
    if action is None:
        yield Reason(
            policy="catalogue.action",
            code="unknown_action",
            text=(
                f"The catalogue has no action {step.action} any more, or not yet. Ask for another "
                "one; `millstream actions ls` names them all."
            ),
            step_id=step.step_id,
        )
        return
    yield from _mismatches(step, action, resolved=resolved)
    yield from _by_tenant(step, action, tenant)
    yield from _by_environment(step, action, catalogue)


def obligations_of(step: PlanStep, catalogue: Catalogue) -> Iterator[Obligation]:
    """The approval that the catalogue asks for."""
    action = catalogue.actions.get(step.action)
    if action is not None and action.needs_approval:
        yield Obligation(policy=APPROVAL, approvers=_APPROVERS[action.risk], step_id=step.step_id)


def played_down(plan: Plan, catalogue: Catalogue) -> Iterator[str]:
    """What ``plan`` says of its cost and its limits that the catalogue does not cover.

    The plan's hash leaves them out, since a cheaper price changes nothing of what will happen; but
    budgets are reserved by them, and people and policies look at them.
    """
    for step in plan.steps:
        action = catalogue.actions.get(step.action)
        if action is None:
            continue  # the judge says so
        if step.cost != action.cost and any(
            told < true for told, true in zip(_parts(step.cost), _parts(action.cost), strict=True)
        ):
            yield (
                f"step {step.step_id!r} is said to cost {step.cost.total} US dollars; by the "
                f"catalogue {action.id} costs {action.cost.total}"
            )
        if step.retry.max_attempts > action.retry.max_attempts or step.timeout > action.timeout:
            yield (
                f"step {step.step_id!r} would take {step.retry.max_attempts} attempts of "
                f"{step.timeout:g} s; the catalogue allows {action.id} "
                f"{action.retry.max_attempts} of {action.timeout:g} s"
            )
    # What undoes others is not expected to be done.
    if plan.cost.total != sum(step.cost.total for step in plan.steps if step.compensates is None):
        yield f"it is said to cost {plan.cost.total} US dollars, which is not the sum of its steps"


def out_of_order(plan: Plan) -> Iterator[str]:
    """What keeps the steps of ``plan`` from being run in the order in which they stand.

    A step that waits for one that never comes would keep its execution open until its deadline.
    """
    before: set[str] = set()
    for step in plan.steps:
        for name in step.depends_on:
            if name not in before:
                yield f"step {step.step_id!r} waits for {name!r}, which does not come before it"
        for reference in sorted(find(step.parameters), key=str):
            if reference.step_id not in step.depends_on:
                yield f"step {step.step_id!r} refers to {reference} and does not wait for it"
        if step.step_id in before:
            yield f"two steps are {step.step_id!r}"
        before.add(step.step_id)


def _parts(cost: CostEstimate) -> tuple[Decimal, ...]:
    return (cost.database_storage, cost.compute_hours, cost.api_calls, cost.llm_tokens)


def _mismatches(step: PlanStep, action: ActionSpec, *, resolved: bool) -> Iterator[Reason]:
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
    for problem in action.check_parameters(step.parameters, allow_references=not resolved):
        yield Reason(
            policy="catalogue.parameters",
            code="invalid_parameters",
            text=f"{action.id}: {problem}."[:_LONGEST],
            step_id=step.step_id,
        )


def _by_tenant(step: PlanStep, action: ActionSpec, tenant: str) -> Iterator[Reason]:
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

"""Planner: turns an intent into an ordered plan of catalogue actions.

Consumes ``Intent``; emits ``Plan``, or an ``Outcome`` that names everything that keeps the steps
from being a plan.
"""

from typing import Final

from agents.planning.checking import find_problems, in_order, prerequisites
from agents.planning.compensating import compensations
from agents.planning.drafting import draft
from agents.runtime.catalogue import Catalogue, UnknownActionError
from agents.runtime.context import Context
from agents.runtime.roles import role
from schemas import CostEstimate, Intent, Outcome, Plan, PlannedStep, PlanStep, hash_plan
from schemas.plan import OnFailure

_LONGEST_REASON: Final = 8_000
_NOTHING_TO_UNDO: Final = (
    "a failure is to be compensated, but the catalogue says of none of its actions what undoes it; "
    "declare a compensation, or let on_failure be stop or continue"
)


@role("planner")
async def plan(intent: Intent, ctx: Context) -> Plan | Outcome:
    """The plan for ``intent``: steps complete with the catalogue's word, in an order that works."""
    try:
        drafted = intent.steps or draft(intent.actions, ctx.catalogue)
    except UnknownActionError as error:
        return _refusal(intent, [error.reason])
    if not drafted:
        return _refusal(intent, ["the intent holds neither actions nor steps"])
    problems = find_problems(drafted, ctx.catalogue)
    if problems:
        return _refusal(intent, [str(problem) for problem in problems])
    ordered = in_order(drafted)
    position = {step.step_id: at for at, step in enumerate(ordered)}
    steps = [_complete(step, position, intent.on_failure, ctx.catalogue) for step in ordered]
    undoing: list[PlanStep] = []
    if any(step.on_failure == "compensate" for step in steps):
        undone, problems = compensations(steps, ctx.catalogue)
        if problems:
            return _refusal(intent, [str(problem) for problem in problems])
        if not undone:
            return _refusal(intent, [_NOTHING_TO_UNDO])
        undoing = [
            _complete(undo, position, "stop", ctx.catalogue).replace(compensates=step_id)
            for step_id, undo in undone
        ]
    every = (*steps, *undoing)
    return Plan(
        request_id=intent.request_id,
        title=intent.title,
        requester=intent.requester,
        groups=intent.groups,
        steps=every,
        cost=sum((step.cost for step in steps), CostEstimate()),
        plan_hash=hash_plan(every, lane=ctx.lane, correlation_id=ctx.correlation_id),
    )


def _complete(
    step: PlannedStep, position: dict[str, int], on_failure: OnFailure, catalogue: Catalogue
) -> PlanStep:
    spec = catalogue.action(step.action)
    return PlanStep(
        step_id=step.step_id,
        action=step.action,
        parameters=spec.complete(step.parameters),
        depends_on=tuple(sorted(prerequisites(step), key=lambda name: position[name])),
        executor=spec.executor,
        effect=spec.effect,
        risk=spec.risk,
        timeout=spec.timeout,
        retry=spec.retry,
        cost=spec.cost,
        on_failure=step.on_failure or on_failure,
    )


def _refusal(intent: Intent, problems: list[str]) -> Outcome:
    reason = f"the plan cannot run: {'; '.join(problems)}"
    if len(reason) > _LONGEST_REASON:
        reason = f"{reason[:_LONGEST_REASON]}… ({len(problems)} problems in all)"
    return Outcome(
        request_id=intent.request_id,
        status="failed",
        code="invalid_plan",
        reason=reason,
        title=intent.title,
        requester=intent.requester,
    )

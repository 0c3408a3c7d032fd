"""What a run has cost, and what becomes of the money that its verdict holds back; pure.

An attempt costs what its step says once it is dispatched, however it ends. A verdict that has
reserved for its plan says so; the run remembers it, and its end, whatever that is, settles it in
the same transaction. A verdict that comes to nothing, since the execution was cancelled before or
belongs to another request, settles for nothing.
"""

from dataclasses import replace
from decimal import Decimal

from agents.routing.events import Event, GivenUp, Moved
from agents.routing.run import Run
from agents.runtime.budgets import Settlement
from schemas import AgentMessage, CostEstimate, Verdict


def account(moved: Moved, event: Event) -> tuple[Moved, Settlement | None]:
    """The move with its costs written down, and what is to be settled because of it."""
    run, verdict = moved.run, _reserving(event)
    if verdict is not None and run.spent_before is None and _is_of(run, verdict):
        run = run.replace(spent_before=_cost_of(run))
    costs = [run.planned(step.step_id).cost for step in moved.dispatch]
    if any(cost.total for cost in costs):
        run = run.replace(spent=sum(costs, run.spent or CostEstimate()))
    settlement = left_over(run, event)
    if not run.is_open and run.spent_before is not None and run.plan is not None:
        settlement = Settlement(run.plan.plan_hash, _cost_of(run) - run.spent_before)
        run = run.replace(spent_before=None)
    return replace(moved, run=run), settlement


def left_over(run: Run | None, event: Event) -> Settlement | None:
    """What is to be settled because of an event that does not change the run."""
    verdict = _reserving(event)
    if verdict is None or (run is not None and run.is_open and _is_of(run, verdict)):
        return None
    return Settlement(verdict.plan_hash, Decimal(0))


def _reserving(event: Event) -> Verdict | None:
    """The verdict that ``event`` is, or that nobody could handle, if it has reserved anything."""
    message = event.message if isinstance(event, GivenUp) else event
    match message:
        case AgentMessage(payload=Verdict() as verdict) if verdict.reserved is not None:
            return verdict
        case _:
            return None


def _is_of(run: Run, verdict: Verdict) -> bool:
    return run.plan is not None and run.plan.plan_hash == verdict.plan_hash


def _cost_of(run: Run) -> Decimal:
    return Decimal(0) if run.spent is None else run.spent.total

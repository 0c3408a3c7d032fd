"""What a failed step leads to: nothing more begins, others go on, or what was done is undone. Pure.

A step says so itself (``on_failure``). An effect in doubt stops everything: what would be undone,
or built upon, is not known before a person has resolved it.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Final

from agents.routing.run import Run
from agents.runtime.references import find
from schemas import StepState

SETTLED: Final = frozenset({"success", "failed", "unknown", "skipped"})
"""Statuses of a step of which nothing more will come."""
_FAILED: Final = frozenset({"failed", "unknown"})


def tolerated(run: Run) -> frozenset[str]:
    """The steps that have failed and were allowed to."""
    return frozenset(
        step.step_id
        for step in run.steps
        if step.status == "failed" and run.planned(step.step_id).on_failure == "continue"
    )


def first_failed(run: Run) -> StepState | None:
    """What keeps the run from going on, if anything does; what is in doubt before all else."""
    failed = [step for step in run.steps if step.status in _FAILED]
    if not failed:
        return None
    in_doubt = next((step for step in failed if step.status == "unknown"), None)
    allowed = frozenset[str]() if in_doubt else tolerated(run)
    return in_doubt or next((step for step in failed if step.step_id not in allowed), None)


def skip_pending(run: Run) -> Run:
    """The run without what has not begun."""
    return _skipped(run, run.steps)


def skip_unreachable(run: Run, failed: frozenset[str]) -> Run:
    """The run without the steps that need what ``failed`` ones would have put out.

    What waits for a step that is skipped is skipped as well; what only waits for a failed one is
    not.
    """
    gone: set[str] = set()
    for planned, step in run.in_pairs():  # each comes after those that it waits for
        if step.status == "pending" and (
            not gone.isdisjoint(planned.depends_on)
            or not failed.isdisjoint(each.step_id for each in find(planned.parameters))
        ):
            gone.add(step.step_id)
    return _skipped(run, (step for step in run.steps if step.step_id in gone)) if gone else run


def wind_up(run: Run) -> Run:
    """The run after a failure that is not allowed: what has not begun never will.

    Once nothing is in flight any more, what undoes the others follows, where the failure asks for
    that: the last step that was done is undone first. When undoing one of them fails the rest is
    left as it is, since it may rest upon it.
    """
    forward = [step for step in run.steps if step.compensates is None]
    run = _skipped(run, forward)
    undoing = run.steps[len(forward) :]
    if any(step.status in _FAILED for step in undoing):
        return skip_pending(run)
    if undoing or any(step.status not in SETTLED for step in run.steps):
        return run
    return _with_compensations(run)


def next_to_undo(run: Run, now: datetime) -> StepState | None:
    """What is undone next, if it can begin now; one after the other, so that their order holds."""
    for step in run.steps:
        if step.compensates is None or step.status in SETTLED:
            continue
        is_due = step.status == "pending" or (
            step.status == "waiting_retry" and run.retry_at.get(step.step_id, now) <= now
        )
        return step if is_due else None
    return None


def completed(run: Run, step_id: str) -> Run:
    """The run in which a step has been done, after all others; noted where it can be undone."""
    if not _is_undoable(run, step_id):
        return run
    before = (name for name in run.completed if name != step_id)
    return run.replace(completed=(*before, step_id))


def _is_undoable(run: Run, step_id: str) -> bool:
    """Whether the plan has a step that undoes this one."""
    plan = run.plan
    # Compensations come last, so that a plan without any is not searched.
    return (
        plan is not None
        and plan.steps[-1].compensates is not None
        and any(step.compensates == step_id for step in plan.steps)
    )


def _with_compensations(run: Run) -> Run:
    failed = [step for step in run.steps if step.status in _FAILED]
    if (
        run.plan is None
        or any(step.status == "unknown" for step in failed)
        or not any(run.planned(step.step_id).on_failure == "compensate" for step in failed)
    ):
        return run
    by_undone = {step.compensates: step for step in run.plan.steps if step.compensates is not None}
    undoing = tuple(
        StepState(
            step_id=by_undone[step_id].step_id,
            action=by_undone[step_id].action,
            status="pending",
            compensates=step_id,
        )
        for step_id in reversed(run.completed)
    )
    return run.replace(steps=(*run.steps, *undoing))


def _skipped(run: Run, given: Iterable[StepState]) -> Run:
    """The run without those of the given steps that have not begun."""
    gone = {step.step_id for step in given if step.status in ("pending", "waiting_retry")}
    if not gone:
        return run
    return run.replace(
        steps=tuple(
            step.replace(status="skipped") if step.step_id in gone else step for step in run.steps
        ),
        retry_at={name: due for name, due in run.retry_at.items() if name not in gone},
    )

"""The demo's story: what is asked, and what must come of it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ops.timeline import Timeline
from schemas import ExecutionStatus

Check = Callable[[Timeline], bool]
APPROVERS: Final = ("ann", "bob")
"""Who has a key in the story."""
EXAMPLES: Final = Path(__file__).with_name("examples")


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One request and its expected end."""

    intro: str
    """What it shows, in a sentence."""
    ends: ExecutionStatus
    shows: Check
    """Whether the timeline has what the scene is about."""
    text: str | None = None
    plan: Path | None = None
    fault: dict[str, Any] | None = None
    """What the playground is told beforehand."""
    approved_by: tuple[str, ...] = ()
    """Who approves it, one after the other, each with a key of their own."""

    @property
    def asked(self) -> str:
        """What a person would type."""
        if self.plan is not None:
            return f"--plan {self.plan.relative_to(EXAMPLES.parents[1])}"
        return f'"{self.text}"'

    def problem(self, timeline: Timeline) -> str | None:
        """What did not come out as the story has it; ``None`` when all did."""
        if timeline.status is not self.ends:
            return f"{self.asked} ended as {timeline.status}, not as {self.ends}"
        if not self.shows(timeline):
            return f"{self.asked} did not show: {self.intro}"
        return None


def _all_succeeded(number: int) -> Check:
    return lambda timeline: (
        len(timeline.steps) == number and all(step.status == "success" for step in timeline.steps)
    )


def _nothing_ran(timeline: Timeline) -> bool:
    return all(step.attempts == 0 for step in timeline.steps)


def _compared_in_parallel(timeline: Timeline) -> bool:
    steps = {step.step_id: step for step in timeline.steps}
    order = [event.payload.get("step_id") for event in timeline.events]
    # Both checks had been sent off before either of them had a result.
    began = {order.index("staging"), order.index("production")}
    return (
        _all_succeeded(4)(timeline)
        and max(began) - min(began) == 1
        and steps["tell"].parameters["text"] == f"checkout: {steps['compare'].output['summary']}"
    )


def _approved_by_both(timeline: Timeline) -> bool:
    verdicts = [e.payload["decision"] for e in timeline.events if e.message_type == "Verdict"]
    return _all_succeeded(1)(timeline) and verdicts == ["needs_approval", "approved"]


def _third_attempt(timeline: Timeline) -> bool:
    return [step.attempts for step in timeline.steps] == [3]


STORY: Final = (
    Scene(
        intro="Plain language: two actions in one sentence become two steps, in order.",
        text="restart checkout in staging and tell #releases",
        ends=ExecutionStatus.SUCCESS,
        shows=_all_succeeded(2),
    ),
    Scene(
        intro="A ready-made plan: two checks at once, a comparison of their outputs, a message.",
        plan=EXAMPLES / "compare-checkout.yaml",
        ends=ExecutionStatus.SUCCESS,
        shows=_compared_in_parallel,
    ),
    Scene(
        intro="Values are read from the text: a database, a number, two environments.",
        text="back up the orders db in staging, then scale search to 4 replicas in development",
        ends=ExecutionStatus.SUCCESS,
        shows=_all_succeeded(2),
    ),
    Scene(
        intro="Nothing runs without a verdict, and this one is no.",
        text="delete checkout in production",
        ends=ExecutionStatus.DENIED,
        shows=_nothing_ran,
    ),
    Scene(
        intro="An environment is never guessed; the requester is asked instead.",
        text="restart payments",
        ends=ExecutionStatus.NEEDS_CLARIFICATION,
        shows=_nothing_ran,
    ),
    Scene(
        intro="The service answers 503 twice; the step is tried again until it works.",
        text="restart inventory in staging",
        fault={"service": "inventory", "environment": "staging", "count": 2, "status": 503},
        ends=ExecutionStatus.SUCCESS,
        shows=_third_attempt,
    ),
    Scene(
        intro="What destroys needs two people, neither of them the requester; each signs.",
        text="delete search in staging",
        approved_by=APPROVERS,
        ends=ExecutionStatus.SUCCESS,
        shows=_approved_by_both,
    ),
)

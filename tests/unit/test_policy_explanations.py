"""Why an execution got its verdict: what was said then, and what is said of it today."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from support.policies import FOLDER, MONDAY, SHIPPED, approval, plan_of, restart

from agents.policies import Judge, load_policies, schema_of, zone_of
from agents.runtime.errors import PermanentError
from ops.policy_view import Explanation, explain, render_explanation
from ops.render import as_text
from ops.timeline import Event, Timeline
from schemas import ExecutionStatus, Plan, Verdict

JUDGE = Judge(SHIPPED, load_policies(FOLDER, schema_of(SHIPPED), zone_of("UTC")))
NIGHT = MONDAY + timedelta(hours=14)


def verdict_on(plan: Plan, **changes: Any) -> Verdict:
    found = JUDGE.judge(plan, tenant="default", lane="", moment=NIGHT)
    return Verdict.model_validate(
        {
            "request_id": plan.request_id,
            "plan_id": UUID(int=3),
            "decision": found.decision,
            "reasons": found.reasons,
            "plan": plan,
            "obligations": found.obligations,
            "policies": found.policies,
            "policy_set": found.policy_set,
            "evaluated_at": NIGHT,
            **changes,
        }
    )


def timeline_of(*verdicts: Verdict) -> Timeline:
    absent = dict.fromkeys(Timeline.model_fields)
    events = tuple(
        Event(
            message_id=UUID(int=number),
            causation_id=None,
            message_type="Verdict",
            from_agent="safety_checker",
            timestamp=MONDAY,
            attempt=1,
            payload=verdict.model_dump(mode="json"),
        )
        for number, verdict in enumerate(verdicts)
    )
    fields = {
        "correlation_id": UUID(int=9),
        "tenant": "default",
        "status": ExecutionStatus.NEEDS_APPROVAL,
        "run_no": 1,
        "received_at": MONDAY,
        "steps": (),
        "events": events,
    }
    return Timeline.model_validate({**absent, **fields})


def shown(explanation: Explanation) -> str:
    return " ".join(as_text(render_explanation(explanation)).split())


def test_what_is_missing_is_said_and_what_is_there() -> None:
    plan = plan_of(restart("production"), groups=["web"], approvals=[approval("bob")])
    explanation = explain(timeline_of(verdict_on(plan)), JUDGE, lane="")
    assert explanation.then == explanation.now
    assert [each.policy for each in explanation.then.missing] == ["hours.medium-risk"]
    text = shown(explanation)
    for part in (
        "asked by ann (web), tenant default; approved by bob",
        "verdict: needs approval",
        "hours.medium-risk only (service.restart)",
        "It runs when approved by 2 different people, none of them ann; 1 of them has approved.",
        "production.approval has its 1 approval",
        "The same policies are in force today.",
    ):
        assert part in text


def test_other_policies_of_today_are_asked_about_the_moment_of_the_verdict() -> None:
    plan = plan_of(restart("production"))
    old = verdict_on(plan, decision="approved", reasons=(), obligations=(), policy_set="a" * 64)
    explanation = explain(timeline_of(old), JUDGE, lane="")
    assert (explanation.then.decision, explanation.now.decision) == ("approved", "needs_approval")
    assert "hours.medium-risk" in {reason.policy for reason in explanation.now.reasons}
    text = shown(explanation)
    assert "verdict: approved" in text
    assert "by today's policies: needs approval" in text


def test_a_verdict_from_before_there_were_policies_is_explained_too() -> None:
    plan = plan_of(restart("production"))
    bare = {"policies": (), "policy_set": None, "evaluated_at": None}
    explanation = explain(timeline_of(verdict_on(plan, **bare)), JUDGE, lane="")
    assert explanation.moment == MONDAY
    assert {reason.policy for reason in explanation.now.reasons} == {"production.approval"}


def test_the_newest_evaluation_is_the_one_that_is_explained() -> None:
    first = plan_of(restart("production"))
    people = [approval("bob"), approval("cleo")]
    second = plan_of(restart("production"), approvals=people).model_copy(update={"evaluation": 2})
    explanation = explain(timeline_of(verdict_on(second), verdict_on(first)), JUDGE, lane="")
    assert (explanation.evaluation, explanation.then.decision) == (2, "approved")


@pytest.mark.parametrize("timeline", [None, timeline_of()])
def test_an_execution_without_a_verdict_has_nothing_to_explain(timeline: Timeline | None) -> None:
    with pytest.raises(PermanentError, match="no verdict to explain"):
        explain(timeline, JUDGE, lane="")

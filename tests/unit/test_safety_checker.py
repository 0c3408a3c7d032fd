from typing import Any

import pytest

from agents.policies import PolicyFolder
from agents.routing.run import Run
from agents.runtime import Services
from agents.runtime.errors import PermanentError, RefusedMessageError
from agents.runtime.ports import RunRecord, Transition
from agents.runtime.settings import ROOT
from agents.runtime.testing import EPOCH, fake_context, fake_services, message_with, test_id
from agents.safety_checker import check
from schemas import (
    Approval,
    ApprovalRequest,
    CostEstimate,
    ExecutionStatus,
    Obligation,
    Plan,
    PlanStep,
    RetryPolicy,
    Verdict,
    hash_plan,
)

SERVICES = fake_services()
POLICIES = PolicyFolder(ROOT / "ops" / "policies", SERVICES.catalogue)


def plan_of(action_id: str, parameters: dict[str, Any], **changes: Any) -> Plan:
    action = SERVICES.catalogue.actions[action_id]
    values: dict[str, Any] = {
        "step_id": "only",
        "action": action_id,
        "parameters": parameters,
        "executor": action.executor,
        "effect": action.effect,
        "risk": action.risk,
        "timeout": action.timeout,
        "retry": action.retry,
        "cost": action.cost,
    }
    return plan_with(PlanStep.model_validate(values | changes))


def plan_with(*steps: PlanStep) -> Plan:
    return Plan(
        request_id=test_id("request"),
        title="title",
        requester="ann",
        steps=steps,
        cost=sum((step.cost for step in steps), CostEstimate()),
        plan_hash=hash_plan(steps, lane="", correlation_id=test_id("execution")),
    )


async def verdict_on(plan: Plan, services: Services | None = None) -> Verdict:
    services = fake_services(policies=POLICIES) if services is None else services
    recorded = await check(plan, fake_context(plan, role="safety_checker", services=services))
    return recorded.payload


async def where_router_took(plan: Plan, /, **changes: Any) -> Services:
    """Where the router has recorded the approvals of ``plan``, and has sent it back."""
    services = fake_services(policies=POLICIES)
    run = Run(
        request_id=plan.request_id,
        tenant="default",
        received_at=EPOCH,
        external_id=None,
        broker_id="broker",
        version=1,
        status=ExecutionStatus.NEEDS_APPROVAL,
        requester=plan.requester,
        plan=plan.replace(evaluation=1, approvals=()),
        approval=ApprovalRequest(
            evaluation=plan.evaluation,
            obligations=(),
            approvals=plan.approvals,
            expires_at=None,
        ),
        cause=test_id("cause"),
        started_at=EPOCH,
        updated_at=EPOCH,
    ).replace(**changes)
    record = RunRecord(
        lane="",
        correlation_id=test_id("execution"),
        version=1,
        status="needs_approval",
        is_open=True,
        document=run.model_dump_json().encode(),
        next_wakeup=None,
    )
    await services.ledger.advance(
        lane="",
        correlation_id=record.correlation_id,
        event_id=test_id("approve"),
        decide=lambda _run: Transition(record),
    )
    return services


def restart(environment: str) -> Plan:
    return plan_of("service.restart", {"service": "checkout", "environment": environment})


async def test_a_plan_within_the_rules_is_approved_and_bound_to_its_hash() -> None:
    plan = restart("staging")
    verdict = await verdict_on(plan)
    assert verdict.decision == "approved"
    assert verdict.plan_hash == plan.plan_hash
    assert verdict.plan == plan


async def test_high_risk_is_denied_in_production_with_the_rule_and_the_reason() -> None:
    plan = plan_of("service.delete", {"service": "checkout", "environment": "production"})
    verdict = await verdict_on(plan)
    assert verdict.decision == "denied"
    assert "catalogue.max_risk" in {reason.policy for reason in verdict.reasons}
    assert "production allows at most medium risk" in verdict.reasons[0].text


@pytest.mark.parametrize("environment", ["${steps.before.output.version}", "stаging"])
async def test_an_environment_that_is_not_named_outright_is_denied(environment: str) -> None:
    before = restart("staging").steps[0].replace(step_id="before")
    step = restart(environment).steps[0].replace(depends_on=("before",))
    verdict = await verdict_on(plan_with(before, step))
    assert verdict.decision == "denied"
    assert "catalogue.environment" in {reason.policy for reason in verdict.reasons}


@pytest.mark.parametrize("change", [{"effect": "read"}, {"risk": "low"}, {"executor": "python"}])
async def test_a_plan_that_plays_an_action_down_is_denied(change: dict[str, str]) -> None:
    plan = plan_of("service.restart", {"service": "checkout", "environment": "staging"}, **change)
    verdict = await verdict_on(plan)
    assert verdict.decision == "denied"
    assert verdict.reasons[0].code == "invalid_plan"


async def test_an_action_that_the_catalogue_lacks_is_denied() -> None:
    plan = plan_of("service.restart", {}, action="service.explode")
    assert (await verdict_on(plan)).reasons[0].code == "unknown_action"


async def test_wrong_parameters_are_denied() -> None:
    plan = plan_of("service.restart", {"service": 5, "environment": "staging"})
    assert "invalid_parameters" in {r.code for r in (await verdict_on(plan)).reasons}


async def test_a_tenant_that_is_not_on_the_list_is_denied() -> None:
    services = fake_services()
    action = services.catalogue.actions["service.restart"]
    listed = action.model_copy(update={"allowed_tenants": ("acme",)})
    catalogue = services.catalogue.model_copy(
        update={"actions": {**services.catalogue.actions, "service.restart": listed}}
    )
    policies = PolicyFolder(ROOT / "ops" / "policies", catalogue)
    services = fake_services(catalogue=catalogue, policies=policies)
    plan = restart("staging")
    for tenant, decision in (("acme", "approved"), ("other", "denied")):
        message = message_with(plan, name=tenant, tenant=tenant)
        context = fake_context(plan, services=services, message=message)
        assert (await check(plan, context)).payload.decision == decision


async def test_a_hash_that_is_not_that_of_the_steps_is_no_plan() -> None:
    forged = restart("staging").model_copy(update={"plan_hash": "0" * 64})
    with pytest.raises(PermanentError, match="its steps have") as caught:
        await verdict_on(forged)
    assert caught.value.code == "invalid_plan"


async def test_a_plan_that_was_judged_keeps_its_verdict() -> None:
    services = fake_services(policies=POLICIES)
    plan = restart("staging")
    context = fake_context(plan, role="safety_checker", services=services)
    first = await check(plan, context)
    services.clock.advance(60)  # type: ignore[attr-defined]  # the test's own clock
    assert await check(plan, context) == first


async def test_a_verdict_says_what_was_judged_when_and_by_what() -> None:
    verdict = await verdict_on(restart("staging"))
    assert verdict.evaluated_at == EPOCH
    assert verdict.policies == ("tenants.outside-production",)
    assert verdict.policy_set == POLICIES.policies.digest
    assert verdict.obligations == ()


async def test_a_change_of_production_waits_for_an_approval() -> None:
    verdict = await verdict_on(restart("production"))
    assert verdict.decision == "needs_approval"
    assert [reason.policy for reason in verdict.reasons] == ["production.approval"]
    assert verdict.obligations == (Obligation(policy="production.approval", step_id="only"),)


async def test_a_plan_judged_again_with_its_approval_is_approved() -> None:
    plan = restart("production")
    approval = Approval(
        approver="bob", approved_at=EPOCH, command_id=test_id("command"), is_signed=True
    )
    approved = plan.model_copy(update={"approvals": (approval,), "evaluation": 2})
    assert approved.plan_hash == plan.plan_hash
    verdict = await verdict_on(approved, await where_router_took(approved))
    assert verdict.decision == "approved"


async def test_the_moment_of_a_verdict_is_enough_to_judge_again() -> None:
    plan = restart("production")
    services = fake_services(policies=POLICIES)
    services.clock.advance(3600 * 14)  # type: ignore[attr-defined]  # the test's own clock
    verdict = (await check(plan, fake_context(plan, services=services))).payload
    assert {reason.policy for reason in verdict.reasons} == {
        "production.approval",
        "hours.medium-risk",
    }
    assert verdict.evaluated_at is not None
    again = POLICIES.judge(plan, tenant="default", lane="", moment=verdict.evaluated_at)
    assert (again.decision, again.reasons, again.obligations, again.policies) == (
        verdict.decision,
        verdict.reasons,
        verdict.obligations,
        verdict.policies,
    )


async def test_without_policies_nothing_may_run() -> None:
    plan = restart("staging")
    verdict = (await check(plan, fake_context(plan, services=fake_services()))).payload
    assert (verdict.decision, verdict.reasons[0].policy) == ("denied", "no-policies")


DELETE = plan_of("service.delete", {"service": "checkout", "environment": "staging"})


def approved_by(*names: str) -> Plan:
    approvals = tuple(
        Approval(approver=name, approved_at=EPOCH, command_id=test_id(name), is_signed=True)
        for name in names
    )
    return DELETE.model_copy(update={"approvals": approvals, "evaluation": 2})


async def test_what_needs_approval_says_of_how_many_people_and_for_how_long() -> None:
    verdict = await verdict_on(DELETE)
    assert verdict.decision == "needs_approval"
    [obligation] = verdict.obligations
    assert (obligation.approvers, obligation.step_id) == (2, "only")
    assert obligation.expires_after == 3600
    assert verdict.reasons[0].text == (
        "service.delete of checkout in staging cannot be undone. It runs when approved by "
        "2 different people, none of them ann; 0 of them have approved."
    )


@pytest.mark.parametrize(
    ("names", "decision"),
    [
        (("bob",), "needs_approval"),
        (("bob", "BOB"), "needs_approval"),
        (("bob", "ann"), "needs_approval"),
        (("bob", "carol"), "approved"),
    ],
)
async def test_with_its_approvals_the_plan_is_judged_again(
    names: tuple[str, ...], decision: str
) -> None:
    plan = approved_by(*names)
    assert (await verdict_on(plan, await where_router_took(plan))).decision == decision


async def test_no_approval_lifts_what_is_forbidden() -> None:
    plan = plan_of("service.delete", {"service": "checkout", "environment": "production"})
    approvals = approved_by("bob", "carol").approvals
    approved = plan.model_copy(update={"approvals": approvals})
    verdict = await verdict_on(approved, await where_router_took(approved))
    assert (verdict.decision, verdict.obligations) == ("denied", ())


async def test_each_evaluation_of_a_plan_has_a_verdict_of_its_own() -> None:
    services = await where_router_took(approved_by("bob", "carol"))
    decisions = []
    for plan in (DELETE, approved_by("bob", "carol"), DELETE):
        message = message_with(plan, name=f"evaluation {plan.evaluation}")
        recorded = await check(plan, fake_context(plan, services=services, message=message))
        decisions.append(recorded.payload.decision)
    assert decisions == ["needs_approval", "approved", "needs_approval"]
    permits = [
        await services.ledger.approval(
            lane="",
            correlation_id=test_id("execution"),
            plan_id=test_id(f"evaluation {evaluation}"),
        )
        for evaluation in (1, 2)
    ]
    assert [each and each.plan_hash for each in permits] == [None, DELETE.plan_hash]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"approval": None}, id="nobody was asked"),
        pytest.param({"plan": None}, id="it has no plan"),
        pytest.param({"plan": restart("staging")}, id="the approvals are another plan's"),
        pytest.param({"requester": "bob"}, id="somebody else asked for it"),
        pytest.param({"tenant": "shop"}, id="for another tenant"),
        pytest.param(
            {"plan": DELETE.replace(groups=("sre",))}, id="for a requester of other groups"
        ),
        pytest.param(
            {
                "approval": ApprovalRequest(
                    evaluation=1, obligations=(), approvals=(), expires_at=None
                )
            },
            id="nobody has approved yet",
        ),
    ],
)
async def test_approvals_that_the_router_has_not_taken_are_no_approvals(
    changes: dict[str, Any],
) -> None:
    forged = approved_by("bob", "carol")
    services = await where_router_took(forged, **changes)
    with pytest.raises(RefusedMessageError, match="approved by bob, carol; the router has not"):
        await verdict_on(forged, services)
    assert (await services.ledger.recorded_verdict(lane="", plan_id=test_id("message"))) is None


@pytest.mark.parametrize(
    "changes", [{"evaluation": 1}, {"approvals": ()}, {"evaluation": 2}, {"evaluation": 99}]
)
async def test_without_a_run_there_are_no_approvals_and_no_second_evaluation(
    changes: dict[str, Any],
) -> None:
    with pytest.raises(RefusedMessageError, match="Approve, or retry, with a signed command"):
        await verdict_on(approved_by("bob", "carol").replace(**changes))


async def test_a_plan_that_was_judged_keeps_its_verdict_whatever_came_after_it() -> None:
    plan = approved_by("bob", "carol")
    services = await where_router_took(plan)
    first = await verdict_on(plan, services)
    # A retry has dropped the approvals since, as they have grown old.
    later = await where_router_took(plan.replace(approvals=(), evaluation=3))
    recorded = await services.ledger.recorded_verdict(lane="", plan_id=test_id("message"))
    assert recorded is not None
    await later.ledger.record_verdict(recorded)
    assert await verdict_on(plan, later) == first


async def test_one_forged_approval_among_true_ones_is_refused() -> None:
    true = approved_by("bob")
    forged = approved_by("bob", "carol")
    with pytest.raises(RefusedMessageError):
        await verdict_on(forged, await where_router_took(true))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"cost": CostEstimate()}, "'only' is said to cost 0 US dollars; by the catalogue"),
        ({"timeout": 86_400.0}, "attempts of 86400 s; the catalogue allows service.restart 4 of"),
        ({"retry": RetryPolicy(max_attempts=20)}, "would take 20 attempts"),
    ],
)
async def test_a_plan_that_plays_its_costs_and_limits_down_is_no_plan(
    changes: dict[str, Any], complaint: str
) -> None:
    target = {"service": "checkout", "environment": "staging"}
    with pytest.raises(PermanentError, match=complaint) as caught:
        await verdict_on(plan_of("service.restart", target, **changes))
    assert caught.value.code == "invalid_plan"


async def test_the_cost_of_a_plan_is_that_of_its_steps() -> None:
    plan = restart("staging")
    with pytest.raises(PermanentError, match="not the sum of its steps"):
        await verdict_on(plan.replace(cost=CostEstimate()))


async def test_a_price_that_has_fallen_since_is_no_reason_to_plan_again() -> None:
    dearer = CostEstimate(
        api_calls=SERVICES.catalogue.actions["service.restart"].cost.api_calls + 1,
        compute_hours=SERVICES.catalogue.actions["service.restart"].cost.compute_hours,
    )
    target = {"service": "checkout", "environment": "staging"}
    verdict = await verdict_on(plan_of("service.restart", target, cost=dearer))
    assert verdict.decision == "approved"


@pytest.mark.parametrize(
    "name", ["anonymous", "Anonymous", "ＡＮＯＮＹＭＯＵＳ", "anony\u200bmous "]
)
async def test_nobody_stays_nobody_however_it_is_written(name: str) -> None:
    plan = restart("production").replace(requester=name)
    verdict = await verdict_on(plan)
    assert verdict.decision == "denied"
    assert [reason.policy for reason in verdict.reasons] == ["production.known-requester"]


def chain(*waits: tuple[str, tuple[str, ...]], text: str = "x") -> Plan:
    """A plan of messages, each with the steps that it waits for."""
    one = plan_of("notify.send", {"channel": "#a", "text": text}).steps[0]
    return plan_with(*(one.replace(step_id=step_id, depends_on=names) for step_id, names in waits))


@pytest.mark.parametrize(
    ("plan", "complaint"),
    [
        (chain(("a", ("a",))), "step 'a' waits for 'a', which does not come before it"),
        (chain(("a", ("b",)), ("b", ("a",))), "step 'a' waits for 'b', which does not come"),
        (chain(("a", ("gone",))), "step 'a' waits for 'gone', which does not come before it"),
        (chain(("a", ()), ("a", ())), "two steps are 'a'"),
        (
            chain(("a", ()), ("b", ()), text="${steps.a.output.x}"),
            "step 'b' refers to .* and does not wait for it",
        ),
    ],
)
async def test_a_plan_that_would_never_end_is_no_plan(plan: Plan, complaint: str) -> None:
    with pytest.raises(PermanentError, match=complaint) as caught:
        await verdict_on(plan)
    assert caught.value.code == "invalid_plan"


async def test_steps_that_wait_for_earlier_ones_are_judged() -> None:
    verdict = await verdict_on(chain(("a", ()), ("b", ("a",)), ("c", ("a", "b"))))
    assert verdict.decision == "approved"

"""Judging plans: what cannot be decided is denied, and a denial says what would make it pass."""

from datetime import UTC, datetime, timedelta
from typing import Any

import cedarpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.policies import (
    FOLDER,
    MONDAY,
    PERMIT,
    SHIPPED,
    approval,
    assess,
    judge_by,
    plan_of,
    restart,
    step,
    with_actions,
)
from support.steps import action

from agents.policies import Judge, PolicyFolder
from agents.policies.cedar import Engine, Question, parse_policy
from agents.policies.interest import Interest
from agents.policies.questions import Asker
from agents.policies.schema import schema_of
from agents.runtime.assessment import Assessment
from schemas import Obligation, Plan, PlanStep

SET = PolicyFolder(FOLDER, SHIPPED)
NIGHT = datetime(2026, 1, 4, 3, tzinfo=UTC)


def forbid(condition: str, annotations: str = "") -> str:
    head = '@id("no") @reason("{deed} of {risk} risk for {requester} is no.")'
    remedy = "" if "@approvals" in annotations else '@remedy("Ask {tenant}.")'
    return (
        f"{PERMIT}{head} {remedy} {annotations}\nforbid (principal, action, resource){condition};"
    )


def texts(found: Assessment) -> list[str]:
    return [reason.text for reason in found.reasons]


# --- yes and no


def test_what_is_permitted_is_approved_and_says_by_what() -> None:
    found = assess(judge_by(PERMIT), plan_of(restart()))
    assert (found.decision, found.reasons, found.policies) == ("approved", (), ("all",))
    assert found.policy_set == judge_by(PERMIT).policies.digest


def test_what_nothing_permits_is_denied() -> None:
    reads = '@id("reads") permit (principal, action in Action::"read", resource);'
    found = assess(judge_by(reads), plan_of(restart()))
    assert found.decision == "denied"
    assert [reason.policy for reason in found.reasons] == ["no-permit"]
    assert (
        "No policy permits ann of tenant default to do service.restart of checkout"
        in texts(found)[0]
    )


def test_a_denial_says_why_and_what_would_make_it_pass() -> None:
    found = assess(judge_by(forbid("")), plan_of(restart()))
    assert found.decision == "denied"
    assert texts(found) == [
        "service.restart of checkout in staging of medium risk for ann is no. Ask default."
    ]
    reason = found.reasons[0]
    assert (reason.policy, reason.code, reason.step_id) == ("no", "policy_denied", "only")


def test_one_step_that_is_denied_denies_the_plan() -> None:
    judge = judge_by(forbid(' when { resource in Environment::"production" }'))
    steps = (restart(step_id="one"), restart("production", step_id="two"))
    found = assess(judge, plan_of(*steps))
    assert [(reason.step_id, reason.policy) for reason in found.reasons] == [("two", "no")]


def test_the_catalogue_holds_whatever_the_policies_permit() -> None:
    delete = step("service.delete", {"service": "web", "environment": "production"})
    found = assess(judge_by(PERMIT), plan_of(delete))
    assert [reason.policy for reason in found.reasons] == ["catalogue.max_risk"]


def test_an_action_that_the_catalogue_lacks_is_denied_without_being_asked_about() -> None:
    gone = restart().model_copy(update={"action": "service.gone"})
    found = assess(judge_by(PERMIT), plan_of(gone))
    assert [reason.code for reason in found.reasons] == ["unknown_action"]


# --- what cannot be decided


def scaled(replicas: Any, **changes: Any) -> PlanStep:
    parameters = {"service": "web", "environment": "staging", "replicas": replicas}
    return step("service.scale", parameters, **changes)


def test_a_forbid_that_cannot_be_evaluated_denies_although_cedar_would_allow() -> None:
    judge = judge_by(
        PERMIT + '@id("no") @reason("r") @remedy("m")'
        'forbid (principal, action == Action::"service.scale", resource)'
        "when { context.parameters has replicas &&"
        " context.parameters.replicas * 9223372036854775807 < 0 };"
    )
    assert assess(judge, plan_of(scaled(1))).decision == "approved"
    found = assess(judge, plan_of(scaled(3)))
    assert (found.decision, found.reasons[0].code) == ("denied", "policy_error")
    assert "overflow" in texts(found)[0]


def engine(text: str) -> Engine:
    return Engine({"one": parse_policy(text).body}, schema_of(SHIPPED))


def question(context: str) -> Question:
    entities = '[{"uid":{"type":"User","id":"ann"},"attrs":{"name":"ann"},"parents":[]}]'
    return Question("ann", "service.status", "", entities, context)


@pytest.mark.parametrize("context", ["{}", "no json", '{"risk": 5}', "\ud800"])
def test_a_question_that_does_not_fit_the_schema_is_never_allowed(context: str) -> None:
    answer = engine("permit (principal, action, resource);").ask(question(context))
    assert not answer.allowed
    assert answer.errors


def test_without_the_schema_cedar_would_allow_what_we_deny() -> None:
    """The trap itself: should Cedar close it, this test says that the guard may go."""
    policies = (
        "permit (principal, action, resource);"
        "forbid (principal, action, resource) when { context.approvals < 1 };"
    )
    asked = {
        "principal": 'User::"ann"',
        "action": 'Action::"service.status"',
        "resource": 'Target::""',
        "context": {},
    }
    assert cedarpy.is_authorized(asked, policies, []).allowed
    schema = schema_of(SHIPPED).handle
    assert not cedarpy.is_authorized(asked, policies, [], schema).allowed


@pytest.mark.parametrize("huge", [2**63, -(2**63) - 1, 10**400])
def test_a_number_beyond_cedars_is_denied(huge: int) -> None:
    counter = action("test.count", executor="python", effect="effect", parameters={"n": "integer"})
    catalogue = with_actions(counter)
    judge = judge_by(
        PERMIT + '@id("no") @reason("r") @remedy("m")'
        'forbid (principal, action == Action::"test.count", resource)'
        "when { context.parameters has n && context.parameters.n > 5 };",
        catalogue,
    )
    found = assess(judge, plan_of(step("test.count", {"n": huge}, catalogue=catalogue)))
    assert (found.decision, found.reasons[0].code) == ("denied", "policy_error")


@pytest.mark.parametrize("number", [5.00001, 1e300])
def test_a_limit_is_not_passed_by_what_rounding_takes_away(number: float) -> None:
    payer = action("test.pay", executor="python", effect="effect", parameters={"usd": "number"})
    catalogue = with_actions(payer)
    judge = judge_by(
        PERMIT + '@id("no") @reason("r") @remedy("m")'
        'forbid (principal, action == Action::"test.pay", resource)'
        "when { context.parameters has usd &&"
        ' context.parameters.usd.greaterThan(decimal("5.0")) };',
        catalogue,
    )
    paid = plan_of(step("test.pay", {"usd": number}, catalogue=catalogue))
    assert assess(judge, paid).decision == "denied"
    least = plan_of(step("test.pay", {"usd": 5}, catalogue=catalogue))
    assert assess(judge, least).decision == "approved"


def test_names_of_any_kind_are_names() -> None:
    for requester in ('"; permit(principal,action,resource);//', "ann\n", "Ann \u202e", "a" * 200):
        plan = plan_of(restart("production"), requester=requester)
        assert assess(SET, plan).decision == "needs_approval"


# --- who, what, where, when


def test_groups_and_tenants_are_what_principals_are_in() -> None:
    judge = judge_by(
        '@id("sre") permit (principal in Group::"sre", action, resource)'
        'when { principal in Tenant::"acme" && principal.name like "a*" };'
    )
    plan = plan_of(restart(), groups=["web", "sre"])
    assert assess(judge, plan, tenant="acme").decision == "approved"
    assert assess(judge, plan, tenant="other").decision == "denied"
    assert assess(judge, plan_of(restart()), tenant="acme").decision == "denied"
    assert (
        assess(judge, plan_of(restart(), requester="bo", groups=["sre"]), tenant="acme").decision
        == "denied"
    )


def test_an_allowed_thing_does_not_hide_another_one() -> None:
    two = action(
        "test.copy",
        executor="python",
        effect="effect",
        parameters={
            "source": {"description": "From.", "entity": "service"},
            "sink": {"description": "To.", "entity": "service"},
        },
    )
    catalogue = with_actions(two)
    judge = judge_by(
        '@id("web") permit (principal, action, resource in Service::"web");', catalogue
    )

    def decision(source: str, sink: str) -> str:
        copied = step("test.copy", {"source": source, "sink": sink}, catalogue=catalogue)
        return assess(judge, plan_of(copied)).decision

    assert decision("web", "web") == "approved"
    assert decision("web", "payments") == decision("payments", "web") == "denied"


def test_a_step_about_nothing_is_in_no_environment() -> None:
    judge = judge_by(forbid(" when { resource has environment }"))
    told = step("notify.send", {"channel": "#ops", "text": "hi"})
    assert assess(judge, plan_of(told)).decision == "approved"
    assert assess(judge, plan_of(restart())).decision == "denied"


def test_hours_are_those_of_the_deployments_time_zone() -> None:
    text = forbid(" unless { context.time.hour == 11 && context.time.weekday == 1 }")
    assert assess(judge_by(text, zone="Europe/Zurich"), plan_of(restart())).decision == "approved"
    assert assess(judge_by(text), plan_of(restart())).decision == "denied"


def test_dates_and_costs_are_numbers() -> None:
    text = forbid(" when { context.time.date >= 20261220 || context.plan.cost > 50000 }")
    judge = judge_by(text)
    assert assess(judge, plan_of(restart())).decision == "approved"
    december = datetime(2026, 12, 24, tzinfo=UTC)
    assert assess(judge, plan_of(restart()), moment=december).decision == "denied"
    three = [restart(step_id=f"s{number}") for number in range(3)]
    assert assess(judge, plan_of(*three)).decision == "denied"


def test_the_same_plan_at_the_same_moment_is_judged_the_same() -> None:
    plan = plan_of(restart("production"), scaled(3, step_id="two"))
    fresh = PolicyFolder(FOLDER, SHIPPED)
    for moment in (MONDAY, NIGHT):
        assert assess(SET, plan, moment=moment) == assess(fresh, plan, moment=moment)


def test_the_answer_is_not_remembered_past_its_hour() -> None:
    plan = plan_of(restart("production"), approvals=[approval("bob")])
    decisions = [
        assess(SET, plan, moment=datetime(2026, 1, 5, hour, 30, tzinfo=UTC)).decision
        for hour in (7, 8, 17, 18)
    ]
    assert decisions == ["needs_approval", "approved", "approved", "needs_approval"]


def test_high_risk_in_production_keeps_office_hours_where_the_catalogue_lets_it_in() -> None:
    production = SHIPPED.environments["production"].model_copy(update={"max_risk": "high"})
    catalogue = SHIPPED.model_copy(
        update={"environments": {**SHIPPED.environments, "production": production}}
    )
    policies = PolicyFolder(FOLDER, catalogue)
    delete = step("service.delete", {"service": "web", "environment": "production"})
    plan = plan_of(delete, approvals=[approval("bob"), approval("cleo")])
    by_day, by_night = (
        policies.judge(plan, tenant="default", lane="", moment=moment) for moment in (MONDAY, NIGHT)
    )
    assert by_day.decision == "approved"
    assert (by_night.decision, [reason.policy for reason in by_night.reasons]) == (
        "denied",
        ["hours.high-risk"],
    )


# --- references to outputs


def test_what_refers_to_an_output_is_not_there_yet() -> None:
    limit = (
        PERMIT + '@id("big") @reason("r") @remedy("m")'
        'forbid (principal, action == Action::"service.scale", resource)'
        "unless { context.parameters has replicas && context.parameters.replicas < 5 };"
    )
    judge = judge_by(limit)
    assert assess(judge, plan_of(scaled(4))).decision == "approved"
    assert assess(judge, plan_of(scaled("${steps.a.output.n}"))).decision == "denied"


def test_a_text_is_seen_as_it_will_be_handed_over() -> None:
    judge = judge_by(
        PERMIT + '@id("no") @reason("r") @remedy("m")'
        'forbid (principal, action == Action::"notify.send", resource)'
        'when { context.parameters has text && context.parameters.text like "*${secret}*" };'
    )
    told = step("notify.send", {"channel": "#ops", "text": "it is $${secret}"})
    assert assess(judge, plan_of(told)).decision == "denied"


@pytest.mark.parametrize(("name", "decision"), [("test_key", "approved"), ("live_key", "denied")])
def test_a_secret_is_seen_by_its_name(name: str, decision: str) -> None:
    signs = action(
        "release.sign",
        effect="effect",
        parameters={"key": {"description": "A key.", "secrets": ["test_key", "live_key"]}},
    )
    catalogue = with_actions(signs)
    judge = judge_by(
        PERMIT + '@id("no") @reason("r") @remedy("m")'
        'forbid (principal, action == Action::"release.sign", resource)'
        'unless { context.parameters has key && context.parameters.key == "${secret:test_key}" };',
        catalogue,
    )
    asked = step("release.sign", {"key": f"${{secret:{name}}}"}, catalogue=catalogue)
    assert assess(judge, plan_of(asked)).decision == decision


def test_a_secret_that_the_parameter_does_not_list_is_denied_whatever_policies_say() -> None:
    signs = action(
        "release.sign", parameters={"key": {"description": "A key.", "secrets": ["test_key"]}}
    )
    catalogue = with_actions(signs)
    asked = step("release.sign", {"key": "${secret:live_key}"}, catalogue=catalogue)
    found = assess(judge_by(PERMIT, catalogue), plan_of(asked))
    assert (found.decision, found.reasons[0].policy) == ("denied", "catalogue.parameters")


# --- approvals


def test_approval_is_asked_for_once_a_step_and_policy() -> None:
    judge = judge_by(
        forbid("", '@approvals("2") @approver_groups("sre, web") @approvals_expire("4h")')
    )
    found = assess(judge, plan_of(restart()))
    assert found.decision == "needs_approval"
    assert found.obligations == (
        Obligation(
            policy="no", approvers=2, groups=("sre", "web"), step_id="only", expires_after=14_400.0
        ),
    )
    reason = found.reasons[0]
    assert (reason.policy, reason.code) == ("no", "needs_approval")
    assert reason.text.endswith(
        "is no. It runs when approved by 2 different people (the group sre or the group web), "
        "none of them ann; 0 of them have approved."
    )


@pytest.mark.parametrize(
    ("approvals", "decision"),
    [
        ([approval("bob", "sre"), approval("cleo", "web")], "approved"),
        ([approval("bob", "sre"), approval("cleo")], "needs_approval"),
        ([approval("bob", "sre"), approval("BOB ", "sre")], "needs_approval"),
        ([approval("bob", "sre"), approval("Ann", "sre")], "needs_approval"),
        ([approval("bob", "sre"), approval("zoe")], "approved"),
    ],
)
def test_only_different_people_count_and_the_requester_never(approvals: Any, decision: str) -> None:
    annotations = '@approvals("2") @approver_groups("sre,web") @approver_users("zoe")'
    plan = plan_of(restart(), approvals=approvals)
    assert assess(judge_by(forbid("", annotations)), plan).decision == decision


def test_what_was_approved_still_says_by_which_policies() -> None:
    plan = plan_of(restart("production"), approvals=[approval("bob")])
    found = assess(SET, plan)
    assert (found.decision, found.reasons) == ("approved", ())
    assert found.policies == ("production.approval", "tenants.production")
    assert [obligation.policy for obligation in found.obligations] == ["production.approval"]


def test_approval_lifts_no_forbid_that_has_none() -> None:
    soft = '@id("soft") @reason("r") @approvals("1") forbid (principal, action, resource);'
    plan = plan_of(restart(), approvals=[approval("bob"), approval("cleo")])
    assert assess(judge_by(PERMIT + soft), plan).decision == "approved"
    assert assess(judge_by(forbid("") + soft), plan).decision == "denied"


def test_approval_is_no_permit() -> None:
    soft = '@id("soft") @reason("r") @approvals("1") forbid (principal, action, resource);'
    plan = plan_of(restart(), approvals=[approval("bob")])
    found = assess(judge_by(soft), plan)
    assert (found.decision, found.reasons[0].policy) == ("denied", "no-permit")


def test_policies_see_who_has_approved() -> None:
    judge = judge_by(
        forbid(' unless { context.approvals >= 2 && context.approvers.contains("bob") }')
    )
    people = [approval("bob"), approval("BOB"), approval("ann")]
    assert assess(judge, plan_of(restart(), approvals=people)).decision == "denied"
    people.append(approval("cleo"))
    assert assess(judge, plan_of(restart(), approvals=people)).decision == "approved"


@pytest.mark.parametrize(
    ("action_id", "approvers"), [("service.restart", 1), ("service.delete", 2)]
)
def test_the_catalogue_can_ask_for_approval_too(action_id: str, approvers: int) -> None:
    listed = SHIPPED.actions[action_id].model_copy(update={"needs_approval": True})
    catalogue = with_actions(listed)
    judge = judge_by(PERMIT, catalogue)
    wanted = step(action_id, {"service": "web", "environment": "staging"})
    found = assess(judge, plan_of(wanted))
    assert found.decision == "needs_approval"
    assert found.obligations == (
        Obligation(policy="catalogue.approval", approvers=approvers, step_id="only"),
    )
    people = [approval(name) for name in ("bob", "cleo")[:approvers]]
    assert assess(judge, plan_of(wanted, approvals=people)).decision == "approved"


def test_approval_is_waited_for_as_long_as_the_deployment_says_unless_the_policy_does() -> None:
    both = (
        '@id("own") @reason("r") @approvals("1") @approvals_expire("2h")'
        "forbid (principal, action, resource);"
        '@id("usual") @reason("r") @approvals("1") forbid (principal, action, resource);'
    )
    policies = judge_by(PERMIT + both).policies
    judge = Judge(SHIPPED, policies, approval_ttl=timedelta(minutes=5))
    found = assess(judge, plan_of(restart()))
    assert {each.policy: each.expires_after for each in found.obligations} == {
        "own": 7200.0,
        "usual": 300.0,
    }


# --- the shipped set


READS = [action for action in SHIPPED.actions.values() if action.effect == "read"]


@pytest.mark.parametrize("spec", READS, ids=lambda spec: spec.id)
@pytest.mark.parametrize("tenant", ["default", "sandbox", "nobody"])
@pytest.mark.parametrize("moment", [MONDAY, NIGHT])
def test_reading_always_passes(spec: Any, tenant: str, moment: datetime) -> None:
    for environment in SHIPPED.environments:
        values = {"service": "web", "environment": environment, "first": "1", "second": "2"}
        parameters = {name: values[name] for name in spec.parameters}
        plan = plan_of(step(spec.id, parameters), requester="anonymous")
        assert assess(SET, plan, tenant=tenant, moment=moment).decision == "approved"


def test_every_change_of_production_waits_for_a_person() -> None:
    values = {
        "service": "web",
        "environment": "production",
        "database": "orders",
        "version": "2.4.1",
        "replicas": 3,
    }
    for spec in SHIPPED.actions.values():
        if spec.effect == "read" or "environment" not in spec.parameters:
            continue
        parameters = {name: values[name] for name in spec.parameters}
        for hour in range(0, 24 * 7, 3):
            moment = MONDAY + timedelta(hours=hour)
            found = assess(SET, plan_of(step(spec.id, parameters)), moment=moment)
            assert found.decision != "approved", (spec.id, moment)


# --- what is left blank


CONDITIONS = [
    'principal == User::"ann" || principal in Group::"sre"',
    'principal.name like "b*"',
    '{who: principal}.who.name == "bo"',
    '[principal].contains(User::"bo")',
    'principal in [Tenant::"shop", Tenant::"acme"]',
    'resource in Service::"web" && !(principal in Tenant::"shop")',
    'resource == Target::"web in staging"',
    "resource has database",
    'resource has service && resource.service == Service::"search"',
    "resource has service && [resource].containsAny([resource]) && resource in resource.service",
    "(if context.approvals > 1 then resource else resource) has environment",
    "context.time.hour > 3",
    "context.time.weekday == 2 && context.cost.total > 10",
    "context.approvals > 0",
    'context.approvers.contains("bob")',
    'context.lane == "" && context.plan.steps > 1',
    'context.risk == "medium" || context.executor == "python"',
    "context.plan == {steps: 1, cost: 20100}",
    "context has time && context.time.minute < 30",
    (
        'action == Action::"service.scale" && '
        "context.parameters has replicas && context.parameters.replicas > 10"
    ),
    "{a: context.cost}.a.api_calls == 100",
    'if context.time.date > 20260601 then context.effect == "effect" else false',
]


class Everything(Interest):
    def covers(self, *_path: str) -> bool:
        return True

    def sees(self, *_attribute: str) -> bool:
        return True

    def names(self, *_entity: str) -> bool:
        return True


@st.composite
def asked_for(draw: st.DrawFn) -> tuple[Plan, str]:
    """A plan, and the tenant that it is accounted to."""
    parameters = {
        "service": draw(st.sampled_from(["web", "search"])),
        "environment": draw(st.sampled_from(["staging", "development"])),
        "replicas": draw(st.integers(0, 50)),
    }
    steps = range(draw(st.integers(1, 2)))
    plan = plan_of(
        *(step("service.scale", parameters, step_id=f"s{number}") for number in steps),
        requester=draw(st.sampled_from(["ann", "bo", "zoe"])),
        groups=draw(st.sets(st.sampled_from(["sre", "web"]))),
        approvals=[approval(name) for name in draw(st.sets(st.sampled_from(["bob", "cleo"])))],
    )
    return plan, draw(st.sampled_from(["default", "shop", "acme"]))


@settings(deadline=None, max_examples=150)
@given(
    conditions=st.lists(st.sampled_from(CONDITIONS), min_size=1, max_size=3),
    asked_for=asked_for(),
    minutes=st.integers(0, 600_000),
)
def test_what_is_left_blank_decides_nothing(
    conditions: list[str], asked_for: tuple[Plan, str], minutes: int
) -> None:
    plan, tenant = asked_for
    judge = judge_by(forbid(f" when {{ {' || '.join(f'({each})' for each in conditions)} }}"))
    moment = MONDAY + timedelta(minutes=minutes)
    found = []
    for interest in (judge.policies.interest, Everything(())):
        asker = Asker(
            plan,
            tenant=tenant,
            lane="",
            moment=moment,
            zone=judge.policies.zone,
            interest=interest,
        )
        scale = SHIPPED.actions["service.scale"]
        asked = [q for s in plan.steps for _, q in asker.questions(s, scale, resolved=False)]
        found.append([judge.policies.ask(each) for each in asked])
    assert found[0] == found[1]


def test_two_steps_that_differ_in_what_nobody_looks_at_are_one_question() -> None:
    judge = judge_by(forbid(" when { context.time.hour > 20 }"))

    def asked(replicas: int, minutes: int) -> Question:
        asker = Asker(
            plan_of(scaled(replicas)),
            tenant="default",
            lane="",
            moment=MONDAY + timedelta(minutes=minutes),
            zone=judge.policies.zone,
            interest=judge.policies.interest,
        )
        scale = SHIPPED.actions["service.scale"]
        return next(q for _, q in asker.questions(scaled(replicas), scale, resolved=False))

    assert asked(1, 0) == asked(2, 59)
    assert asked(1, 0) != asked(1, 60)


def test_people_and_things_that_no_policy_names_are_one_question() -> None:
    judge = judge_by(
        forbid(' when { principal in Group::"sre" && resource in Environment::"production" }')
    )

    def asked(requester: str, group: str, *where: str) -> Question:
        environment, service = where
        restarts = restart(environment, service)
        asker = Asker(
            plan_of(restarts, requester=requester, groups=[group]),
            tenant="default",
            lane="",
            moment=MONDAY,
            zone=judge.policies.zone,
            interest=judge.policies.interest,
        )
        spec = SHIPPED.actions["service.restart"]
        return next(q for _, q in asker.questions(restarts, spec, resolved=False))

    assert asked("ann", "web", "staging", "search") == asked("bo", "ops", "development", "web")
    assert asked("ann", "web", "staging", "web") != asked("ann", "sre", "staging", "web")
    assert asked("ann", "web", "staging", "web") != asked("ann", "web", "production", "web")

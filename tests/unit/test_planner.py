"""The planner orders intended actions, completes them from the catalogue, and refuses bad plans."""

from decimal import Decimal
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.intent_parser import understand
from agents.planner import plan
from agents.runtime import references
from agents.runtime.catalogue import load_catalogue
from agents.runtime.settings import ROOT
from agents.runtime.testing import fake_context, fake_services, test_id
from schemas import IntendedAction, Intent, JsonObject, Outcome, Plan, PlannedStep, hash_plan

CATALOGUE: Final = load_catalogue(ROOT / "actions.yaml")
SERVICES: Final = fake_services(catalogue=CATALOGUE)
PLACE: Final[JsonObject] = {"service": "checkout", "environment": "staging"}


def intent(*steps: PlannedStep, text: str = "", actions: tuple[IntendedAction, ...] = ()) -> Intent:
    return Intent(
        request_id=test_id("request"),
        title=text or "a plan",
        requester="ada",
        actions=tuple(understand(text, CATALOGUE)) if text else actions,
        steps=steps,
        parser="rules" if text or actions else "plan",
    )


async def planned(given: Intent) -> Plan:
    made = await plan(given, fake_context(given, services=SERVICES))
    assert isinstance(made, Plan), made
    return made


async def refused(*steps: PlannedStep) -> str:
    given = intent(*steps)
    outcome = await plan(given, fake_context(given, services=SERVICES))
    assert isinstance(outcome, Outcome)
    assert (outcome.status, outcome.code) == ("failed", "invalid_plan")
    assert (outcome.title, outcome.requester) == ("a plan", "ada")
    assert outcome.request_id == test_id("request")
    return outcome.reason


def status(step_id: str, *depends_on: str, **parameters: str) -> PlannedStep:
    return PlannedStep(
        step_id=step_id,
        action="service.status",
        parameters={**PLACE, **parameters},
        depends_on=depends_on,
    )


def tell(step_id: str, text: str, *depends_on: str) -> PlannedStep:
    return PlannedStep(
        step_id=step_id,
        action="notify.send",
        parameters={"channel": "#ops", "text": text},
        depends_on=depends_on,
    )


def shape(made: Plan) -> dict[str, tuple[str, ...]]:
    return {step.step_id: step.depends_on for step in made.steps}


# -- from actions -----------------------------------------------------------------------------


async def test_a_plan_says_for_whom_it_is() -> None:
    given = intent(status("look")).model_copy(update={"groups": ("sre",)})
    made = await planned(given)
    assert (made.requester, made.groups) == ("ada", ("sre",))


async def test_actions_run_one_after_the_other_as_the_text_names_them() -> None:
    made = await planned(
        intent(text="back up orders, then deploy checkout 2.4.1 to staging and tell #releases")
    )
    assert shape(made) == {
        "backup_orders": (),
        "deploy_checkout": ("backup_orders",),
        # It reports on both, so it waits for both.
        "send_releases": ("backup_orders", "deploy_checkout"),
    }


async def test_effects_of_the_same_kind_run_one_after_the_other_too() -> None:
    made = await planned(intent(text="restart checkout and payments in staging"))
    assert shape(made) == {"restart_checkout": (), "restart_payments": ("restart_checkout",)}


async def test_reads_that_follow_each_other_run_at_the_same_time() -> None:
    made = await planned(
        intent(text="restart web, check checkout and search in dev, then tell #ops 'done'")
    )
    assert shape(made) == {
        "restart_web": (),
        "status_checkout": ("restart_web",),
        "status_search": ("restart_web",),
        "send_ops": ("status_checkout", "status_search"),
    }


async def test_steps_of_the_same_name_are_numbered() -> None:
    made = await planned(intent(text="restart checkout in staging and production"))
    assert list(shape(made)) == ["restart_checkout", "restart_checkout_2"]


async def test_a_message_without_words_reports_what_came_before_it() -> None:
    made = await planned(intent(text="tell #ops what version checkout runs in staging"))
    step = made.steps[-1]
    assert step.parameters["text"] == (
        "status of checkout in staging: version ${steps.status_checkout.output.version}, "
        "health ${steps.status_checkout.output.health}, "
        "replicas ${steps.status_checkout.output.replicas}"
    )
    outputs: dict[str, JsonObject] = {
        "status_checkout": {"version": "2.4.1", "health": "healthy", "replicas": 3}
    }
    assert references.resolve(step.parameters["text"], outputs) == (
        "status of checkout in staging: version 2.4.1, health healthy, replicas 3"
    )


async def test_a_message_with_words_is_left_alone() -> None:
    made = await planned(intent(text="restart checkout in staging and tell #ops 'done ${x}'"))
    assert references.resolve(made.steps[-1].parameters["text"], {}) == "done ${x}"


async def test_an_action_that_the_catalogue_lost_is_named() -> None:
    action = IntendedAction(action="service.reboot", parameters=PLACE, confidence=1)
    given = intent(actions=(action,))
    outcome = await plan(given, fake_context(given, services=SERVICES))
    assert isinstance(outcome, Outcome)
    assert "no action 'service.reboot'" in outcome.reason


# -- from a ready-made plan -------------------------------------------------------------------


async def test_a_step_is_completed_from_the_catalogue() -> None:
    step = PlannedStep(step_id="say", action="notify.send", parameters={"channel": "#ops"})
    made = await planned(intent(status("check"), step))
    spec = CATALOGUE.action("notify.send")
    say = made.steps[1]
    assert say.parameters["text"] == spec.parameters["text"].default
    assert (say.executor, say.effect, say.risk) == (spec.executor, spec.effect, spec.risk)
    assert (say.timeout, say.retry, say.cost) == (spec.timeout, spec.retry, spec.cost)
    assert made.cost.total == Decimal("0.0002")
    assert (made.title, made.requester, made.request_id) == (
        "a plan",
        "ada",
        test_id("request"),
    )


async def test_a_reference_is_a_dependency_and_steps_are_sorted_by_both() -> None:
    made = await planned(
        intent(
            tell("tell", "runs ${steps.check.output.version}"),
            status("late", "tell"),
            status("check"),
            status("free"),
        )
    )
    assert shape(made) == {"check": (), "tell": ("check",), "late": ("tell",), "free": ()}


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        (
            [PlannedStep(step_id="a", action="service.restrat", parameters=PLACE)],
            "step 'a': the catalogue has no action 'service.restrat' (did you mean",
        ),
        (
            [PlannedStep(step_id="a", action="service.status", parameters={"service": "web"})],
            "step 'a': parameter 'environment' is missing",
        ),
        ([status("a", extra="1")], "service.status has no parameter 'extra'"),
        ([status("a", service="chekout")], "not 'chekout' (did you mean 'checkout'?)"),
        ([status("a"), status("a")], "step 'a': another step has the same id"),
        ([status("a"), status("b", "aa")], "step 'b': depends on the unknown step 'aa'"),
        (
            [status("a", "c"), status("b", "a"), status("c", "b")],
            "waits for itself in the cycle a → b → c → a",
        ),
        ([status("a", "a")], "in the cycle a → a"),
        (
            [tell("a", "${steps.b.output.version}"), status("b", "a")],
            "waits for itself in the cycle",
        ),
        ([tell("a", "${steps.a.output.x}")], "refers to the step's own output"),
        ([tell("a", "${steps.nope.output.x}")], "refers to the unknown step 'nope'"),
        (
            [status("a"), tell("b", "${steps.a.output.verzion}")],
            "service.status puts out version, health, replicas, not 'verzion' (did you mean",
        ),
        (
            [status("a"), tell("b", "${steps.a.output.version.major}")],
            "'version' is of type string and has no parts",
        ),
        ([status("a"), tell("b", "${steps.a.version}")], "'${steps.a.version}' is no reference"),
        ([tell("a", "echo ${HOME}")], "'${HOME}' is no reference"),
        (
            [status("a"), tell("b", "${steps.a.output.replicas}")],
            "parameter 'text' must be of type string",
        ),
    ],
)
async def test_a_bad_plan_is_refused_with_the_step_and_the_reason(
    steps: list[PlannedStep], said: str
) -> None:
    assert said in await refused(*steps)


async def test_a_number_that_json_cannot_hold_exactly_is_refused() -> None:
    step = PlannedStep(
        step_id="a",
        action="service.scale",
        parameters={**PLACE, "replicas": 2, "note": 2**60},
    )
    assert "cannot be written as exact JSON" in await refused(step)


async def test_all_problems_are_named_at_once() -> None:
    reason = await refused(
        PlannedStep(step_id="a", action="nope.nope"),
        status("b", "zzz", service="nobody"),
        tell("c", "${steps.d.output.version}", "d"),
        status("d", "c"),
    )
    for part in ("step 'a'", "unknown step 'zzz'", "not 'nobody'", "cycle"):
        assert part in reason


async def test_the_reason_for_a_hopeless_plan_stays_short_enough_to_send() -> None:
    steps = [PlannedStep(step_id=f"s{n}", action="service.nothing") for n in range(500)]
    reason = await refused(*steps)
    assert reason.endswith("(500 problems in all)")


async def test_a_reference_may_stand_for_a_parameter_whose_values_are_limited() -> None:
    compare = PlannedStep(
        step_id="compare",
        action="versions.compare",
        parameters={
            "first": "${steps.a.output.version}",
            "second": "${steps.b.output.version}",
        },
    )
    made = await planned(intent(compare, status("a"), status("b")))
    assert shape(made) == {"a": (), "b": (), "compare": ("a", "b")}


# -- properties -------------------------------------------------------------------------------


@st.composite
def acyclic(draw: st.DrawFn) -> list[PlannedStep]:
    """Steps that depend on earlier ones or refer to them, in any order."""
    steps: list[PlannedStep] = []
    for number in range(draw(st.integers(1, 8))):
        earlier = [step.step_id for step in steps]
        chosen = draw(st.lists(st.sampled_from(earlier), max_size=3)) if earlier else []
        readable = [step.step_id for step in steps if step.action == "service.status"]
        referred = draw(st.sampled_from(readable)) if readable else None
        if draw(st.booleans()) or referred is None:
            steps.append(status(f"s{number}", *chosen))
        else:
            steps.append(tell(f"s{number}", f"${{steps.{referred}.output.health}}", *chosen))
    return list(draw(st.permutations(steps)))


@given(acyclic())
async def test_steps_come_after_all_they_wait_for(steps: list[PlannedStep]) -> None:
    made = await planned(intent(*steps))
    seen: set[str] = set()
    for step in made.steps:
        assert seen.issuperset(step.depends_on)
        assert seen.issuperset(ref.step_id for ref in references.find(step.parameters))
        seen.add(step.step_id)
    assert seen == {step.step_id for step in steps}


@given(acyclic())
async def test_the_order_of_dependencies_changes_nothing(steps: list[PlannedStep]) -> None:
    turned = [
        step.model_copy(update={"depends_on": tuple(reversed(step.depends_on))}) for step in steps
    ]
    assert await planned(intent(*steps)) == await planned(intent(*turned))


@given(acyclic(), st.data())
async def test_any_change_of_a_parameter_changes_the_hash(
    steps: list[PlannedStep], data: st.DataObject
) -> None:
    made = await planned(intent(*steps))
    assert made.plan_hash == hash_plan(made.steps, lane="", correlation_id=test_id("execution"))
    at = data.draw(st.integers(0, len(steps) - 1))
    name = data.draw(st.sampled_from(sorted(steps[at].parameters)))
    new: dict[str, str] = {
        "service": "web",
        "environment": "production",
        "channel": "#else",
        "text": "else",
    }
    changed = steps[at].model_copy(update={"parameters": {**steps[at].parameters, name: new[name]}})
    other = await planned(intent(*steps[:at], changed, *steps[at + 1 :]))
    assert other.plan_hash != made.plan_hash


@given(acyclic(), st.integers(1, 7), st.data())
async def test_a_cycle_is_always_refused(
    steps: list[PlannedStep], length: int, data: st.DataObject
) -> None:
    length = min(length, len(steps))
    ring = data.draw(st.permutations(steps))[:length]
    closed = {
        step.step_id: step.model_copy(
            update={"depends_on": (*step.depends_on, ring[at - 1].step_id)}
        )
        for at, step in enumerate(ring)
    }
    reason = await refused(*(closed.get(step.step_id, step) for step in steps))
    assert "waits for itself in the cycle" in reason

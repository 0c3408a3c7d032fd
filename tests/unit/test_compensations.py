"""What undoes an action: as the catalogue declares it, and as the planner puts it into a plan."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from agents.planner import plan
from agents.policies.rules import out_of_order, played_down
from agents.runtime.budgets import most_of
from agents.runtime.catalogue import Catalogue, load_catalogue
from agents.runtime.declarations import DeclarationError
from agents.runtime.testing import fake_context, fake_services, test_id
from schemas import Intent, Outcome, Plan, PlannedStep, hash_plan
from schemas.plan import OnFailure

FILE = """\
environments:
  staging: {{max_risk: high}}
actions:
  thing.make:
    description: d
    executor: echo
    effect: effect
    risk: low
    cost: {{api_calls: 1}}
    retry: {{max_attempts: 2}}
    parameters:
      name: {{description: d}}
      size: {{description: d, type: integer, required: false}}
    outputs:
      key: {{description: d}}
      many: {{description: d, type: integer}}
      more: {{description: d, type: object}}
    compensation: {compensation}
  thing.drop:
    description: d
    executor: echo
    effect: effect
    risk: low
    cost: {{api_calls: 3}}
    retry: {{max_attempts: 2}}
    parameters:
      what: {{description: d}}
      size: {{description: d, type: integer, required: false}}
      why: {{description: d, default: undone}}
  thing.look: {{description: d, executor: echo, effect: read, risk: low{looks}}}
"""
SOUND = "{action: thing.drop, parameters: {what: '${parameters.name}/${output.key}'}}"


def catalogue(folder: Path, compensation: str = SOUND, looks: str = "") -> Catalogue:
    file = folder / "actions.yaml"
    file.write_text(FILE.format(compensation=compensation, looks=looks), encoding="utf-8")
    return load_catalogue(file)


async def made(
    given: Catalogue, *steps: dict[str, Any], on_failure: OnFailure = "compensate"
) -> Plan | Outcome:
    intent = Intent(
        request_id=test_id("request"),
        title="t",
        requester="ada",
        steps=tuple(PlannedStep.model_validate(step) for step in steps),
        on_failure=on_failure,
        parser="plan",
    )
    return await plan(intent, fake_context(intent, services=fake_services(catalogue=given)))


def make(step_id: str = "one", **changes: Any) -> dict[str, Any]:
    return {"step_id": step_id, "action": "thing.make", "parameters": {"name": "x"}, **changes}


async def test_a_plan_ends_with_what_undoes_its_steps(tmp_path: Path) -> None:
    done = await made(catalogue(tmp_path), make(), make("two"))
    assert isinstance(done, Plan)
    undo = done.steps[2]
    assert [(each.step_id, each.compensates) for each in done.steps] == [
        ("one", None),
        ("two", None),
        ("undo-one", "one"),
        ("undo-two", "two"),
    ]
    assert undo.parameters == {"what": "x/${steps.one.output.key}", "why": "undone"}
    assert (undo.action, undo.depends_on, undo.on_failure) == ("thing.drop", ("one",), "stop")
    assert done.plan_hash == hash_plan(done.steps, lane="", correlation_id=test_id("execution"))


async def test_compensations_are_held_back_but_not_expected_to_cost(tmp_path: Path) -> None:
    done = await made(catalogue(tmp_path), make())
    assert isinstance(done, Plan)
    assert (done.cost.total, most_of(done)) == (Decimal(1), Decimal(8))
    assert most_of(done.replace(finished=("one",))) == Decimal(6), "it may still be undone"


async def test_the_safety_checker_takes_such_a_plan(tmp_path: Path) -> None:
    given = catalogue(tmp_path)
    done = await made(given, make(), make("two"))
    assert isinstance(done, Plan)
    assert [*out_of_order(done), *played_down(done, given)] == []


async def test_the_hash_covers_what_a_failure_leads_to(tmp_path: Path) -> None:
    given = catalogue(tmp_path)
    plans = [
        await made(given, make(), on_failure="stop"),
        await made(given, make(), on_failure="continue"),
        await made(given, make()),
        await made(given, make(on_failure="compensate"), on_failure="stop"),
    ]
    hashes = [each.plan_hash for each in plans if isinstance(each, Plan)]
    assert len(set(hashes)) == 3
    assert hashes[2] == hashes[3], "a step says the same as the request"


async def test_without_a_failure_that_is_compensated_nothing_is_added(tmp_path: Path) -> None:
    done = await made(catalogue(tmp_path), make(on_failure="continue"), on_failure="stop")
    assert isinstance(done, Plan)
    assert [(each.step_id, each.on_failure) for each in done.steps] == [("one", "continue")]


async def test_ids_in_use_and_long_ids_are_numbered(tmp_path: Path) -> None:
    long = "a" * 63
    done = await made(catalogue(tmp_path), make(), make("undo-one"), make(long))
    assert isinstance(done, Plan)
    ids = [each.step_id for each in done.steps[3:]]
    assert ids == ["undo-one-2", "undo-undo-one", f"undo-{'a' * 56}-2"]


async def test_an_absent_parameter_is_left_out_and_a_whole_one_keeps_its_type(
    tmp_path: Path,
) -> None:
    given = catalogue(
        tmp_path,
        "{action: thing.drop, parameters: {what: '${output.key}', size: '${parameters.size}'}}",
    )
    without = await made(given, make())
    sized = await made(given, make(parameters={"name": "x", "size": 7}))
    assert isinstance(without, Plan)
    assert isinstance(sized, Plan)
    assert "size" not in without.steps[1].parameters
    assert sized.steps[1].parameters["size"] == 7


async def test_a_plan_with_nothing_to_undo_is_refused(tmp_path: Path) -> None:
    refused = await made(catalogue(tmp_path), {"step_id": "look", "action": "thing.look"})
    assert isinstance(refused, Outcome)
    assert "says of none of its actions what undoes it" in refused.reason


async def test_what_could_not_be_undone_is_said_of_its_step(tmp_path: Path) -> None:
    secret = make(parameters={"name": "${secret:key}"})
    refused = await made(catalogue(tmp_path), secret)
    assert isinstance(refused, Outcome)
    assert "'one'" in refused.reason


@pytest.mark.parametrize(
    ("compensation", "wrong"),
    [
        ("{action: thing.dorp, parameters: {what: x}}", "did you mean 'thing.drop'?"),
        ("{action: thing.drop}", "parameter 'what' is missing"),
        ("{action: thing.look}", "only reads undoes nothing"),
        ("{action: thing.drop, parameters: {what: x, wat: y}}", "no parameter 'wat'"),
        ("{action: thing.drop, parameters: {what: '${parameters.nam}'}}", "no parameter 'nam'"),
        ("{action: thing.drop, parameters: {what: '${output.kee}'}}", "puts out no 'kee'"),
        ("{action: thing.drop, parameters: {what: '${steps.a.output.b}'}}", "stands for nothing"),
        ("{action: thing.drop, parameters: {what: '${output.key.a}'}}", "has no parts"),
        ("{action: thing.drop, parameters: {what: '${output.many}'}}", "is of type integer"),
        ("{action: thing.drop, parameters: {what: 'x${parameters.size}'}}", "may be absent"),
        ("{action: thing.drop, parameters: {what: 7}}", "must be"),
    ],
)
def test_a_compensation_that_cannot_work_is_refused_with_its_line(
    tmp_path: Path, compensation: str, wrong: str
) -> None:
    with pytest.raises(DeclarationError) as caught:
        catalogue(tmp_path, compensation)
    assert wrong in str(caught.value), str(caught.value)


def test_what_only_reads_has_nothing_to_undo(tmp_path: Path) -> None:
    with pytest.raises(DeclarationError, match="has nothing to undo"):
        catalogue(tmp_path, looks=", compensation: {action: thing.drop, parameters: {what: x}}")


def test_parts_of_outputs_and_literals_are_allowed(tmp_path: Path) -> None:
    text = "{action: thing.drop, parameters: {what: '$${x} ${output.more.a[0]}'}}"
    assert catalogue(tmp_path, text).action("thing.make").compensation is not None

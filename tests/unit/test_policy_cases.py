"""The tables beside the policies: the shipped ones hold, and a table can fail."""

from pathlib import Path
from typing import Any

import pytest
from support.policies import FOLDER, MONDAY, PERMIT, SHIPPED, judge_by

from agents.policies import Judge, load_policies, schema_of, zone_of
from agents.policies.cases import Case, CaseDeclaration, read_cases, run_case, unexercised
from agents.runtime.declarations import DeclarationError

JUDGE = Judge(SHIPPED, load_policies(FOLDER, schema_of(SHIPPED), zone_of("UTC")))
CASES = read_cases(FOLDER, SHIPPED)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_case_of_the_shipped_policies_comes_out_as_it_should(case: Case) -> None:
    result = run_case(case, JUDGE, SHIPPED)
    assert result.passed, (result.outcome, result.silent, result.reasons)


def test_every_shipped_policy_has_a_case() -> None:
    results = [run_case(case, JUDGE, SHIPPED) for case in CASES]
    assert unexercised(results, JUDGE) == ()


def case(**declared: Any) -> Case:
    restart = {"what": "service.restart", "where": {"service": "web", "environment": "staging"}}
    return Case("it", "x.cases.yaml", 1, CaseDeclaration.model_validate({**restart, **declared}))


def test_another_outcome_fails() -> None:
    judge = judge_by(PERMIT)
    assert run_case(case(outcome="approved"), judge, SHIPPED).passed
    assert not run_case(case(outcome="denied"), judge, SHIPPED).passed


def test_a_policy_that_should_have_spoken_fails() -> None:
    judge = judge_by(PERMIT)
    assert run_case(case(outcome="approved", because=["all"]), judge, SHIPPED).passed
    result = run_case(case(outcome="approved", because=["all", "other"]), judge, SHIPPED)
    assert (result.passed, result.silent) == (False, ("other",))


def test_a_policy_that_no_case_is_about_is_named() -> None:
    more = '@id("idle") permit (principal, action, resource in Environment::"production");'
    judge = judge_by(PERMIT + more)
    results = [run_case(case(outcome="approved"), judge, SHIPPED)]
    assert unexercised(results, judge) == ("idle",)


def test_who_when_and_cost_are_those_of_the_case() -> None:
    judge = judge_by(
        '@id("all") permit (principal == User::"bo", action, resource) when {'
        ' principal in Group::"sre" && principal in Tenant::"acme" &&'
        " context.cost.total == 2500000 && context.time.hour == 3 };"
    )
    given = case(
        who={"user": "bo", "groups": ["sre"], "tenant": "acme"},
        when=MONDAY.replace(hour=3),
        cost="2.5",
        outcome="approved",
    )
    assert run_case(given, judge, SHIPPED).passed


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("{a: {what: service.restrat, outcome: denied}}", "did you mean 'service.restart'?"),
        ("{a: {what: service.restart, outcome: maybe}}", "'maybe' is not allowed"),
        ("{a: {what: service.restart}}", "outcome"),
        ("{a: {what: service.restart, outcome: denied, whom: x}}", "whom"),
        ("{a: {what: service.restart, outcome: denied, when: yesterday}}", "when"),
    ],
)
def test_a_mistake_in_a_table_is_named_with_its_line(tmp_path: Path, rows: str, said: str) -> None:
    file = tmp_path / "x.cases.yaml"
    file.write_text(f"# a comment\ncases: {rows}\n")
    with pytest.raises(DeclarationError) as caught:
        read_cases(tmp_path, SHIPPED)
    assert str(caught.value).startswith(f"{file}:2: ")
    assert said in str(caught.value)

"""``millstream policies``: the shipped policies as people see them, and mistakes in them."""

import json
from pathlib import Path
from shutil import copytree

import pytest
from support.policies import FOLDER, PERMIT
from typer.testing import CliRunner, Result

from ops.policy_commands import policies_app


def run(*arguments: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(policies_app, list(map(str, arguments)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the shipped policies."""
    return copytree(FOLDER, tmp_path / "policies")


def test_check_says_that_the_shipped_policies_are_sound() -> None:
    checked = run("check")
    assert checked.exit_code == 0
    assert "policies: 10 policies, 29 cases, no problems." in checked.output
    assert json.loads(run("check", "--json").output)["problems"] == []


def test_check_names_every_problem_and_exits_with_1(folder: Path) -> None:
    file = folder / "hours.cedar"
    file.write_text(file.read_text().replace("context.time.hour", "context.time.our"))
    (folder / "wrong.cedar").write_text("forbid everything;\n")
    checked = run("check", "--policies", folder)
    assert checked.exit_code == 1
    lines = checked.stderr.splitlines()
    assert lines[0].startswith(f"{file}:5: at hours.medium-risk: ")
    assert lines[-2].startswith(f"{folder}/wrong.cedar:1: at the policy: it cannot be read")
    assert lines[-1] == f"{len(lines) - 1} problems."
    found = json.loads(run("check", "--policies", folder, "--json").output)["problems"]
    assert [problem["line"] for problem in found] == [
        int(line.split(":")[1]) for line in lines[:-1]
    ]


def test_check_reads_the_cases_too(folder: Path) -> None:
    (folder / "x.cases.yaml").write_text("cases: {a: {what: no.such, outcome: denied}}\n")
    checked = run("check", "--policies", folder)
    assert checked.exit_code == 1
    assert "the catalogue has no action 'no.such'" in checked.stderr


def test_test_runs_the_shipped_cases() -> None:
    tested = run("test")
    assert (tested.exit_code, tested.output) == (0, "29 of 29 cases came out as they should.\n")
    answer = json.loads(run("test", "--json").output)
    assert len(answer["cases"]) == 29
    assert all(case["passed"] for case in answer["cases"])
    assert answer["untested"] == []


def test_test_says_which_case_came_out_otherwise_and_why(folder: Path) -> None:
    file = folder / "production.cedar"
    file.write_text(file.read_text().replace('@approvals("1")', '@approvals("3")'))
    tested = run("test", "--policies", folder)
    assert tested.exit_code == 1
    assert "production.cases.yaml:16: one approval is enough in office hours" in tested.output
    assert "expected approved, came out needs_approval" in tested.output
    assert "It runs when approved by 3 different people" in tested.output


def test_test_names_policies_without_a_case(folder: Path) -> None:
    more = '@id("idle") permit (principal in Tenant::"none", action, resource);\n'
    (folder / "idle.cedar").write_text(more)
    tested = run("test", "--policies", folder)
    assert tested.exit_code == 0
    assert f"{folder}/idle.cedar:1: no case is about idle" in tested.output


def test_no_cases_are_no_success(tmp_path: Path) -> None:
    (tmp_path / "a.cedar").write_text(PERMIT)
    tested = run("test", "--policies", tmp_path)
    assert (tested.exit_code, "0 of 0 cases" in tested.output) == (1, True)


def test_policies_that_are_broken_are_not_tested(folder: Path) -> None:
    (folder / "wrong.cedar").write_text("forbid everything;\n")
    tested = run("test", "--policies", folder)
    assert tested.exit_code == 1
    assert "wrong.cedar:1" in tested.stderr


def test_schema_prints_what_policies_may_speak_of() -> None:
    printed = run("schema").output
    assert 'entity Environment enum ["production", "staging", "development"];' in printed
    assert 'action "service.delete" in' in printed
    assert 'Action::"destructive"' in printed


def test_a_time_zone_that_there_is_not_is_a_wrong_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLSTREAM_POLICIES_TIME_ZONE", "Middle/Earth")
    tested = run("test")
    assert tested.exit_code == 2
    assert "no time zone 'Middle/Earth'" in tested.stderr

"""``millstream actions``: the shipped catalogue as people see it, and mistakes with exit code 1."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from agents.runtime.catalogue import catalogue_schema
from ops.actions import actions_app


def run(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(actions_app, list(arguments))


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    file = tmp_path / "actions.yaml"
    file.write_text(
        "environments: {staging: {max_risk: high}}\n"
        "actions:\n"
        "  a.b: {description: d, executor: htp, effect: read, risk: low}\n"
        "  a.c: {description: d, executor: http, effect: write, risk: low}\n"
        "  a.d: {description: d, executor: http, effect: read, risk: low, with: {method: GIT}}\n",
        encoding="utf-8",
    )
    return file


def test_ls_lists_every_action_with_its_effect_and_risk() -> None:
    listed = run("ls")
    assert listed.exit_code == 0
    rows = [line.split() for line in listed.output.splitlines()]
    assert ["service.delete", "effect", "high"] in [[row[0], *row[-2:]] for row in rows]


def test_ls_as_json_has_all_there_is_to_know() -> None:
    actions = {action["id"]: action for action in json.loads(run("ls", "--json").output)}
    assert actions["service.restart"]["with"]["method"] == "POST"
    assert actions["service.restart"]["retry"]["initial_delay"] == 0.5


def test_check_says_that_the_shipped_catalogue_is_sound() -> None:
    checked = run("check")
    assert (checked.exit_code, checked.output.endswith("9 actions, no problems.\n")) == (0, True)
    assert json.loads(run("check", "--json").output) == {"problems": []}


def test_check_names_every_problem_and_exits_with_1(broken: Path) -> None:
    checked = run("check", "--actions-file", str(broken))
    assert checked.exit_code == 1
    assert checked.stderr.splitlines() == [
        (
            f"{broken}:3: at actions.\"a.b\".executor: unknown executor 'htp'; expected one of "
            "http, sql, mcp, notify, python (did you mean 'http'?)"
        ),
        (
            f"{broken}:4: at actions.\"a.c\".effect: 'write' is not allowed; expected 'read', "
            "'idempotent' or 'effect'"
        ),
        (
            f"{broken}:5: at actions.\"a.d\".with.method: 'GIT' is not allowed; expected 'GET', "
            "'HEAD', 'POST', 'PUT', 'PATCH' or 'DELETE' (did you mean 'GET'?)"
        ),
        (
            f'{broken}:5: at actions."a.d".with.url: it is missing; expected a template such as '
            "${settings.playground_url}/services/{service}; parameters may stand in the path and "
            "the query, percent-encoded"
        ),
        "4 problems.",
    ]


def test_check_as_json_has_the_parts_of_every_problem(broken: Path) -> None:
    checked = run("check", "--json", "--actions-file", str(broken))
    assert checked.exit_code == 1
    first = json.loads(checked.output)["problems"][0]
    assert (first["file"], first["line"], first["path"]) == (
        str(broken),
        3,
        'actions."a.b".executor',
    )


def test_show_tells_what_an_action_takes_and_gives() -> None:
    shown = run("show", "service.deploy")
    assert shown.exit_code == 0
    for said in (
        "actions.yaml:",
        "string (environment), required: The environment, which is never guessed.",
        "3, waits from 1 s times 2",
        "roll back (-2)",
        "integer: How many replicas run.",
    ):
        assert said in shown.output


@pytest.mark.parametrize("command", ["ls", "show"])
def test_a_broken_catalogue_or_an_unknown_action_ends_with_1_and_no_traceback(
    command: str, broken: Path
) -> None:
    action = ["service.restart"] if command == "show" else []
    result = run(command, *action, "--actions-file", str(broken))
    assert result.exit_code == 1
    assert f"{broken}:3" in result.stderr
    unknown = run("show", "service.restrat")
    assert (unknown.exit_code, unknown.stderr) == (
        1,
        ("the catalogue has no action 'service.restrat' (did you mean 'service.restart'?)\n"),
    )


def test_schema_prints_what_editors_use() -> None:
    assert json.loads(run("schema").output) == catalogue_schema()

"""``millstream budgets``: setting, listing and removing what tenants may spend."""

import json
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner, Result

from ops.budgets import budgets_app

pytestmark = pytest.mark.integration


def budgets(url: str, *arguments: str) -> Result:
    return CliRunner().invoke(budgets_app, [*arguments, "--database", url])


def listed(url: str, *arguments: str) -> list[dict[str, Any]]:
    answer = budgets(url, "ls", "--json", *arguments)
    assert answer.exit_code == 0, answer.output
    found: list[dict[str, Any]] = json.loads(answer.output)
    return found


def test_nothing_is_limited_at_first(database_url: str) -> None:
    assert listed(database_url) == []
    assert "No budget is set: nothing is limited." in budgets(database_url, "ls").output


def test_what_is_set_is_listed_with_what_is_left(database_url: str) -> None:
    arguments = ("--day", "12.50", "--month", "$100", "--execution", "0.000001", "--user", "ann")
    told = budgets(database_url, "set", "acme", *arguments)
    assert told.exit_code == 0, told.output
    assert "each execution" in told.output
    assert "Workers mind it within 2 s." in told.output
    assert budgets(database_url, "set", "other", "--day", "1").exit_code == 0
    execution, day, month = listed(database_url, "acme")
    assert (execution["cap"], execution["left"]) == ("0.000001", "0.000001")
    assert (execution["period"], execution["spent"]) == (None, None)
    assert (day["per"], day["cap"], day["spent"], day["reserved"]) == (
        *("day", "12.50"),
        *("0.00", "0.00"),
    )
    assert day["period"].startswith(month["period"])
    assert (month["cap"], month["left"]) == ("100.00", "100.00")
    assert {each["tenant"] for each in listed(database_url)} == {"acme", "other"}
    with psycopg.connect(database_url) as connection:
        setters = connection.execute(
            "SELECT DISTINCT set_by FROM ledger.budgets WHERE tenant = 'acme'"
        ).fetchall()
    assert setters == [("ann",)]


def test_a_budget_is_changed_and_removed_by_setting_it_again(database_url: str) -> None:
    budgets(database_url, "set", "acme", "--day", "5", "--month", "50")
    budgets(database_url, "set", "acme", "--day", "7")
    assert [each["cap"] for each in listed(database_url)] == ["7.00", "50.00"]
    answer = budgets(database_url, "set", "acme", "--month", "none", "--json")
    assert [each["per"] for each in json.loads(answer.output)] == ["day"]


def test_budgets_keep_to_their_lane(database_url: str) -> None:
    budgets(database_url, "set", "acme", "--day", "5", "--lane", "canary.")
    assert listed(database_url) == []
    assert [each["cap"] for each in listed(database_url, "--lane", "canary.")] == ["5.00"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("acme",), "give --execution, --day or --month"),
        (("acme", "--day", "-1"), "'-1' is no amount"),
        (("acme", "--day", "lots"), "'lots' is no amount"),
        (("acme", "--day", "nan"), "'nan' is no amount"),
        (("acme", "--month", "0.0000001"), "is no amount"),
        (("Acme Corp", "--day", "1"), "cannot be a tenant"),
    ],
)
def test_what_is_no_budget_is_refused(
    database_url: str, arguments: tuple[str, ...], complaint: str
) -> None:
    answer = budgets(database_url, "set", *arguments)
    assert answer.exit_code == 2
    assert complaint in " ".join(answer.output.replace("│", " ").split())
    assert listed(database_url) == []

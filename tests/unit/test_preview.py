"""``millstream submit --dry-run``: the same answers as the roles give, and no traces."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from agents.runtime.budgets import Budget, BudgetUse, Spending, period_of
from agents.runtime.host import Declarations
from agents.runtime.settings import Settings
from ops.preview import Preview, describe, foresee
from ops.submit import make_submission
from ops.worker import load_declarations

SETTINGS = Settings()


@pytest.fixture(scope="module")
def declarations() -> Declarations:
    return load_declarations(SETTINGS)


def spent(amount: str, *, cap: str, reserved: str = "0") -> list[BudgetUse]:
    """A budget of the day of the tenant ``shop``."""
    period = period_of("day", datetime.now(UTC))
    spending = Spending(Decimal(amount), Decimal(reserved))
    return [BudgetUse(Budget("shop", "day", Decimal(cap)), period, spending)]


async def preview(
    declarations: Declarations,
    text: str | None,
    *,
    plan: Path | None = None,
    uses: Sequence[BudgetUse] | None = (),
    user: str = "anonymous",
) -> Preview:
    submission = make_submission(text, plan=plan, tenant="shop", user=user)
    return await foresee(SETTINGS, declarations, submission, uses)


async def test_a_plan_is_shown_with_its_cost_and_the_verdict(declarations: Declarations) -> None:
    found = await preview(declarations, "restart checkout in staging and tell #releases")
    assert not found.is_no
    told = describe(found)
    assert [step["action"] for step in told["plan"]["steps"]] == ["service.restart", "notify.send"]
    assert told["verdict"]["decision"] == "approved"
    assert told["cost"] == {
        "database_storage": "0.00",
        "compute_hours": "0.02",
        "api_calls": "0.0002",
        "llm_tokens": "0.00",
        "total": "0.0202",
        "at_most": "0.0807",  # four attempts at the restart, three at the message
    }
    json.dumps(told)


async def test_what_needs_approval_says_by_whom_and_is_no_refusal(
    declarations: Declarations,
) -> None:
    found = await preview(declarations, "delete checkout in staging", user="ann")
    assert not found.is_no
    told = describe(found)
    assert told["verdict"]["decision"] == "needs_approval"
    assert [each["approvers"] for each in told["verdict"]["obligations"]] == [2]


async def test_what_policy_denies_is_denied_with_the_reason(declarations: Declarations) -> None:
    found = await preview(declarations, "delete checkout in production")
    assert found.is_no
    assert found.verdict is not None
    assert found.verdict.decision == "denied"
    assert "production" in found.verdict.reasons[0].text


@pytest.mark.parametrize(("taken", "decision"), [("0.91", "approved"), ("0.92", "denied")])
async def test_the_budget_is_the_one_of_now(
    declarations: Declarations, taken: str, decision: str
) -> None:
    uses = spent("0.5", cap="1", reserved=str(Decimal(taken) - Decimal("0.5")))
    found = await preview(declarations, "restart checkout in staging", uses=uses)
    assert found.verdict is not None
    assert found.verdict.decision == decision
    codes = [reason.code for reason in found.verdict.reasons]
    assert codes == ([] if decision == "approved" else ["budget_exceeded"])
    assert describe(found)["budgets"][0]["left"] == ("0.09" if decision == "approved" else "0.08")


async def test_a_question_is_asked_instead_of_a_plan(declarations: Declarations) -> None:
    found = await preview(declarations, "restart checkout", uses=None)
    assert found.is_no
    told = describe(found)
    assert told["outcome"]["status"] == "needs_clarification"
    assert "In which environment?" in told["outcome"]["reason"]
    assert (told["plan"], told["verdict"], told["cost"], told["budgets"]) == (None,) * 4


async def test_a_plan_that_cannot_run_says_why(declarations: Declarations, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_text(json.dumps([{"step_id": "look", "action": "service.stattus"}]))
    found = await preview(declarations, None, plan=file)
    assert found.outcome is not None
    assert found.outcome.code == "invalid_plan"
    assert "service.status" in found.outcome.reason


def run(*arguments: str, **environment: str) -> Any:
    from typer.testing import CliRunner  # noqa: PLC0415 - only these tests need the command line

    from ops.cli import app  # noqa: PLC0415 - as above

    nowhere = {"MILLSTREAM_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing"}
    return CliRunner().invoke(
        app,
        ["--state", "/nowhere", "submit", "--dry-run", *arguments],
        env={**nowhere, **environment},
    )


def test_the_command_needs_neither_broker_nor_database() -> None:
    answer = run("restart checkout in staging", MILLSTREAM_KAFKA_BOOTSTRAP="127.0.0.1:1")
    assert answer.exit_code == 0, answer.output
    assert "nothing is sent" in answer.stdout
    for part in ("service.restart", "approved", "$0.0201", "at most", "$0.0804"):
        assert part in answer.stdout
    assert "The budgets are not looked at" in answer.stderr


def test_the_command_answers_no_where_nothing_would_run() -> None:
    answer = run("delete checkout in production")
    assert answer.exit_code == 1
    assert "denied" in answer.stdout
    asked = run("restart checkout", "--json")
    assert asked.exit_code == 1
    assert json.loads(asked.stdout)["outcome"]["status"] == "needs_clarification"

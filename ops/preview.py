"""``millstream submit --dry-run``: what would come of a request, without anything happening.

The roles themselves are asked (parser, planner, safety checker), as the functions that they are,
with a ledger in memory that is thrown away. Nothing is sent, and nothing is written; where the
database can be reached, the tenant's budgets are read from it.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from agents.intent_parser import parse
from agents.planner import plan
from agents.runtime.budgets import Accounts, BudgetUse, format_usd, most_of
from agents.runtime.clock import SystemClock
from agents.runtime.context import Context, Services
from agents.runtime.errors import ConfigurationError, DatabaseUnavailableError
from agents.runtime.host import Declarations
from agents.runtime.ledger.memory import MemoryLedger
from agents.runtime.settings import Settings
from agents.safety_checker import check
from ops import budgets, render
from ops.submit import Submission
from ops.worker import load_declarations
from schemas import AgentMessage, CostEstimate, Outcome, Plan, Verdict, compose

_PARTS: Final = tuple(CostEstimate.model_fields)


@dataclass(frozen=True)
class Preview:
    """What would come of a request."""

    outcome: Outcome | None
    """How it would end without a plan."""
    verdict: Verdict | None
    """What would be said of its plan."""
    budgets: Sequence[BudgetUse] | None
    """The tenant's, as they are now; ``None`` where they could not be read."""

    @property
    def is_no(self) -> bool:
        """Whether nothing would run, now or once it is approved."""
        return self.verdict is None or self.verdict.decision == "denied"


def run(settings: Settings, submission: Submission, *, as_json: bool) -> int:
    """Print what would come of a request.

    Returns:
        The exit code: 0 where the plan may run, now or once it is approved, 1 where not.

    Raises:
        ConfigurationError: The catalogue cannot be used.
    """
    declarations = load_declarations(settings)
    try:
        uses = asyncio.run(budgets.uses_of(settings, submission.request.tenant))
    except (DatabaseUnavailableError, ConfigurationError) as error:
        typer.echo(f"The budgets are not looked at: {error.reason}", err=True)
        uses = None
    preview = asyncio.run(foresee(settings, declarations, submission, uses))
    if as_json:
        render.print_json(describe(preview))
    else:
        _show(preview)
    return 1 if preview.is_no else 0


async def foresee(
    settings: Settings,
    declarations: Declarations,
    submission: Submission,
    uses: Sequence[BudgetUse] | None,
) -> Preview:
    """Let the roles say what they would, one after the other."""
    services = Services(
        settings=settings,
        catalogue=declarations.catalogue,
        topology=declarations.topology,
        # Nobody else sees it; as much is left of each budget as there is.
        ledger=MemoryLedger(accounts=Accounts.of(settings.lane, uses or ())),
        clock=SystemClock(),
        policies=declarations.policies,
    )
    request = _received(submission, settings.lane)
    understood = await parse(request.payload, Context("intent_parser", request, services))
    if isinstance(understood, Outcome):
        return Preview(understood, None, uses)
    intent = Context("intent_parser", request, services).compose(understood, 0)
    planned = await plan(intent.payload, Context("planner", intent, services))
    if isinstance(planned, Outcome):
        return Preview(planned, None, uses)
    message = Context("planner", intent, services).compose(planned, 0)
    verdict = await check(message.payload, Context("safety_checker", message, services))
    return Preview(None, verdict.payload, uses)


def describe(preview: Preview) -> dict[str, Any]:
    """A preview as a program reads it; amounts are decimals in text."""
    verdict = preview.verdict
    return {
        "outcome": preview.outcome and preview.outcome.model_dump(mode="json"),
        "plan": verdict and verdict.plan.model_dump(mode="json"),
        "verdict": verdict and verdict.model_dump(mode="json", exclude={"plan"}),
        "cost": verdict and _costs(verdict.plan),
        "budgets": None
        if preview.budgets is None
        else [budgets.describe(use) for use in preview.budgets],
    }


def _received(submission: Submission, lane: str) -> AgentMessage[Any]:
    """The request as intake would hand it over, had it come now."""
    now = datetime.now(UTC)
    return compose(
        submission.request,
        message_id=submission.message_id,
        correlation_id=submission.execution_id,
        causation_id=None,
        from_agent="intake",
        tenant=submission.request.tenant,
        lane=lane,
        timestamp=now,
        received_at=now,
    )


def _costs(planned: Plan) -> dict[str, str]:
    parts = {part: _plain(getattr(planned.cost, part)) for part in _PARTS}
    most = most_of(planned)
    return {**parts, "total": _plain(planned.cost.total), "at_most": _plain(most)}


def _plain(amount: Decimal) -> str:
    return format_usd(amount).removeprefix("$")


def _show(preview: Preview) -> None:
    console = render.console()
    console.print(Text("A dry run: nothing is sent, and nothing will happen.", "dim"))
    if preview.outcome is not None:
        status = render.status_text(preview.outcome.status)
        console.print(Text.assemble(status, "  ", preview.outcome.reason), soft_wrap=True)
    verdict = preview.verdict
    if verdict is None:
        return
    console.print(_steps(verdict.plan))
    console.print(_money(verdict.plan))
    if preview.budgets:
        console.print(budgets.table_of(preview.budgets))
    console.print(Text.assemble("verdict  ", render.decision_text(verdict.decision)))
    for reason in verdict.reasons:
        console.print(Text.assemble("  ", reason.text, (f"  {reason.policy}", "dim")))


def _steps(planned: Plan) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
    for column in ("step", "action", "parameters", "after"):
        table.add_column(column)
    table.add_column("cost", justify="right")
    for step in planned.steps:
        table.add_row(
            Text(step.step_id, "cyan"),
            step.action,
            render.values(step.parameters),
            ", ".join(step.depends_on)
            if step.compensates is None
            else f"undoes {step.compensates}",
            format_usd(step.cost.total),
        )
    return table


def _money(planned: Plan) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(justify="right")
    for name, amount in _costs(planned).items():
        table.add_row(name.replace("_", " "), f"${amount}")
    return table

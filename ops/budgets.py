"""``millstream budgets``: what tenants may spend, and what they have spent."""

import asyncio
import getpass
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Final

import typer
from pydantic import TypeAdapter, ValidationError
from rich import box
from rich.table import Table
from rich.text import Text

from agents.runtime.budgets import FRESH_SECONDS, BudgetUse, Per, format_usd
from agents.runtime.database import Database
from agents.runtime.ledger.postgres import PostgresLedger
from agents.runtime.settings import PREFIX, Settings, load_settings
from ops import render
from schemas.base import Tenant, Usd

_NO_LIMIT: Final = "none"
_TENANT: Final = TypeAdapter(Tenant)
_USD: Final = TypeAdapter[Decimal](Usd)

budgets_app = typer.Typer(help="Say what tenants may spend, and see what they have spent.")

_Amount = Annotated[
    str | None, typer.Option(metavar="USD|none", help="US dollars, or none for no limit.")
]
_Database = Annotated[
    str | None,
    typer.Option("--database", metavar="URL", help="The database, instead of the settings'."),
]
_Lane = Annotated[
    str | None,
    typer.Option("--lane", help="The lane, such as canary.", show_default="the settings'"),
]
_AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@budgets_app.command("ls")
def list_budgets(
    tenant: Annotated[str | None, typer.Argument(help="Only this tenant's.")] = None,
    database: _Database = None,
    lane: _Lane = None,
    as_json: _AsJson = False,
) -> None:
    """List budgets with what is spent and reserved in the day and the month that are running."""
    uses = asyncio.run(_uses(_settings(database, lane)))
    _show([use for use in uses if tenant in (None, use.budget.tenant)], as_json=as_json)


@budgets_app.command("set")
def set_budgets(
    tenant: Annotated[str, typer.Argument(help="Whose budget it is.")],
    *,
    execution: _Amount = None,
    day: _Amount = None,
    month: _Amount = None,
    user: Annotated[
        str | None, typer.Option(help="Who does it.", show_default="your login name")
    ] = None,
    database: _Database = None,
    lane: _Lane = None,
    as_json: _AsJson = False,
) -> None:
    """Set what a tenant may spend on one execution, in a day, in a month; days are those of UTC.

    Spending is counted from when a budget is set. What has been approved before is not stopped.
    """
    given: dict[Per, str | None] = {"execution": execution, "day": day, "month": month}
    caps = {per: _cap(text, f"--{per}") for per, text in given.items() if text is not None}
    if not caps:
        raise typer.BadParameter("give --execution, --day or --month", param_hint="set")
    try:
        _TENANT.validate_python(tenant)
    except ValidationError:
        raise typer.BadParameter(f"{tenant!r} cannot be a tenant", param_hint="TENANT") from None
    settings = _settings(database, lane)
    uses = asyncio.run(_set(settings, tenant, caps, user or getpass.getuser()))
    _show([use for use in uses if use.budget.tenant == tenant], as_json=as_json)
    if not as_json:
        typer.echo(f"Workers mind it within {FRESH_SECONDS:g} s.")


def describe(use: BudgetUse) -> dict[str, Any]:
    """A budget as a program reads it; amounts are decimals in text."""
    return {
        "tenant": use.budget.tenant,
        "per": use.budget.per,
        "period": use.period,
        "cap": _plain(use.budget.cap),
        "spent": None if use.period is None else _plain(use.spending.spent),
        "reserved": None if use.period is None else _plain(use.spending.reserved),
        "left": _plain(use.left),
    }


async def uses_of(settings: Settings, tenant: str) -> list[BudgetUse]:
    """A tenant's budgets, and what was taken of them.

    Raises:
        DatabaseUnavailableError: Postgres does not answer.
        ConfigurationError: The database has no ledger.
    """
    return [use for use in await _uses(settings) if use.budget.tenant == tenant]


async def _uses(settings: Settings) -> Sequence[BudgetUse]:
    async with _ledger(settings) as ledger:
        return await ledger.budget_uses(lane=settings.lane, now=datetime.now(UTC))


async def _set(
    settings: Settings, tenant: str, caps: Mapping[Per, Decimal | None], user: str
) -> Sequence[BudgetUse]:
    async with _ledger(settings) as ledger:
        for per, cap in caps.items():
            await ledger.set_budget(
                lane=settings.lane, tenant=tenant, per=per, cap=cap, set_by=user
            )
        return await ledger.budget_uses(lane=settings.lane, now=datetime.now(UTC))


@asynccontextmanager
async def _ledger(settings: Settings) -> AsyncIterator[PostgresLedger]:
    url = settings.database_url.get_secret_value()
    ledger = PostgresLedger(Database(url, pool_size=1, application_name="millstream-cli"))
    await ledger.start()
    try:
        yield ledger
    finally:
        await ledger.close()


def _settings(database: str | None, lane: str | None) -> Settings:
    flags = {PREFIX + "DATABASE_URL": database, PREFIX + "LANE": lane}
    given = {variable: value for variable, value in flags.items() if value is not None}
    return load_settings({**os.environ, **given})


def _cap(text: str, option: str) -> Decimal | None:
    """The amount that ``text`` means; ``None`` for no limit.

    Raises:
        typer.BadParameter: It is neither an amount of at most six decimals nor ``none``.
    """
    if text == _NO_LIMIT:
        return None
    try:
        return _USD.validate_python(Decimal(text.removeprefix("$")))
    except (InvalidOperation, ValidationError):
        raise typer.BadParameter(
            f"{text!r} is no amount; write US dollars such as 12.50, or {_NO_LIMIT}",
            param_hint=option,
        ) from None


def _show(uses: Sequence[BudgetUse], *, as_json: bool) -> None:
    if as_json:
        render.print_json([describe(use) for use in uses])
        return
    console = render.console()
    if not uses:
        console.print(Text("No budget is set: nothing is limited."))
        return
    console.print(table_of(uses))


def table_of(uses: Sequence[BudgetUse]) -> Table:
    """Budgets as a person reads them."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
    for column in ("tenant", "budget"):
        table.add_column(column)
    for column in ("cap", "spent", "reserved", "left"):
        table.add_column(column, justify="right")
    for use in uses:
        taken = (
            ("", "")
            if use.period is None
            else (format_usd(use.spending.spent), format_usd(use.spending.reserved))
        )
        per = "each execution" if use.period is None else f"{use.budget.per} {use.period}"
        left = Text(format_usd(use.left), "" if use.left else "red")
        table.add_row(use.budget.tenant, per, format_usd(use.budget.cap), *taken, left)
    return table


def _plain(amount: Decimal) -> str:
    return format_usd(amount).removeprefix("$")

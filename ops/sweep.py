"""``millstream ledger``: let the ledger forget what ended long ago."""

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Final

import typer
from rich.text import Text

from agents.runtime.database import Database
from agents.runtime.declarations import format_duration
from agents.runtime.ledger.postgres_sweep import SweepStore, Swept
from agents.runtime.ledger.retention import SWEEP_LIMIT, check_retention
from agents.runtime.settings import PREFIX, Settings, load_settings
from agents.runtime.topology import load_topology
from ops import render

_SAY_SECONDS: Final = 2.0

ledger_app = typer.Typer(help="Care for the ledger, the roles' durable state.")


@ledger_app.callback()
def _group() -> None:
    """A group even while it has one command."""


@ledger_app.command()
def sweep(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only count what there is to delete.")
    ] = False,
    batch: Annotated[
        int, typer.Option(min=1, max=10_000, help="Inbox entries that a transaction deletes.")
    ] = SWEEP_LIMIT,
    seconds: Annotated[
        float, typer.Option("--for", min=0, help="Seconds after which to stop, done or not.")
    ] = 600.0,
    database: Annotated[
        str | None,
        typer.Option("--database", metavar="URL", help="The database, instead of the settings'."),
    ] = None,
    lane: Annotated[
        str | None,
        typer.Option("--lane", help="The lane, such as canary.", show_default="the settings'"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Delete what executions left behind that ended longer ago than the retention.

    The router does the same by itself, once an hour. Exit code 3 when time ran out.
    """
    flags = {PREFIX + "DATABASE_URL": database, PREFIX + "LANE": lane}
    given = {variable: value for variable, value in flags.items() if value is not None}
    settings = load_settings({**os.environ, **given})
    check_retention(settings.ledger_retention, load_topology(settings.topics_file))
    if dry_run:
        _say_what_is_old(settings, *asyncio.run(_count(settings)), as_json=as_json)
        return
    swept, is_done = asyncio.run(_sweep(settings, batch, seconds, _progress()))
    if as_json:
        render.print_json({**asdict(swept), "is_done": is_done})
    else:
        render.console().print(Text(f"Deleted {describe(swept)}."), soft_wrap=True)
        if not is_done:
            typer.echo(f"There is more, but {seconds:g} s are over.", err=True)
    raise typer.Exit(0 if is_done else 3)


def describe(swept: Swept) -> str:
    """Counts as a person reads them."""
    return (
        f"{swept.runs} runs with {swept.effects} effects, {swept.events} inbox entries, "
        f"{swept.verdicts} verdicts, {swept.spending} rows of past spending, and records of "
        f"{swept.redrives} redrives and {swept.purges} purges"
    )


async def _count(settings: Settings) -> tuple[Swept, int]:
    database = _database(settings)
    await database.start()
    try:
        before = datetime.now(UTC) - settings.ledger_retention
        return await SweepStore(database).count(lane=settings.lane, before=before)
    finally:
        await database.close()


async def _sweep(
    settings: Settings, batch: int, seconds: float, tell: Callable[[Swept], None]
) -> tuple[Swept, bool]:
    """Delete batch by batch; says whether nothing is left."""
    database = _database(settings)
    await database.start()
    swept, deadline = Swept(), time.monotonic() + seconds
    before = datetime.now(UTC) - settings.ledger_retention
    store = SweepStore(database)
    try:
        while time.monotonic() < deadline:
            one = await store.sweep(lane=settings.lane, before=before, limit=batch)
            if not one.rows:
                return swept, True
            swept += one
            tell(swept)
    finally:
        await database.close()
    return swept, False


def _database(settings: Settings) -> Database:
    url = settings.database_url.get_secret_value()
    return Database(url, pool_size=1, application_name="millstream-sweep")


def _progress() -> Callable[[Swept], None]:
    """Says every now and then how far it has come."""
    last = time.monotonic()

    def tell(swept: Swept) -> None:
        nonlocal last
        if time.monotonic() - last >= _SAY_SECONDS:
            last = time.monotonic()
            typer.echo(f"… {describe(swept)}", err=True)

    return tell


def _say_what_is_old(settings: Settings, old: Swept, kept: int, *, as_json: bool) -> None:
    age = format_duration(settings.ledger_retention)
    if as_json:
        render.print_json({**asdict(old), "kept": kept, "retention": age})
        return
    console = render.console()
    console.print(Text(f"Older than {age}, to be deleted: {describe(old)}."), soft_wrap=True)
    if kept:
        console.print(
            Text(
                f"As old, but kept: {kept}. They are unknown, or nobody knows whether an effect of "
                "theirs happened, or messages of theirs were never sent."
            ),
            soft_wrap=True,
        )

"""``millstream approve``, ``millstream reject`` and ``millstream approvals``."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from agents.routing.approvals import describe_all
from agents.runtime.settings import PREFIX, Settings, load_settings
from ops import render
from ops.answers import show_answer
from ops.approvals import Decision, Pending, decide, pending, speaker_of, waiting
from ops.history import connected
from ops.keys import login, make_key

_SHORT_ID: Final = 8

approvals_app = typer.Typer(help="See what waits for approval, and make keys for approvers.")


def run(
    settings: Settings,
    decision: Decision,
    given: str,
    *,
    by: str | None,
    key: Path | None,
    reason: str | None,
    plan_hash: str | None,
    timeout: float,
    as_json: bool,
) -> int:
    """Approve or reject what ``given`` means, and say what the router answered.

    Returns:
        The exit code: 0 when it was taken, 1 when it was refused, 3 when no answer came.

    Raises:
        MillstreamError: There is no such execution or no key, or something cannot be reached.
    """
    speaker = speaker_of(settings, by or login(), key)
    with connected(settings) as connection:
        about = pending(connection, given, lane=settings.lane)
        if not as_json:
            render.console().print(_plan(about), soft_wrap=True)
        return show_answer(
            about.correlation_id,
            lambda: decide(
                settings,
                connection,
                decision,
                about,
                speaker,
                reason=reason,
                plan_hash=plan_hash,
                timeout=timeout,
            ),
            as_json=as_json,
        )


@approvals_app.command("ls")
def list_waiting(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many at most.")] = 50,
    database: Annotated[
        str | None,
        typer.Option("--database", metavar="URL", help="The database, instead of the settings'."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """List what waits for approval, that which expires first at the top."""
    given = {} if database is None else {PREFIX + "DATABASE_URL": database}
    settings = load_settings({**os.environ, **given})
    with connected(settings) as connection:
        found = waiting(connection, lane=settings.lane, limit=limit)
    if as_json:
        render.print_json([as_dict(each) for each in found])
    elif found:
        render.console().print(_table(found, datetime.now(UTC)))
    else:
        render.console().print("Nothing waits for approval.")


@approvals_app.command("make-key")
def make_a_key(
    name: Annotated[str, typer.Argument(help="The person's name, as commands will carry it.")],
    file: Annotated[Path, typer.Option("--key", help="Where the private key goes.")],
    group: Annotated[
        list[str] | None, typer.Option(help="A group that the person belongs to; may be repeated.")
    ] = None,
) -> None:
    """Make somebody's private key, and print what belongs into the list of principals."""
    entry = make_key(file, name, group or ())
    typer.echo(f"{file} is {name}'s, to be kept private; the list of principals gets this:\n")
    typer.echo(entry, nl=False)


def as_dict(each: Pending) -> dict[str, Any]:
    """What waits, for a program."""
    steps = [step.model_dump(mode="json", exclude={"retry", "cost"}) for step in each.steps]
    return {
        **each.model_dump(mode="json", exclude={"steps"}),
        "missing": [obligation.model_dump(mode="json") for obligation in each.missing],
        "steps": steps,
    }


def _table(found: list[Pending], now: datetime) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
    for heading in ("execution", "expires in", "requester", "wanted", "has", "request"):
        table.add_column(heading, overflow="fold")
    for each in found:
        expires_at = None if each.approval is None else each.approval.expires_at
        left = "" if expires_at is None else max(0.0, (expires_at - now).total_seconds())
        approvals = () if each.approval is None else each.approval.approvals
        table.add_row(
            Text(str(each.correlation_id)[:_SHORT_ID], "cyan"),
            "being judged" if isinstance(left, str) else render.duration(left),
            Text(each.requester),
            Text(describe_all(each.missing)),
            Text(", ".join(approval.approver for approval in approvals)),
            Text(" ".join((each.title or "").split())),
        )
    return table


def _plan(about: Pending) -> RenderableType:
    """What is being decided about."""
    grid = Table.grid(padding=(0, 2))
    for step in about.steps:
        parameters = Text(render.values(step.parameters), "dim")
        grid.add_row(
            "", Text(step.step_id, "cyan"), step.action, parameters, Text(f"{step.risk} risk")
        )
    return Group(
        Text.assemble((about.title or "", "bold"), f"  asked for by {about.requester}"),
        grid,
        Text(f"  execution {about.correlation_id}  plan {about.plan_hash}", "dim"),
    )

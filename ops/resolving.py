"""``millstream effects``: what executors did, or may have done, and what became of it."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NoReturn, get_args

import typer
from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from agents.runtime.declarations import Duration
from agents.runtime.ledger.claims import EffectStatus
from agents.runtime.settings import PREFIX, Settings, load_settings
from ops import render
from ops.answers import show_answer
from ops.approvals import speaker_of
from ops.effects import Effect, Which, effects, find, resolve
from ops.history import connected
from ops.keys import login
from schemas import JsonObject

_REFUSED: Final = 1
_SHORT_ID: Final = 8
_DURATION: Final = TypeAdapter[timedelta](Duration)
_STATUSES: Final[dict[str, EffectStatus]] = {each: each for each in get_args(EffectStatus)}
_COLOURS: Final = {"done": "green", "failed": "red", "unknown": "bold yellow", "started": "cyan"}

effects_app = typer.Typer(help="See what executors did or may have done; say what became of it.")

_Status = Literal["in_doubt", "started", "done", "failed", "unknown", "all"]
_Kafka = Annotated[
    str | None,
    typer.Option("--kafka", metavar="HOST:PORT", help="The broker, instead of the settings'."),
]
_Database = Annotated[
    str | None,
    typer.Option("--database", metavar="URL", help="The database, instead of the settings'."),
]
_AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
_Execution = Annotated[str, typer.Argument(help="An execution's id, or the beginning of one.")]


@effects_app.command("ls")
def list_effects(
    *,
    status: Annotated[
        _Status, typer.Option(help="in_doubt: unknown, or begun by a process that died over it.")
    ] = "in_doubt",
    age: Annotated[
        str | None, typer.Option(help="Only those begun longer ago than this, such as 15m or 2h.")
    ] = None,
    action: Annotated[str | None, typer.Option(help="Only those of this action.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Only those of this tenant.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many at most.")] = 50,
    database: _Database = None,
    as_json: _AsJson = False,
) -> None:
    """List effects, the oldest first; those that somebody must look after if nothing is said."""
    now, settings = datetime.now(UTC), _settings(database)
    which = Which(
        status=_STATUSES.get(status),
        in_doubt=status == "in_doubt",
        action=action,
        before=None if age is None else now - _duration(age),
        tenant=tenant,
    )
    with connected(settings) as connection:
        found = effects(connection, which, lane=settings.lane, limit=limit)
    if as_json:
        render.print_json([_as_dict(each) for each in found])
    elif found:
        render.console().print(_table(found, now))
    else:
        what = "effect is in doubt" if status == "in_doubt" else "effect is like that"
        render.console().print(f"No {what}.")


@effects_app.command("show")
def show_effects(
    execution: _Execution,
    step: Annotated[str | None, typer.Argument(help="One of its steps.")] = None,
    database: _Database = None,
    as_json: _AsJson = False,
) -> None:
    """Show the effects of an execution, or of one of its steps; exit with 1 where there is none."""
    settings = _settings(database)
    with connected(settings) as connection:
        which = Which(execution=find(connection, execution, lane=settings.lane), step_id=step)
        found = effects(connection, which, lane=settings.lane)
    if as_json:
        render.print_json([_as_dict(each) for each in found])
    elif found:
        render.console().print(Group(*map(_details, found)), soft_wrap=True)
    else:
        typer.echo("No executor has begun it.", err=True)
    if not found:
        raise typer.Exit(_REFUSED)


@effects_app.command("resolve")
def resolve_effect(
    execution: _Execution,
    step: Annotated[str, typer.Argument(help="The step whose effect is in doubt.")],
    *,
    outcome: Annotated[
        Literal["done", "failed"],
        typer.Option(help="failed: for certain it did not happen."),
    ],
    reason: Annotated[str, typer.Option(help="How you know, for everybody to read.")],
    output: Annotated[
        str | None,
        typer.Option(metavar="JSON", help="What the step would have put out, as an object."),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(help="Who you are, in the list of principals.", show_default="your login"),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(help="Your private key.", show_default="MILLSTREAM_SIGNING_KEY_FILE"),
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0, help="Seconds to wait for the router's answer.")
    ] = 30.0,
    kafka: _Kafka = None,
    database: _Database = None,
    as_json: _AsJson = False,
) -> None:
    """Say what became of an effect in doubt, signed with your key; its execution goes on with that.

    Exit with 1 when that is refused, with 3 when no answer came.
    """
    given = None if output is None else _object(output)
    settings = _settings(database, kafka)
    speaker = speaker_of(settings, by or login(), key)
    with connected(settings) as connection:
        about = find(connection, execution, lane=settings.lane)
        code = show_answer(
            about,
            lambda: resolve(
                settings,
                connection,
                about,
                step,
                outcome,
                speaker,
                reason=reason,
                output=given,
                timeout=timeout,
            ),
            as_json=as_json,
        )
    raise typer.Exit(code)


def _settings(database: str | None, kafka: str | None = None) -> Settings:
    flags = {PREFIX + "DATABASE_URL": database, PREFIX + "KAFKA_BOOTSTRAP": kafka}
    given = {variable: value for variable, value in flags.items() if value is not None}
    return load_settings({**os.environ, **given})


def _duration(text: str) -> timedelta:
    try:
        return _DURATION.validate_python(text)
    except ValidationError:
        _refuse(f"{text!r} is no duration, such as 15m or 2h", "--age")


def _object(text: str) -> JsonObject:
    try:
        return TypeAdapter(JsonObject).validate_python(from_json(text, allow_inf_nan=False))
    except (ValueError, ValidationError):
        _refuse("it is no JSON object", "--output")


def _refuse(reason: str, option: str) -> NoReturn:
    raise typer.BadParameter(reason, param_hint=option)


def _as_dict(effect: Effect) -> dict[str, Any]:
    return effect.model_dump(mode="json")


def _table(found: list[Effect], now: datetime) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
    for heading in ("execution", "run", "step", "action", "status", "begun", "tenant", "why"):
        table.add_column(heading, overflow="fold")
    for each in found:
        ago = max(0.0, (now - each.claimed_at).total_seconds())
        table.add_row(
            Text(str(each.correlation_id)[:_SHORT_ID], "cyan"),
            str(each.run_no),
            Text(each.step_id),
            Text(each.action),
            _status(each),
            f"{render.duration(ago)} ago",
            Text(each.tenant or ""),
            Text(_why(each)),
        )
    return table


def _details(effect: Effect) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    failure = None if effect.result is None else effect.result.failure
    facts: dict[str, str | Text] = {
        "status": _status(effect),
        "action": effect.action,
        "attempt": f"{effect.attempt} of run {effect.run_no}",
        "owner": effect.owner,
        "begun": str(effect.claimed_at),
        "settled": "" if effect.settled_at is None else str(effect.settled_at),
        "lease": str(effect.lease_until) if effect.status == "started" else "",
        "code": "" if failure is None else failure.code,
        "why": _why(effect),
        "output": render.values(effect.result.output) if effect.result else "",
    }
    for name, value in facts.items():
        if value:
            grid.add_row("", Text(name, "dim"), value if isinstance(value, Text) else Text(value))
    heading = Text.assemble((effect.step_id, "bold"), f"  execution {effect.correlation_id}")
    return Group(heading, grid)


def _status(effect: Effect) -> Text:
    lost = " (its owner is gone)" if effect.status == "started" and effect.is_in_doubt else ""
    return Text(effect.status + lost, _COLOURS[effect.status])


def _why(effect: Effect) -> str:
    if effect.resolved is not None:
        return f"resolved by {effect.resolved.by}: {effect.resolved.reason}"
    failure = None if effect.result is None else effect.result.failure
    return "" if failure is None else failure.reason

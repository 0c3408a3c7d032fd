"""``millstream actions``: look into the catalogue and check it."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from pydantic import JsonValue
from rich.console import Console
from rich.table import Table
from rich.text import Text

from agents.executors import SETTINGS_MODELS
from agents.executors.mcp import KINDS as MCP_KINDS
from agents.runtime.budgets import format_usd
from agents.runtime.catalogue import (
    ActionSpec,
    Catalogue,
    ParameterSpec,
    Phrase,
    UnknownActionError,
    catalogue_schema,
    load_catalogue,
    load_prices,
)
from agents.runtime.clock import SystemClock
from agents.runtime.context import Services
from agents.runtime.declarations import DeclarationError
from agents.runtime.errors import ConfigurationError, MillstreamError
from agents.runtime.ledger.memory import MemoryLedger
from agents.runtime.revealed import KNOWN
from agents.runtime.secrets import open_secrets
from agents.runtime.settings import load_settings
from agents.runtime.topology import load_topology
from ops.importing import add_actions, written
from schemas import JsonObject
from schemas.export import render

__all__ = ["actions_app"]

actions_app = typer.Typer(help="Look into the action catalogue, and check it.")

_PROBLEMS: Final = 1
_ANSWER_SECONDS: Final = 60.0
_RISK_STYLES: Final = {"low": "green", "medium": "yellow", "high": "red"}

ActionsFile = Annotated[
    Path | None,
    typer.Option("--actions-file", help="The catalogue.", show_default="actions.yaml"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@actions_app.command("ls")
def list_actions(actions_file: ActionsFile = None, as_json: AsJson = False) -> None:
    """List what executions can do."""
    with _explained():
        catalogue = _load(actions_file)
    if as_json:
        _print_json([_dump(action) for action in catalogue.actions.values()])
        return
    table = Table("action", "does", "executor", "effect", "risk", box=None, pad_edge=False)
    for action in catalogue.actions.values():
        risk = Text(action.risk, _RISK_STYLES[action.risk])
        table.add_row(action.id, action.description, action.executor, action.effect, risk)
    Console().print(table)


@actions_app.command()
def check(actions_file: ActionsFile = None, as_json: AsJson = False) -> None:
    """Check the whole catalogue; exit with 1 and name every problem if there is one."""
    try:
        with _explained(DeclarationError):
            catalogue = _load(actions_file)
    except DeclarationError as error:
        if as_json:
            _print_json(
                {
                    "problems": [
                        {
                            "file": problem.file,
                            "line": problem.line,
                            "path": problem.path,
                            "wrong": problem.wrong,
                            "expected": problem.expected,
                        }
                        for problem in error.problems
                    ]
                }
            )
        else:
            typer.echo(str(error), err=True)
            count = len(error.problems)
            typer.echo(f"{count} problem{'s' if count > 1 else ''}.", err=True)
        raise typer.Exit(_PROBLEMS) from None
    if as_json:
        _print_json({"problems": []})
    else:
        typer.echo(f"{catalogue.source}: {len(catalogue.actions)} actions, no problems.")


@actions_app.command()
def show(
    action_id: Annotated[str, typer.Argument(metavar="ACTION", help="Such as service.restart.")],
    actions_file: ActionsFile = None,
    as_json: AsJson = False,
) -> None:
    """Show one action with its parameters and rules."""
    with _explained():
        action = _load(actions_file).action(action_id)
    if as_json:
        _print_json(_dump(action))
    else:
        _print_action(action)


@actions_app.command()
def schema() -> None:
    """Print the JSON Schema of actions.yaml, for editors."""
    typer.echo(render(catalogue_schema()), nl=False)


@actions_app.command("import-mcp")
def import_mcp(
    server: Annotated[str, typer.Argument(help="A connection of the catalogue, by name.")],
    tools: Annotated[
        list[str] | None, typer.Option("--tool", help="Only this one; may be repeated.")
    ] = None,
    actions_file: ActionsFile = None,
    believe: Annotated[
        bool,
        typer.Option(
            "--trust-hints",
            help="Believe the server when it says that a tool only reads or may be repeated.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the entries instead of adding them.")
    ] = False,
) -> None:
    """Add the tools of an MCP server to the catalogue, as actions that need approval."""
    with _explained():
        path = actions_file or load_settings().actions_file
        entries = _tools_as_actions(server, _load(path), only=tools, believe=believe)
        known = _load(path).actions
        fresh = {name: entry for name, entry in entries.items() if name not in known}
        if dry_run:
            typer.echo(written(fresh), nl=False)
            return
        if fresh:
            add_actions(path, fresh)
    for name in entries:
        typer.echo(
            f"{name}: {'added' if name in fresh else 'is there already, and stays as it is'}"
        )


def _tools_as_actions(
    server: str, catalogue: Catalogue, *, only: Sequence[str] | None, believe: bool
) -> dict[str, JsonObject]:
    # The MCP client takes a second to load, which no other command shall take.
    from agents.executors.mcp_tools import action_id, declare, list_tools  # noqa: PLC0415

    connection = catalogue.connections.get(server)
    if connection is None or connection.kind not in MCP_KINDS:
        raise ConfigurationError(
            f"{catalogue.source} has no connection {server!r} to an MCP server"
        )
    settings, clock = load_settings(), SystemClock()
    services = Services(
        settings=settings,
        catalogue=catalogue,
        topology=load_topology(settings.topics_file),
        ledger=MemoryLedger(clock),
        clock=clock,
        secrets=open_secrets(settings),
    )
    try:
        found = asyncio.run(asyncio.wait_for(list_tools(server, services), _ANSWER_SECONDS))
    except MillstreamError as error:
        raise ConfigurationError(error.reason) from error
    except Exception as error:
        said = KNOWN.text(f"{type(error).__name__}: {error}")
        raise ConfigurationError(f"{server} does not say what tools it has: {said}") from error
    if unknown := sorted(set(only or ()) - {tool.name for tool in found}):
        raise ConfigurationError(f"{server} has no tool {', '.join(unknown)}")
    return {
        action_id(server, tool.name): declare(server, tool, believe=believe)
        for tool in found
        if only is None or tool.name in only
    }


@contextmanager
def _explained(*passed_on: type[ConfigurationError]) -> Iterator[None]:
    """An error that people can mend ends the command with its sentences."""
    try:
        yield
    except passed_on:
        raise
    except (ConfigurationError, UnknownActionError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(_PROBLEMS) from None


def _load(actions_file: Path | None) -> Catalogue:
    settings = load_settings()
    prices = load_prices(settings.prices_file)
    return load_catalogue(actions_file or settings.actions_file, SETTINGS_MODELS, prices=prices)


def _dump(action: ActionSpec) -> dict[str, JsonValue]:
    return action.model_dump(mode="json", by_alias=True, exclude_none=True)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _print_action(action: ActionSpec) -> None:
    console = Console(soft_wrap=True, highlight=False)
    console.print(Text(action.id, "bold"), Text(f" ({action.source})", "dim"), sep="")
    console.print(Text(f"  {action.description}"))
    retry = action.retry
    facts = {
        "executor": action.executor,
        "effect": action.effect,
        "risk": action.risk,
        "destructive": "yes" if action.destructive else "no",
        "approval": "needed each time" if action.needs_approval else "up to the policies",
        "environments": _list(action.allowed_environments, "all that allow its risk"),
        "tenants": _list(action.allowed_tenants, "all"),
        "timeout": f"{action.timeout:g} s",
        "attempts": f"{retry.max_attempts}, waits from {retry.initial_delay:g} s "
        f"times {retry.exponential_base:g}",
        "cost": f"{format_usd(action.cost.total)} an attempt",
        "phrases": _list([_weighed(p) for p in action.phrases], "none, only plans name it"),
    }
    for name, fact in facts.items():
        console.print(Text(f"  {name:<13} "), Text(fact), sep="")
    if action.parameters:
        console.print("  parameters")
        for name, spec in action.parameters.items():
            console.print(Text(f"    {name:<13} "), Text(_describe(spec)), sep="")
    if action.outputs:
        console.print("  outputs")
        for name, output in action.outputs.items():
            console.print(
                Text(f"    {name:<13} "), Text(f"{output.type}: {output.description}"), sep=""
            )


def _list(items: Sequence[str] | None, otherwise: str) -> str:
    return ", ".join(items) if items else otherwise


def _weighed(phrase: Phrase) -> str:
    return phrase.phrase if phrase.weight == 1 else f"{phrase.phrase} ({phrase.weight:g})"


def _describe(spec: ParameterSpec) -> str:
    need = "required" if spec.required else f"default {json.dumps(spec.default)}"
    kind = f"{spec.type} ({spec.entity})" if spec.entity is not None else spec.type
    if spec.secrets is not None:
        kind = f"secret ({', '.join(spec.secrets)})"
    return f"{kind}, {need}: {spec.description}"

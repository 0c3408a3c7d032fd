"""``millstream policies``: check and test the policies, and explain what they said."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.text import Text

from agents.executors import SETTINGS_MODELS
from agents.policies import Judge, load_policies, schema_of, zone_of
from agents.policies.cases import Case, CaseResult, read_cases, run_case, unexercised
from agents.runtime.catalogue import Catalogue, load_catalogue, load_prices
from agents.runtime.declarations import DeclarationError
from agents.runtime.errors import ConfigurationError, InfrastructureError, MillstreamError
from agents.runtime.settings import Settings, load_settings
from ops import render
from ops.history import opened
from ops.policy_view import explain, render_explanation

__all__ = ["policies_app"]

policies_app = typer.Typer(help="Check, test and explain the policies.")

_NO: Final = 1
_UNREACHABLE: Final = 2
_OF_THE_SURROUNDINGS: Final = (ConfigurationError, InfrastructureError)

PoliciesFolder = Annotated[
    Path | None,
    typer.Option("--policies", help="The folder of policies.", show_default="ops/policies"),
]
ActionsFile = Annotated[
    Path | None,
    typer.Option("--actions-file", help="The catalogue.", show_default="actions.yaml"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@dataclass(frozen=True)
class _Loaded:
    """What the files of a deployment say."""

    settings: Settings
    folder: Path
    catalogue: Catalogue
    judge: Judge


@policies_app.command()
def check(
    policies: PoliciesFolder = None, actions_file: ActionsFile = None, as_json: AsJson = False
) -> None:
    """Check policies and their cases; exit with 1 and name every problem if there is one."""
    try:
        with _explained(DeclarationError):
            loaded = _load(policies, actions_file)
            cases = read_cases(loaded.folder, loaded.catalogue)
    except DeclarationError as error:
        _print_problems(error, as_json=as_json)
        raise typer.Exit(_NO) from None
    if as_json:
        render.print_json({"problems": [], "policy_set": loaded.judge.policies.digest})
        return
    count = len(loaded.judge.policies.policies)
    typer.echo(f"{loaded.folder}: {count} policies, {len(cases)} cases, no problems.")


@policies_app.command("test")
def run_cases(
    policies: PoliciesFolder = None, actions_file: ActionsFile = None, as_json: AsJson = False
) -> None:
    """Run the cases beside the policies; exit with 1 if one comes out otherwise."""
    with _explained():
        loaded = _load(policies, actions_file)
        cases = read_cases(loaded.folder, loaded.catalogue)
    results = [run_case(case, loaded.judge, loaded.catalogue) for case in cases]
    untested = unexercised(results, loaded.judge)
    failed = [result for result in results if not result.passed]
    if as_json:
        render.print_json({"cases": [_as_json(result) for result in results], "untested": untested})
    else:
        for result in failed:
            _print_failure(result)
        for policy_id in untested:
            typer.echo(f"{_place_of(loaded.judge, policy_id)}: no case is about {policy_id}")
        typer.echo(f"{len(results) - len(failed)} of {len(results)} cases came out as they should.")
    if failed or not results:
        raise typer.Exit(_NO)


@policies_app.command("explain")
def explain_execution(
    execution: Annotated[
        str, typer.Argument(help="A correlation id, the beginning of one, or your own id.")
    ],
    policies: PoliciesFolder = None,
    actions_file: ActionsFile = None,
    as_json: AsJson = False,
) -> None:
    """Say why an execution got its verdict, and what today's policies say of the same plan."""
    with _explained():
        loaded = _load(policies, actions_file)
        with opened(loaded.settings) as history:
            timeline = history.timeline(history.find(execution))
            explanation = explain(timeline, loaded.judge, lane=loaded.settings.lane)
    if as_json:
        render.print_json(explanation.model_dump(mode="json"))
    else:
        render.console().print(render_explanation(explanation))


@policies_app.command()
def schema(actions_file: ActionsFile = None) -> None:
    """Print what policies may speak of, as a Cedar schema."""
    with _explained():
        typer.echo(str(schema_of(_catalogue(load_settings(), actions_file))), nl=False)


def _load(policies: Path | None, actions_file: Path | None) -> _Loaded:
    settings = load_settings()
    folder = policies or settings.policies_folder
    catalogue = _catalogue(settings, actions_file)
    zone = zone_of(settings.policies_time_zone)
    policies_in_force = load_policies(folder, schema_of(catalogue), zone)
    judge = Judge(catalogue, policies_in_force, settings.approval_ttl)
    return _Loaded(settings, folder, catalogue, judge)


def _catalogue(settings: Settings, actions_file: Path | None) -> Catalogue:
    prices = load_prices(settings.prices_file)
    return load_catalogue(actions_file or settings.actions_file, SETTINGS_MODELS, prices=prices)


@contextmanager
def _explained(*passed_on: type[ConfigurationError]) -> Iterator[None]:
    """An error that people can mend ends the command with its sentences."""
    try:
        yield
    except passed_on:
        raise
    except MillstreamError as error:
        typer.echo(error.reason, err=True)
        is_no = isinstance(error, DeclarationError) or not isinstance(error, _OF_THE_SURROUNDINGS)
        raise typer.Exit(_NO if is_no else _UNREACHABLE) from None


def _print_problems(error: DeclarationError, *, as_json: bool) -> None:
    if as_json:
        problems = [
            {
                "file": problem.file,
                "line": problem.line,
                "path": problem.path,
                "wrong": problem.wrong,
                "expected": problem.expected,
            }
            for problem in error.problems
        ]
        render.print_json({"problems": problems})
        return
    count = len(error.problems)
    typer.echo(error.reason, err=True)
    typer.echo(f"{count} problem{'s' if count > 1 else ''}.", err=True)


def _as_json(result: CaseResult) -> dict[str, Any]:
    case = result.case
    return {
        "name": case.name,
        "file": case.file,
        "line": case.line,
        "passed": result.passed,
        "expected": case.declared.outcome,
        "outcome": result.outcome,
        "silent": result.silent,
        "spoke": sorted(result.spoke),
        "reasons": result.reasons,
    }


def _print_failure(result: CaseResult) -> None:
    case: Case = result.case
    console = render.console()
    console.print(Text(f"{case.file}:{case.line}: {case.name}", "bold"), soft_wrap=True)
    if result.outcome != case.declared.outcome:
        said = f"  expected {case.declared.outcome}, came out {result.outcome}"
        console.print(Text(said, "red"), soft_wrap=True)
    for policy_id in result.silent:
        console.print(Text(f"  {policy_id} should have spoken", "red"), soft_wrap=True)
    console.print(Text(f"  these spoke: {', '.join(sorted(result.spoke)) or 'none'}"))
    for reason in result.reasons:
        console.print(Text(f"  {reason}", "dim"), soft_wrap=True)


def _place_of(judge: Judge, policy_id: str) -> str:
    policy = judge.policies.policies[policy_id]
    return f"{policy.file}:{policy.line}"

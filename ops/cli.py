"""The command line: ``millstream``.

Commands import what they need when they run, so that ``--help`` is quick. Exit codes: 0 for yes
or done, 1 where the answer is no, 2 for wrong usage, wrong configuration or something that cannot
be reached, 3 for out of time.
"""

# ruff: noqa: PLC0415  # what a command needs is imported when it runs

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from ops.controlling import Order

_MOUNTED: Final = {
    "topics": ("ops.topics:topics_app", "Compare topics.yaml with a broker, and bring it in."),
    "actions": ("ops.actions:actions_app", "Look at the action catalogue, and check it."),
    "policies": ("ops.policy_commands:policies_app", "Check, test and explain the policies."),
    "approvals": (
        "ops.approving:approvals_app",
        "See what waits for approval; make keys for approvers.",
    ),
    "budgets": ("ops.budgets:budgets_app", "Say what tenants may spend, and see what they spent."),
    "effects": (
        "ops.resolving:effects_app",
        "See what executors did or may have done; say what became of it.",
    ),
    "dlq": ("ops.dlq:dlq_app", "Look at dead letters, and send their records again."),
    "partitions": (
        "ops.partitions:partitions_app",
        "Make and drop the daily partitions of history.",
    ),
    "ledger": ("ops.sweep:ledger_app", "Care for the ledger, the roles' durable state."),
}
"""Groups of commands that live in modules of their own, loaded when they are used; what they do."""

_CHECKOUT: Final = Path(__file__).resolve().parents[1]


class _Commands(TyperGroup):
    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0] if args else ""
        if name not in _MOUNTED:
            return super().resolve_command(ctx, args)
        module, attribute = _MOUNTED[name][0].split(":")
        group = typer.main.get_group(getattr(import_module(module), attribute))
        group.no_args_is_help = True
        return name, group, args[1:]


app = typer.Typer(
    cls=_Commands,
    help="Millstream: requests become governed, audited, replayable actions.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _name, (_, _help) in _MOUNTED.items():
    app.add_typer(typer.Typer(help=_help, no_args_is_help=True), name=_name)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Kafka = Annotated[
    str | None,
    typer.Option("--kafka", metavar="HOST:PORT", help="The broker, instead of the settings'."),
]
Database = Annotated[
    str | None,
    typer.Option("--database", metavar="URL", help="The database, instead of the settings'."),
]
Execution = Annotated[
    str, typer.Argument(help="A correlation id, the beginning of one, or the requester's own id.")
]


@app.callback()
def _join_the_running_stack(
    ctx: typer.Context,
    state: Annotated[
        Path,
        typer.Option(
            help="The folder of the stack to work with, as `up` was given.",
            show_default=".millstream in the checkout",
        ),
    ] = _CHECKOUT / ".millstream",
) -> None:
    """Take from a running stack what neither a flag nor a variable says."""
    if not (state / "stack.json").exists():
        return
    from ops.running import read_stack

    ctx.obj = stack = read_stack(state)
    if stack is not None:
        for variable, value in stack.environment.items():
            os.environ.setdefault(variable, value)


@app.command()
def up(
    kafka: Annotated[
        str,
        typer.Option(metavar="embedded|jars|HOST:PORT", help="Which broker to start or to use."),
    ] = "embedded",
    postgres: Annotated[
        str, typer.Option(metavar="embedded|URL", help="Which database to start or to use.")
    ] = "embedded",
    state: Annotated[
        Path | None,
        typer.Option(
            help="The folder for data and logs.", show_default=".millstream in the checkout"
        ),
    ] = None,
    kafka_port: Annotated[
        int | None, typer.Option(min=1, max=65535, show_default="a free one")
    ] = None,
    postgres_port: Annotated[
        int | None, typer.Option(min=1, max=65535, show_default="a free one")
    ] = None,
    processes: Annotated[
        bool,
        typer.Option("--processes", help="Run each role in a process of its own."),
    ] = False,
) -> None:
    """Run the whole stack in the foreground until Ctrl-C."""
    from ops.stack import StackOptions
    from ops.up import run

    options = StackOptions(
        state=state or _CHECKOUT / ".millstream",
        kafka=kafka,
        postgres=postgres,
        kafka_port=kafka_port,
        postgres_port=postgres_port,
        processes=processes,
    )
    raise typer.Exit(run(options))


@app.command()
def demo() -> None:
    """Run a story on a stack of its own, and leave nothing behind."""
    from ops.demo import run

    raise typer.Exit(run())


@app.command()
def submit(
    text: Annotated[str | None, typer.Argument(help="What is to be done, in plain words.")] = None,
    *,
    plan: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="A file with steps, as JSON or YAML."),
    ] = None,
    tenant: Annotated[str, typer.Option(help="Who it is accounted to.")] = "default",
    user: Annotated[str, typer.Option(help="Who asks.")] = "anonymous",
    correlation_id: Annotated[
        str | None, typer.Option(help="An id of your own for the execution.")
    ] = None,
    on_failure: Annotated[
        str | None,
        typer.Option(
            metavar="stop|continue|compensate",
            help="What a failed step leads to, where the plan does not say.",
            show_default="stop",
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Follow it to its end.")] = False,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait at most.")] = 60.0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show plan, cost and verdict, and send nothing.")
    ] = False,
    kafka: Kafka = None,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """Send a request; with --wait, exit with 0 on success, 1 on another end, 3 out of time.

    With --dry-run, exit with 0 where the plan may run, now or once it is approved, 1 where not.
    """
    if text is None and plan is None:
        raise typer.BadParameter("say what is to be done, or give a --plan", param_hint="TEXT")
    from ops.submit import make_submission, run

    submission = make_submission(
        text,
        plan=plan,
        tenant=tenant,
        user=user,
        correlation_id=correlation_id,
        on_failure=on_failure,
    )
    settings = _settings(kafka=kafka, database=database)
    if dry_run:
        from ops import preview

        raise typer.Exit(preview.run(settings, submission, as_json=as_json))
    raise typer.Exit(run(settings, submission, wait=timeout if wait else None, as_json=as_json))


@app.command()
def load(
    rate: Annotated[
        str, typer.Option(metavar="N/s", help="How many a second: 50/s, or 600/m, or 900/h.")
    ] = "10/s",
    count: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many in all.")] = 100,
    text: Annotated[
        list[str] | None,
        typer.Option(help="What is to be done, in plain words; several take turns."),
    ] = None,
    *,
    plan: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="A file with steps, as JSON or YAML."),
    ] = None,
    mix: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="A file with requests and their weights.",
            show_default="ops/examples/load-mix.yaml, for the shipped catalogue",
        ),
    ] = None,
    tenant: Annotated[str, typer.Option(help="Who it is accounted to.")] = "default",
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Follow them to their ends.")
    ] = True,
    timeout: Annotated[
        float, typer.Option(min=0, help="Seconds to wait at most when all are sent.")
    ] = 60.0,
    kafka: Kafka = None,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """Send requests at a steady rate, and say how long they took.

    Exit code 1 when some could not be sent or have not ended in time.
    """
    from ops.load import Load, parse_rate, run
    from ops.load_mix import choose_mix

    given = Load(
        mix=choose_mix(texts=text or (), plan=plan, mix=mix, tenant=tenant),
        rate=parse_rate(rate),
        count=count,
    )
    settings = _settings(kafka=kafka, database=database)
    raise typer.Exit(run(settings, given, wait=timeout if wait else None, as_json=as_json))


@app.command()
def status(
    ctx: typer.Context, kafka: Kafka = None, database: Database = None, as_json: AsJson = False
) -> None:
    """Say what runs, how far the roles are behind, and how executions stand."""
    from ops.status import run

    raise typer.Exit(run(_settings(kafka=kafka, database=database), ctx.obj, as_json=as_json))


@app.command("ls")
def list_executions(
    status: Annotated[str | None, typer.Option(help="Only those in this status.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Only those of this tenant.")] = None,
    since: Annotated[
        str | None, typer.Option(help="Only those received since: 15m, 2h, 1d, or a date.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many at most.")] = 20,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """List executions, the newest first."""
    from ops.show import run_list

    run_list(
        _settings(database=database),
        status=status,
        tenant=tenant,
        since=since,
        limit=limit,
        as_json=as_json,
    )


@app.command()
def show(
    execution: Execution,
    events: Annotated[
        bool, typer.Option("--events", help="Also show which message caused which.")
    ] = False,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """Show the timeline of one execution."""
    from ops.show import run

    run(_settings(database=database), execution, events=events, as_json=as_json)


@app.command()
def watch(
    execution: Annotated[
        str | None, typer.Argument(help="One execution; everything that happens if not given.")
    ] = None,
    database: Database = None,
) -> None:
    """Follow executions as they go, until Ctrl-C; one execution until its end."""
    from ops.watch import run

    run(_settings(database=database), execution)


Reason = Annotated[str | None, typer.Option(help="Why, for everybody to read.")]
By = Annotated[
    str | None,
    typer.Option(help="Who you are, in the list of principals.", show_default="your login"),
]
Key = Annotated[
    Path | None,
    typer.Option(help="Your private key.", show_default="MILLSTREAM_SIGNING_KEY_FILE"),
]
AnswerTimeout = Annotated[
    float, typer.Option(min=0, help="Seconds to wait for the router's answer.")
]


@app.command("approve", help="Approve the plan of an execution; exit with 1 when that is refused.")
@app.command("reject", help="Reject the plan of an execution; exit with 1 when that is refused.")
def decide(
    ctx: typer.Context,
    execution: Execution,
    *,
    reason: Reason = None,
    by: By = None,
    key: Key = None,
    plan_hash: Annotated[
        str | None,
        typer.Option(help="The plan that you have seen.", show_default="the one that is printed"),
    ] = None,
    timeout: AnswerTimeout = 30.0,
    kafka: Kafka = None,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """Say what you think of an execution's plan, signed with your key."""
    from ops.approving import run

    code = run(
        _settings(kafka=kafka, database=database),
        "approve" if ctx.info_name == "approve" else "reject",
        execution,
        by=by,
        key=key,
        reason=reason,
        plan_hash=plan_hash,
        timeout=timeout,
        as_json=as_json,
    )
    raise typer.Exit(code)


@app.command("cancel", help="Start nothing more of an execution, and break off what runs.")
@app.command("pause", help="Start nothing more of an execution until it is resumed.")
@app.command("resume", help="Let a paused execution go on.")
@app.command("retry", help="Run again what an execution has not done; its plan is judged anew.")
def control(
    ctx: typer.Context,
    execution: Execution,
    *,
    reason: Reason = None,
    by: By = None,
    key: Key = None,
    timeout: AnswerTimeout = 30.0,
    kafka: Kafka = None,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """Command an execution, signed with your key; exit with 1 when that is refused."""
    from ops.controlling import run

    code = run(
        _settings(kafka=kafka, database=database),
        cast("Order", ctx.info_name),
        execution,
        by=by,
        key=key,
        reason=reason,
        timeout=timeout,
        as_json=as_json,
    )
    raise typer.Exit(code)


ReadyFile = Annotated[
    Path | None, typer.Option(help="A file to make when ready, and to remove at the end.")
]


@app.command()
def worker(
    roles: Annotated[
        str | None, typer.Option(help="Which roles, separated by commas.", show_default="all")
    ] = None,
    ready_file: ReadyFile = None,
) -> None:
    """Host roles until SIGTERM or Ctrl-C."""
    from ops.worker import work

    work([name.strip() for name in roles.split(",")] if roles else None, ready_file)


@app.command()
def sink(ready_file: ReadyFile = None) -> None:
    """Write every message into Postgres until SIGTERM or Ctrl-C."""
    from ops.sinking import run

    run(ready_file)


@app.command()
def migrate(
    revision: Annotated[str, typer.Argument(help="How far.")] = "head",
    check: Annotated[
        bool, typer.Option("--check", help="Only compare the database with the code.")
    ] = False,
    database: Database = None,
) -> None:
    """Bring the database's schema up."""
    from ops import migrate as migrations

    url = _settings(database=database).database_url.get_secret_value()
    if check:
        differences = migrations.check(url)
        for difference in differences:
            typer.echo(difference)
        typer.echo("The database differs." if differences else "The database is as declared.")
        raise typer.Exit(1 if differences else 0)
    migrations.upgrade(url, revision)
    typer.echo(f"The database is at {revision}.")


@app.command()
def version(as_json: AsJson = False) -> None:
    """Print the version."""
    from importlib.metadata import version as installed

    number = installed("millstream")
    typer.echo(f'{{"version": "{number}"}}' if as_json else f"millstream {number}")


def _settings(*, kafka: str | None = None, database: str | None = None) -> Any:
    """Settings in which flags win over variables."""
    from agents.runtime.settings import load_settings

    flags = {"MILLSTREAM_KAFKA_BOOTSTRAP": kafka, "MILLSTREAM_DATABASE_URL": database}
    given = {variable: value for variable, value in flags.items() if value is not None}
    return load_settings({**os.environ, **given})


def main() -> None:
    """The console entry: an error that people can mend ends in a sentence, not in a traceback."""
    try:
        app()
    except Exception as error:
        from agents.runtime import errors

        if not isinstance(error, errors.MillstreamError):
            raise
        typer.echo(error.reason, err=True)
        for note in getattr(error, "__notes__", ()):
            typer.echo(note, err=True)
        is_no = not isinstance(
            error,
            errors.ConfigurationError | errors.InfrastructureError | errors.InvalidMessageError,
        )
        sys.exit(1 if is_no else 2)


if __name__ == "__main__":
    main()

"""``millstream dlq``: look at dead letters, send their records again, and be done with them.

Exit codes: 0 for done, 1 where nothing matched or something was refused, 2 for wrong usage or
something that cannot be reached.
"""

import getpass
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cache
from typing import Annotated, Final, NoReturn

import typer
from rich.console import Console

from agents.runtime.settings import Settings, load_settings
from agents.runtime.topology import load_topology
from ops import render
from ops.dead_letter_choice import Filters, choose, select
from ops.dead_letter_rows import Cause, Letter
from ops.dead_letter_text import printable
from ops.dead_letter_view import causes_view, letter_json, letter_view, letters_view
from ops.dead_letters import DeadLetters, opened
from ops.editing import in_editor, json_patch
from ops.redrive import DEFAULT_CAP, Redrive, Redriver
from ops.redriving import (
    Answer,
    Refusal,
    Requester,
    answer_json,
    check_broker,
    describe,
    prepare,
    redrive_all,
    without_value,
)

__all__ = ["dlq_app"]

dlq_app = typer.Typer(help="Look at dead letters, and send their records again.")

_NO: Final = 1
_DEFAULT_RATE: Final = 100.0

Role = Annotated[str | None, typer.Option(help="Only those that this role gave up.")]
Code = Annotated[str | None, typer.Option(help="Only those with this error code.")]
Topic = Annotated[str | None, typer.Option(help="Only those from this topic.")]
Since = Annotated[
    str | None, typer.Option(help="Only those given up since: 15m, 2h, 1d, or a date.")
]
Before = Annotated[str | None, typer.Option(help="Only those older than: 15m, 2h, 1d, or a date.")]
Execution = Annotated[
    str | None, typer.Option("--correlation-id", help="Only those of this execution.")
]
Ids = Annotated[list[str] | None, typer.Argument(help="Ids, or the beginnings of some.")]
Everything = Annotated[bool, typer.Option("--all", help="All of them, where no filter is given.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
User = Annotated[str | None, typer.Option(help="Who does it.", show_default="your login name")]
Reason = Annotated[str | None, typer.Option(help="Why; kept with your name.")]
Kafka = Annotated[
    str | None,
    typer.Option("--kafka", metavar="HOST:PORT", help="The broker, instead of the settings'."),
]
Database = Annotated[
    str | None,
    typer.Option("--database", metavar="URL", help="The database, instead of the settings'."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@dlq_app.command("ls")
def list_letters(
    *,
    role: Role = None,
    code: Code = None,
    topic: Topic = None,
    since: Since = None,
    before: Before = None,
    execution: Execution = None,
    flat: Annotated[bool, typer.Option("--flat", help="One by one, not by cause.")] = False,
    handled: Annotated[
        bool, typer.Option("--handled", help="Also those that were redriven or purged.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many at most.")] = 50,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """List dead letters by cause, or with --flat one by one, the newest first."""
    filters = Filters(role, code, topic, since, before, execution)
    with opened(_settings(database=database)) as dead:
        selection = replace(select(dead, filters), handled=handled)
        found = dead.newest(selection, limit=limit) if flat else []
        causes = [] if flat else dead.causes(selection)[:limit]
    if as_json:
        rows: list[Letter | Cause] = [*found, *causes]
        render.print_json([asdict(row) for row in rows])
    elif found or causes:
        view = letters_view(found) if flat else causes_view(causes)
        render.console().print(view, soft_wrap=True)
    if not found and not causes:
        _nothing(quiet=as_json)


@dlq_app.command("show")
def show_letter(
    letter_id: Annotated[str, typer.Argument(metavar="ID", help="An id, or the beginning of one.")],
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """Show one dead letter: why, from where, its headers, and its value decoded."""
    with opened(_settings(database=database)) as dead:
        letter = dead.find(letter_id)
        contents = dead.contents(letter)
        redrives = dead.redrives_of(letter)
    if as_json:
        render.print_json(letter_json(letter, contents, redrives))
    else:
        render.console().print(letter_view(letter, contents, redrives), soft_wrap=True)


@dlq_app.command("redrive")
def redrive_letters(
    ids: Ids = None,
    *,
    role: Role = None,
    code: Code = None,
    topic: Topic = None,
    since: Since = None,
    before: Before = None,
    execution: Execution = None,
    everything: Everything = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be sent.")
    ] = False,
    patch: Annotated[
        str | None,
        typer.Option(metavar="FILE|JSON", help="Change the values by a JSON Patch (RFC 6902)."),
    ] = None,
    edit: Annotated[bool, typer.Option("--edit", help="Change the value in $EDITOR.")] = False,
    rate: Annotated[
        float, typer.Option(min=0.01, help="How many records a second at most.")
    ] = _DEFAULT_RATE,
    cap: Annotated[
        int, typer.Option(min=1, help="How often a record may be redriven.")
    ] = DEFAULT_CAP,
    yes: Yes = False,
    user: User = None,
    reason: Reason = None,
    kafka: Kafka = None,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """Send the records of dead letters to the topics that they came from."""
    settings = _settings(kafka=kafka, database=database)
    filters = Filters(role, code, topic, since, before, execution)
    _check_choice(ids, filters, everything=everything)
    if patch is not None and edit:
        raise typer.BadParameter("give --patch or --edit, not both", param_hint="--edit")
    with opened(settings) as dead:
        letters = choose(dead, ids or (), filters)
        redriver = Redriver(
            lane=settings.lane,
            topology=load_topology(settings.topics_file),
            run_status=dead.run_status,
            cap=cap,
            edit=None if patch is None else json_patch(patch),
        )
        if edit and letters:
            if len(letters) > 1:
                raise typer.BadParameter("edit one dead letter at a time", param_hint="--edit")
            redriver = _edited(dead, letters[0], redriver)
        answers = [without_value(answer) for answer in prepare(dead, letters, redriver)]
        topics = Counter(each.outgoing.topic for each in answers if isinstance(each, Redrive))
        if sends := bool(topics) and not dry_run:
            check_broker(settings, topics)
            _confirm(_question(topics, len(answers)), yes=yes)
            answers = redrive_all(
                settings,
                dead,
                letters,
                redriver,
                requester=Requester(user or getpass.getuser(), reason),
                rate=rate,
                console=Console(quiet=True) if as_json else render.console(),
            )
    _conclude(answers, sent=sends, as_json=as_json)


@dlq_app.command("purge")
def purge_letters(
    ids: Ids = None,
    *,
    role: Role = None,
    code: Code = None,
    topic: Topic = None,
    since: Since = None,
    before: Before = None,
    execution: Execution = None,
    everything: Everything = False,
    yes: Yes = False,
    user: User = None,
    reason: Reason = None,
    database: Database = None,
) -> None:
    """Mark dead letters as done with; topics and history keep their records."""
    filters = Filters(role, code, topic, since, before, execution)
    _check_choice(ids, filters, everything=everything)
    with opened(_settings(database=database)) as dead:
        letters = choose(dead, ids or (), filters)
        if not letters:
            _nothing()
        _confirm(f"Purge {_letters(len(letters))}?", yes=yes)
        dead.purge(letters, purged_by=user or getpass.getuser(), reason=reason)
    render.console().print(f"{_letters(len(letters))} purged.")


def _check_choice(ids: Sequence[str] | None, filters: Filters, *, everything: bool) -> None:
    """Nobody works on everything by leaving something out."""
    if ids and (filters.narrow or everything):
        raise typer.BadParameter("give ids or filters, not both", param_hint="ID")
    if not ids and not filters.narrow and not everything:
        raise typer.BadParameter("say which: ids, a filter, or --all", param_hint="ID")


def _edited(dead: DeadLetters, letter: Letter, redriver: Redriver) -> Redriver:
    """Let a person edit until the record can be sent, or until they have had enough."""
    editor = in_editor()
    while True:
        once = replace(redriver, edit=cache(editor))  # the value is asked for again when it is sent
        [answer] = prepare(dead, [letter], once)
        if isinstance(answer, Redrive) or not sys.stdin.isatty():
            return once
        if not typer.confirm(f"{printable(answer.reason)}\nEdit it again?", err=True):
            return once


def _question(topics: Counter[str], looked_at: int) -> str:
    places = ", ".join(f"{topic} ({number})" for topic, number in sorted(topics.items()))
    refused = looked_at - topics.total()
    rest = f" {refused} of {looked_at} are refused." if refused else ""
    return f"{rest.lstrip()} Send {_records(topics.total())} to {places}?".lstrip()


def _conclude(answers: Sequence[Answer], *, sent: bool, as_json: bool) -> None:
    """Say what came of it all, and leave with the exit code that says the same."""
    if not answers:
        _nothing(quiet=as_json)
    refused = sum(isinstance(answer, Refusal) for answer in answers)
    if as_json:
        render.print_json([answer_json(answer, sent=sent) for answer in answers])
    else:
        console = render.console()
        if not sent:
            for answer in answers:
                console.print(describe(answer, "would be sent to"), soft_wrap=True)
        verb = "sent" if sent else "would be sent"
        console.print(f"{_records(len(answers) - refused)} {verb}, {refused} refused.")
    raise typer.Exit(_NO if refused else 0)


def _letters(number: int) -> str:
    return "1 dead letter" if number == 1 else f"{number:,} dead letters"


def _records(number: int) -> str:
    return "1 record" if number == 1 else f"{number:,} records"


def _confirm(question: str, *, yes: bool) -> None:
    if not yes:
        typer.confirm(question, err=True, abort=True)


def _nothing(*, quiet: bool = False) -> NoReturn:
    if not quiet:
        render.console().print("No dead letters.")
    raise typer.Exit(_NO)


def _settings(*, kafka: str | None = None, database: str | None = None) -> Settings:
    """Settings in which flags win over variables."""
    flags = {"MILLSTREAM_KAFKA_BOOTSTRAP": kafka, "MILLSTREAM_DATABASE_URL": database}
    given = {variable: value for variable, value in flags.items() if value is not None}
    return load_settings({**os.environ, **given})

"""``millstream partitions``: the daily partitions of ``history.events``, and what is too old."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Final

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from agents.runtime.declarations import parse_duration
from agents.runtime.settings import PREFIX, load_settings
from ops import render
from ops.history import connected
from ops.partition_store import Partition, PartitionStore

partitions_app = typer.Typer(help="Make and drop the daily partitions of history.")

_DAY: Final = timedelta(days=1)
_UNITS: Final = ("B", "kB", "MB", "GB", "TB")
_THOUSAND: Final = 1000

Database = Annotated[
    str | None,
    typer.Option("--database", metavar="URL", help="The database, instead of the settings'."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@dataclass(frozen=True, slots=True)
class Doomed:
    """What ``drop`` would delete."""

    first_kept: date
    partitions: tuple[Partition, ...]
    default_rows: int
    """Rows of earlier days in the default partition."""
    executions: int
    dead_letters: int
    unreadable: int
    """Records that the sink kept as bytes, since it could not read them."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing that old."""
        rows = self.default_rows + self.executions + self.dead_letters + self.unreadable
        return not (self.partitions or rows)


@partitions_app.command("ls")
def list_partitions(database: Database = None, as_json: AsJson = False) -> None:
    """List partitions with their sizes; row counts are estimates."""
    with _opened(database) as store:
        partitions = store.partitions()
        misplaced = store.days_in_default()
    if as_json:
        render.print_json(
            {
                "partitions": [asdict(each) for each in partitions],
                "days_in_default": {str(day): rows for day, rows in misplaced.items()},
            }
        )
        return
    console = render.console()
    console.print(_table(partitions))
    if misplaced:
        console.print(
            Text(
                f"{sum(misplaced.values())} rows of {len(misplaced)} days are in the default "
                "partition; `millstream partitions make` gives these days their own."
            ),
            soft_wrap=True,
        )


@partitions_app.command()
def make(
    days: Annotated[int, typer.Option(min=0, max=366, help="How many days ahead of today.")] = 7,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """Make partitions ahead, and give days in the default partition their own.

    The sink makes a week ahead by itself. While rows are moved, which takes a second or two for
    each 100,000, nobody reads or writes events.
    """
    today = _today()
    with _opened(database) as store:
        moved = {day: store.move(day) for day in store.days_in_default()}
        made = store.make(today - _DAY, days + 2)
    if as_json:
        render.print_json({"made": made, "moved": {str(day): rows for day, rows in moved.items()}})
        return
    for day, rows in moved.items():
        typer.echo(f"{day}: {rows} rows moved out of the default partition")
    typer.echo(f"{made} partitions made; there is one for every day until {today + days * _DAY}.")


@partitions_app.command()
def drop(
    keep: Annotated[str, typer.Option(metavar="DAYS", help="How long history is kept: 90d.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """Drop partitions, executions, steps and dead letters older than what is to be kept.

    Exit code 1 when the question is not answered with yes.
    """
    first_kept = _first_kept(keep, _today())
    if as_json and not yes:
        raise typer.BadParameter("a program cannot be asked: give --yes too", param_hint="--json")
    with _opened(database) as store:
        doomed = _doomed(store, first_kept)
        if not as_json:
            _say_what_goes(doomed)
        if not doomed.is_empty and not yes:
            typer.confirm("Delete all of this for good?", abort=True)
        for partition in doomed.partitions:
            if partition.day is not None:
                store.drop(partition.day)
        rows = store.delete_from_default(first_kept)
        executions = store.delete_executions(first_kept)
        dead_letters = store.delete_dead_letters(first_kept)
        unreadable = store.delete_unreadable(first_kept)
    if as_json:
        dropped = [each.name for each in doomed.partitions]
        render.print_json(
            {
                "first_kept": str(first_kept),
                "dropped": dropped,
                "default_rows": rows,
                "executions": executions,
                "dead_letters": dead_letters,
                "unreadable": unreadable,
            }
        )
    elif not doomed.is_empty:
        typer.echo(
            f"{len(doomed.partitions)} partitions dropped; {executions} executions deleted with "
            f"their steps, {dead_letters} dead letters and {unreadable} unreadable records."
        )


def _first_kept(keep: str, today: date) -> date:
    """The oldest day that is kept; at least today.

    Raises:
        typer.BadParameter: It is no duration, or less than a day, which would drop today's events.
    """
    try:
        kept = parse_duration(keep)
    except ValueError as error:
        raise typer.BadParameter(f"{error}", param_hint="--keep") from None
    if kept < _DAY:
        raise typer.BadParameter(
            "today's events are never dropped: keep 1d at least", param_hint="--keep"
        )
    return today - timedelta(days=kept.days)


def _doomed(store: PartitionStore, first_kept: date) -> Doomed:
    old = (each for each in store.partitions() if each.day is not None and each.day < first_kept)
    misplaced = store.days_in_default()
    return Doomed(
        first_kept,
        tuple(old),
        sum(rows for day, rows in misplaced.items() if day < first_kept),
        store.count_old_executions(first_kept),
        store.count_old_dead_letters(first_kept),
        store.count_old_unreadable(first_kept),
    )


def _say_what_goes(doomed: Doomed) -> None:
    console = render.console()
    if doomed.is_empty:
        console.print(Text(f"Nothing is older than {doomed.first_kept}."))
        return
    console.print(Text(f"Of the days before {doomed.first_kept}:", "bold"))
    if doomed.partitions:
        console.print(_table(doomed.partitions))
    if doomed.default_rows:
        console.print(Text(f"{doomed.default_rows} rows of the default partition"))
    console.print(Text(f"{doomed.executions} executions with their steps"))
    if doomed.dead_letters or doomed.unreadable:
        console.print(
            Text(f"{doomed.dead_letters} dead letters and {doomed.unreadable} unreadable records")
        )


def _table(partitions: "list[Partition] | tuple[Partition, ...]") -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
    table.add_column("partition")
    table.add_column("day")
    table.add_column("size", justify="right")
    table.add_column("rows, about", justify="right")
    for each in partitions:
        day = Text("any other", "dim") if each.day is None else Text(str(each.day))
        table.add_row(each.name, day, _size(each.size), str(each.rows))
    return table


def _size(size: int) -> str:
    """Bytes to three digits or so."""
    amount, unit = float(size), 0
    while amount >= _THOUSAND and unit < len(_UNITS) - 1:
        amount, unit = amount / _THOUSAND, unit + 1
    return f"{amount:.0f} {_UNITS[unit]}" if unit < 2 else f"{amount:.1f} {_UNITS[unit]}"  # noqa: PLR2004  # up to kB


def _today() -> date:
    """The day in UTC, by which events are divided."""
    return datetime.now(UTC).date()


@contextmanager
def _opened(database: str | None) -> Iterator[PartitionStore]:
    given = {} if database is None else {PREFIX + "DATABASE_URL": database}
    with connected(load_settings({**os.environ, **given})) as connection:
        yield PartitionStore(connection)

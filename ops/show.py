"""``millstream show`` and ``millstream ls``: what history knows of executions."""

import re
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from typing import Final

from rich import box
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from agents.runtime.errors import ConfigurationError
from agents.runtime.settings import Settings
from agents.sink.queries import Execution
from ops import render
from ops.history import UnknownExecutionError, opened
from ops.timeline import Timeline
from schemas import ExecutionStatus

_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_SHORT_ID: Final = 8
_TENANT_WIDTH: Final = 16
_HEADINGS: Final = ("received", "execution", "status", "took", "tenant", "request")
_GAP: Final = 3
"""Cells between two columns."""


def run(settings: Settings, given: str, *, events: bool, as_json: bool) -> None:
    """Print the timeline of the execution that ``given`` means.

    Raises:
        UnknownExecutionError: There is none, or several fit.
        DatabaseUnavailableError: Postgres does not answer.
    """
    timeline = _read(settings, given)
    if as_json:
        render.print_json(timeline.model_dump(mode="json"))
        return
    console = render.console()
    console.print(render.render_timeline(timeline))
    if events:
        console.print()
        console.print(render.render_causes(timeline.events))


def _read(settings: Settings, given: str) -> Timeline:
    with opened(settings) as history:
        timeline = history.timeline(history.find(given))
    if timeline is None:
        raise UnknownExecutionError(f"execution {given!r} is gone from history")
    return timeline


def run_list(
    settings: Settings,
    *,
    status: str | None,
    tenant: str | None,
    since: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """Print executions, the newest first.

    Raises:
        ConfigurationError: The status or the moment is none.
        DatabaseUnavailableError: Postgres does not answer.
    """
    with opened(settings) as history:
        rows = history.executions(
            status=None if status is None else known_status(status),
            tenant=tenant,
            since=None if since is None else moment_of(since, now=datetime.now(UTC)),
            limit=limit,
        )
    if as_json:
        render.print_json([asdict(row) for row in rows])
    elif rows:
        console = render.console()
        console.print(_table(rows, console.width))
    else:
        render.console().print("No executions.")


def known_status(given: str) -> ExecutionStatus:
    """A status by its name.

    Raises:
        ConfigurationError: There is none of that name.
    """
    name = given.strip().lower().replace("-", "_").replace(" ", "_")
    if name not in set(ExecutionStatus):
        raise ConfigurationError(f"{given!r} is no status; there are {', '.join(ExecutionStatus)}")
    return ExecutionStatus(name)


def moment_of(text: str, *, now: datetime) -> datetime:
    """The moment that a person means by ``15m``, ``2h``, ``1d`` or an ISO date.

    Raises:
        ConfigurationError: The text is neither.
    """
    if span := re.fullmatch(r"(\d{1,6})([smhd])", text.strip()):
        return now - timedelta(**{_UNITS[span[2]]: int(span[1])})
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ConfigurationError(
            f"{text!r} is no moment; say 15m, 2h, 1d, or a date such as 2026-01-31"
        ) from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _table(rows: Sequence[Execution], width: int) -> Table:
    """One line for each; where it is tight, only the request gives way."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
    for heading in _HEADINGS:
        table.add_column(heading, no_wrap=True, justify="right" if heading == "took" else "left")
    today = datetime.now().astimezone().date()
    lines = [(*_cells(row, today), Text(" ".join((row.title or "").split()))) for row in rows]
    *others, _ = zip(_HEADINGS, *lines, strict=True)
    taken = sum(max(cell_len(str(cell)) for cell in column) + _GAP for column in others)
    for line in lines:
        line[-1].truncate(max(width - taken - _GAP, _GAP), overflow="ellipsis")
        table.add_row(*line)
    return table


def _cells(row: Execution, today: date) -> tuple[Text, Text, Text, Text, Text]:
    received = row.received_at.astimezone()
    seconds = row.duration_seconds
    tenant = Text(row.tenant)
    tenant.truncate(_TENANT_WIDTH, overflow="ellipsis")
    return (
        Text(f"{received:%H:%M:%S}" if received.date() == today else f"{received:%Y-%m-%d}"),
        Text(str(row.correlation_id)[:_SHORT_ID], "cyan"),
        render.status_text(row.status),
        Text("" if seconds is None else render.duration(seconds)),
        tenant,
    )

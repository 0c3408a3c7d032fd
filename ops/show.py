"""``millstream show`` and ``millstream ls``: what history knows of executions."""

import re
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Final

from rich import box
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
_STATUS_WIDTH: Final = max(len(status) for status in ExecutionStatus)


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
        render.console().print(_table(rows))
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


def _table(rows: Sequence[Execution]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
    table.add_column("received", no_wrap=True, min_width=19)
    table.add_column("execution", no_wrap=True, min_width=9)
    table.add_column("status", no_wrap=True, min_width=_STATUS_WIDTH)
    table.add_column("took", justify="right", no_wrap=True, min_width=7)
    table.add_column("tenant", no_wrap=True, min_width=7, overflow="ellipsis", max_width=16)
    table.add_column("request", no_wrap=True, overflow="ellipsis", ratio=1)
    for row in rows:
        received = row.received_at.astimezone()
        seconds = row.duration_seconds
        table.add_row(
            f"{received:%Y-%m-%d %H:%M:%S}",
            Text(str(row.correlation_id)[:_SHORT_ID], "cyan"),
            render.status_text(row.status),
            "" if seconds is None else render.duration(seconds),
            row.tenant,
            Text(" ".join((row.title or "").split())),
        )
    return table

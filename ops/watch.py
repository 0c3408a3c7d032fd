"""``millstream watch``: executions as they go, from history."""

import sys
import time
from collections.abc import Iterator
from typing import Final
from uuid import UUID

from rich.console import Console
from rich.live import Live
from rich.text import Text

from agents.runtime.settings import Settings
from agents.sink.queries import Execution
from ops import render
from ops.history import History, opened
from ops.timeline import Timeline

_POLL_SECONDS: Final = 0.2
_SHOWN: Final = 200
_STATUS_WIDTH: Final = len("needs clarification")


def run(settings: Settings, given: str | None) -> None:
    """Follow one execution to its end, or everything until interrupted.

    Raises:
        UnknownExecutionError: ``given`` means no execution, or several.
        DatabaseUnavailableError: Postgres does not answer.
    """
    console = render.console()
    with opened(settings) as history:
        if given is None:
            _follow_all(history, console)
            return
        execution = history.find(given)
        if console.is_terminal:
            _follow_live(history, execution, console)
        else:
            _follow_in_lines(history, execution, console)


def _follow_live(history: History, execution: UUID, console: Console) -> None:
    """Draw the timeline anew whenever it changes."""
    with Live(console=console, auto_refresh=False) as live:
        for timeline in _changes(history, execution):
            live.update(render.render_timeline(timeline), refresh=True)


def _follow_in_lines(history: History, execution: UUID, console: Console) -> None:
    """A line for each change and the whole timeline at the end, for files and pipes."""
    for timeline in _changes(history, execution):
        if timeline.has_ended:
            console.print(render.render_timeline(timeline))
            return
        done = sum(step.status == "success" for step in timeline.steps)
        steps = f"  {done} of {len(timeline.steps)} steps done" if timeline.steps else ""
        console.print(f"{timeline.status}{steps}", soft_wrap=True)
        sys.stdout.flush()


def _changes(history: History, execution: UUID) -> Iterator[Timeline]:
    """An execution's timeline now, then whenever it differs, until it has ended."""
    last: Timeline | None = None
    while last is None or not last.has_ended:
        timeline = history.timeline(execution)
        if timeline is not None and timeline != last:
            last = timeline
            yield timeline
            continue
        time.sleep(_POLL_SECONDS)


def _follow_all(history: History, console: Console) -> None:
    """A line for each execution that is new or has changed."""
    seen: dict[UUID, tuple[int, str]] = {}
    while True:
        rows = history.executions(limit=_SHOWN)
        now = {row.correlation_id: (row.run_no, row.status) for row in rows}
        for row in reversed(rows):
            if seen.get(row.correlation_id) != now[row.correlation_id]:
                console.print(_line(row), soft_wrap=True)
        seen = now
        sys.stdout.flush()
        time.sleep(_POLL_SECONDS)


def _line(row: Execution) -> Text:
    moment = row.updated_at.astimezone()
    status = render.status_text(row.status)
    status.pad_right(max(0, _STATUS_WIDTH - len(status)))
    title = " ".join((row.title or "").split())
    return Text.assemble(
        (f"{moment:%H:%M:%S}  ", "dim"),
        (f"{str(row.correlation_id)[:8]}  ", "cyan"),
        status,
        f"  {title}",
    )

"""How an execution looks on a terminal; the same text, without colour, in a file or a pipe."""

import io
import json
import re
import sys
from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from agents.runtime.budgets import format_usd
from ops.timeline import Event, StepLine, Timeline
from schemas import ExecutionStatus

STATUS_STYLES: Final[Mapping[str, str]] = {
    ExecutionStatus.SUCCESS: "bold green",
    ExecutionStatus.FAILED: "bold red",
    ExecutionStatus.DENIED: "bold red",
    ExecutionStatus.UNKNOWN: "bold red",
    ExecutionStatus.CANCELLED: "bold yellow",
    ExecutionStatus.EXPIRED: "bold yellow",
    ExecutionStatus.NEEDS_CLARIFICATION: "bold yellow",
    ExecutionStatus.NEEDS_APPROVAL: "bold yellow",
}
_RUNNING_STYLE: Final = "bold blue"
_STEP_MARKS: Final[Mapping[str, tuple[str, str]]] = {
    "success": ("✔", "green"),
    "failed": ("✘", "red"),
    "unknown": ("?", "red"),
    "skipped": ("-", "dim"),
    "running": ("▸", "blue"),
    "waiting_retry": ("↻", "yellow"),
    "pending": ("·", "dim"),
}
_BAR_CELLS: Final = 16
_PLAIN_WIDTH: Final = 100
_MAX_TEXT: Final = 160
_MAX_REASON: Final = 110
_MOMENT: Final = re.compile(r"\d{4}-\d\d-\d\dT(\d\d:\d\d:\d\d)\S*")


def console(*, stderr: bool = False) -> Console:
    """The terminal; where there is none, plain text of a fixed width."""
    found = Console(highlight=False, stderr=stderr, soft_wrap=False)
    if not found.is_terminal:
        found = Console(highlight=False, stderr=stderr, width=_PLAIN_WIDTH, color_system=None)
    return found


def as_text(renderable: RenderableType) -> str:
    """What would be printed, without colour."""
    plain = Console(width=_PLAIN_WIDTH, color_system=None, highlight=False, file=io.StringIO())
    with plain.capture() as capture:
        plain.print(renderable)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def print_json(value: Any) -> None:
    """Print a value for a program to read."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def status_text(status: str) -> Text:
    """A status in its colour, in words."""
    return Text(status.replace("_", " "), STATUS_STYLES.get(status, _RUNNING_STYLE))


def decision_text(decision: str) -> Text:
    """What a verdict says, in its colour, in words."""
    style = {"approved": "green", "denied": "red"}.get(decision, "yellow")
    return Text(decision.replace("_", " "), style)


def duration(seconds: float) -> str:
    """A duration to three digits or so: ``48 ms``, ``1.25 s``, ``3 min 5 s``."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:  # noqa: PLR2004  # a minute
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:  # noqa: PLR2004  # an hour
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def values(fields: Mapping[str, Any]) -> str:
    """Parameters or outputs on a line: ``service checkout, replicas 2``."""
    shown = ", ".join(f"{name} {_value(value)}" for name, value in fields.items())
    return _cut(shown)


def render_timeline(timeline: Timeline) -> RenderableType:
    """The story of one execution: a headline, then what happened when."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(justify="right", style="dim", no_wrap=True, min_width=9)
    grid.add_column(no_wrap=True, min_width=9)
    grid.add_column(overflow="fold")
    for event in timeline.events:
        _add_event(grid, timeline, event)
    _add_steps(grid, timeline)
    _add_end(grid, timeline)
    return Group(_headline(timeline), grid)


def render_causes(events: Iterable[Event]) -> RenderableType:
    """Which message caused which, as a tree."""
    waiting = list(events)
    known = {event.message_id for event in waiting}
    root = Tree(Text("causes", "dim"), guide_style="dim")
    branches: dict[Any, Tree] = {}
    while waiting:
        left = []
        for event in waiting:
            if event.causation_id in known and event.causation_id not in branches:
                left.append(event)
                continue
            parent = branches.get(event.causation_id, root)
            branches[event.message_id] = parent.add(_event_label(event))
        if len(left) == len(waiting):  # a circle, which the pipeline cannot make
            for event in left:
                root.add(_event_label(event))
            break
        waiting = left
    return root


def _headline(timeline: Timeline) -> RenderableType:
    status = status_text(timeline.status)
    title = Text(_cut(timeline.title or "(not read yet)"), "bold")
    about = [str(timeline.correlation_id)]
    if timeline.duration_seconds is not None:
        about.append(duration(timeline.duration_seconds))
    if timeline.cost:
        about.append(f"${timeline.cost:.4f}")
    return Group(
        Text.assemble("● ", status, "  ", title, style=status.style),
        Text("  " + "  ·  ".join(about), "dim"),
    )


def _add_event(grid: Table, timeline: Timeline, event: Event) -> None:
    at = _at(timeline, event.timestamp)
    payload = event.payload
    match event.message_type:
        case "ExecutionRequest":
            own_id = f", as {timeline.external_id}" if timeline.external_id is not None else ""
            user = payload["requester"]["user"]
            grid.add_row(at, "request", Text(f"from {user}, tenant {timeline.tenant}{own_id}"))
            if unknown := payload.get("unknown_fields"):
                ignored = f"has fields that mean nothing: {', '.join(unknown)}"
                grid.add_row("", "", Text(_cut(ignored), "yellow"))
        case "Intent":
            actions = [
                (action["action"], values(action["parameters"])) for action in payload["actions"]
            ] or [(f"a ready-made plan of {len(payload['steps'])} steps", "")]
            for number, (action, parameters) in enumerate(actions):
                first = number == 0
                text = Text.assemble(action, "  ", (parameters, "dim"))
                grid.add_row(at if first else "", "intent" if first else "", text)
        case "Plan":
            grid.add_row(at, "plan", _plan(payload))
        case "Verdict":
            _add_verdict(grid, at, payload)
        case "Command":
            why = f": {payload['reason']}" if payload.get("reason") else ""
            grid.add_row(at, "command", Text(f"{payload['kind']} by {payload['issued_by']}{why}"))
        case "CommandAnswer" if not payload["is_accepted"]:
            code = (f"  {payload['code']}", "dim")
            text = Text.assemble(("refused  ", "yellow"), payload["reason"] or "", code)
            grid.add_row(at, "", text)
        case _:
            return


def _plan(payload: Mapping[str, Any]) -> Text:
    if approvers := [approval["approver"] for approval in payload.get("approvals", ())]:
        return Text(f"judged again, approved by {' and '.join(approvers)}")
    steps = payload["steps"]
    cost = sum(float(part) for part in payload["cost"].values())
    about = [f"{len(steps)} {'step' if len(steps) == 1 else 'steps'}"]
    independent = sum(not step["depends_on"] for step in steps)
    if independent > 1:
        about.append(f"{independent} of them at once")
    if cost:
        about.append(f"about ${cost:.4f}")
    return Text.assemble(", ".join(about), (f"  sha256 {payload['plan_hash'][:12]}", "dim"))


def _add_verdict(grid: Table, at: str, payload: Mapping[str, Any]) -> None:
    decision = payload["decision"]
    held = payload.get("reserved")
    budget = "" if held is None else f"  {format_usd(Decimal(held))} of the budget held back"
    grid.add_row(at, "verdict", Text.assemble(decision_text(decision), (budget, "dim")))
    if decision == "approved":
        return
    for reason in payload["reasons"]:
        text = Text.assemble(reason["text"], (f"  {reason['policy']}", "dim"))
        grid.add_row("", "", text)


def _add_steps(grid: Table, timeline: Timeline) -> None:
    began = [step.started_at for step in timeline.steps if step.started_at]
    ended = [step.finished_at for step in timeline.steps if step.finished_at]
    scale = (min(began), max([*began, *ended])) if began else None
    width = max((len(step.action) for step in timeline.steps), default=0)
    for step in timeline.steps:
        mark, style = _STEP_MARKS.get(step.status, ("·", "dim"))
        at = _at(timeline, step.started_at) if step.started_at else ""
        took = _took(step)
        text = Text.assemble(
            (f"{mark} ", style),
            step.action.ljust(width + 2),
            (_bar(step, scale), style) if step.attempts else ("not run", "dim"),
            f"{took:>8}",
            ("" if step.attempts < 2 else f"  attempt {step.attempts}", "yellow"),  # noqa: PLR2004  # the first goes without saying
        )
        grid.add_row(at, Text(step.step_id, "cyan"), text)
        _add_step_details(grid, timeline, step)


def _add_step_details(grid: Table, timeline: Timeline, step: StepLine) -> None:
    for attempt in step.tries:
        if attempt.reason is not None and attempt.status != "success":
            text = Text(f"attempt {attempt.attempt}: {_cut(attempt.reason, _MAX_REASON)}", "yellow")
            grid.add_row(_at(timeline, attempt.finished_at), "", text)
    if step.output:
        grid.add_row("", "", Text(f"→ {values(step.output)}", "dim"))
    elif step.reason is not None and not step.tries:
        grid.add_row("", "", Text(_cut(step.reason), "dim"))


def _add_end(grid: Table, timeline: Timeline) -> None:
    if timeline.report is not None:
        at = _at(timeline, timeline.finished_at) if timeline.finished_at else ""
        grid.add_row(at, "report", Text(timeline.report))
    elif timeline.status.is_terminal:
        at = _at(timeline, timeline.finished_at) if timeline.finished_at else ""
        text = timeline.reason or timeline.code or timeline.status
        grid.add_row(at, "end", Text(text))


def _bar(step: StepLine, scale: tuple[datetime, datetime] | None) -> str:
    """When the step ran, on the scale of all steps."""
    if scale is None or step.started_at is None:
        return " " * _BAR_CELLS
    whole = max((scale[1] - scale[0]).total_seconds(), 1e-6)
    begin = (step.started_at - scale[0]).total_seconds() / whole
    end = ((step.finished_at or scale[1]) - scale[0]).total_seconds() / whole
    first = min(round(begin * _BAR_CELLS), _BAR_CELLS - 1)
    cells = max(1, round(end * _BAR_CELLS) - first)
    return (" " * first + "━" * cells).ljust(_BAR_CELLS)


def _took(step: StepLine) -> str:
    if step.started_at is None or step.finished_at is None:
        return ""
    return duration((step.finished_at - step.started_at).total_seconds())


def _at(timeline: Timeline, moment: datetime) -> str:
    return f"+{duration(timeline.seconds_at(moment))}"


def _event_label(event: Event) -> Text:
    step = event.payload.get("step_id")
    about = "" if step is None else f" {step}"
    return Text.assemble(
        event.message_type,
        (about, "cyan"),
        (f"  from {event.from_agent}  {str(event.message_id)[:8]}", "dim"),
    )


def _value(value: Any) -> str:
    if not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    # To the person who reads it now, the day and the microseconds say nothing.
    return _MOMENT.sub(r"\1", value)


def _cut(text: str, most: int = _MAX_TEXT) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"

"""How dead letters look on a terminal, and what a program gets of them."""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final

from pydantic_core import from_json
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from agents.runtime.dead_letters import HEADER_FIELD
from agents.runtime.records import Headers
from ops.dead_letter_rows import SHORT_ID, Cause, Contents, Letter, RedriveAudit
from ops.dead_letter_text import Shown, hex_dump, printable, show_value

_MOST_LINES: Final = 400
_LONGEST_CAUSE: Final = 300


def causes_view(causes: Sequence[Cause]) -> RenderableType:
    """Dead letters by cause: a line about them, and below it why."""
    counts, roles, codes = (
        _width(column)
        for column in zip(
            *((f"{each.count:,}", each.role, each.code) for each in causes), strict=True
        )
    )
    lines = []
    for each in causes:
        about = Text.assemble(
            (f"{each.count:>{counts},}", "bold"),
            f"  {printable(each.role):{roles}}  ",
            (f"{printable(each.code):{codes}}", "red"),
            f"  newest {_moment(each.newest)}  such as ",
            (each.example[:SHORT_ID], "cyan"),
        )
        lines += [about, _why(each.cause, counts + 2)]
    return Group(*lines)


def letters_view(letters: Sequence[Letter]) -> RenderableType:
    """Single dead letters: a line about each, and below it why."""
    roles, codes = (
        _width(column) for column in zip(*((each.role, each.code) for each in letters), strict=True)
    )
    lines = []
    for each in letters:
        place = f"{each.origin_topic} {each.origin_partition}:{each.origin_offset}"
        about = Text.assemble(
            (each.short_id, "cyan"),
            f"  {_moment(each.dead_lettered_at)}  {printable(each.role):{roles}}  ",
            (f"{printable(each.code):{codes}}", "red"),
            (f"  {printable(place)}", "dim"),
            (_handled(each), "green"),
        )
        lines += [about, _why(_first_line(each.reason), SHORT_ID + 2)]
    return Group(*lines)


def letter_view(
    letter: Letter, contents: Contents, redrives: Sequence[RedriveAudit]
) -> RenderableType:
    """Everything about one dead letter, its value decoded and the offending line marked."""
    about = Table.grid(padding=(0, 2))
    place = f"{letter.origin_topic}, partition {letter.origin_partition}"
    about.add_row("id", Text(letter.id, "cyan"))
    about.add_row("from", printable(f"{place}, offset {letter.origin_offset}"))
    about.add_row("given up", f"{letter.dead_lettered_at.astimezone():%Y-%m-%d %H:%M:%S %Z}")
    attempts = "" if letter.attempt == 1 else f", delivery {letter.attempt}"
    about.add_row("by", printable(letter.role) + attempts)
    about.add_row("code", Text(printable(letter.code), "bold red"))
    for number, line in enumerate(letter.reason.splitlines() or [""]):
        about.add_row("" if number else "reason", Text(printable(line), "red"))
    if letter.error_class is not None:
        about.add_row("error", printable(letter.error_class))
    if letter.field is not None:
        about.add_row("field", Text(printable(letter.field), "bold red"))
    if letter.correlation_id is not None:
        about.add_row("execution", str(letter.correlation_id))
    if letter.redrives:
        about.add_row("redriven", f"{letter.redrives} times before")
    for audit in redrives:
        about.add_row("redrive", Text(_audit(audit), "green"))
    if letter.purged_at is not None:
        about.add_row("purged", Text(_moment(letter.purged_at), "green"))
    key_offends = letter.field == "key"
    about.add_row("key", Text(_bytes(contents.key), "bold red" if key_offends else ""))
    shown = show_value(contents.value, field=letter.field, reason=letter.reason)
    size = "" if letter.size is None else f", {letter.size:,} bytes"
    return Group(
        about,
        Text("\nheaders", "bold"),
        _headers(contents.headers, letter.field),
        Text(f"\nvalue ({shown.kind}{size})", "bold"),
        *_value(shown, letter.field),
    )


def letter_json(
    letter: Letter, contents: Contents, redrives: Sequence[RedriveAudit]
) -> dict[str, Any]:
    """Everything about one dead letter, for a program; bytes that are no text in base64."""
    return {
        **asdict(letter),
        "key": _plain(contents.key),
        "headers": [[name, _plain(value)] for name, value in contents.headers],
        "value": _plain(contents.value),
        "document": _document(contents.value),
        "redriven": [asdict(audit) for audit in redrives],
    }


def _value(shown: Shown, field: str | None) -> list[RenderableType]:
    first = 0
    if shown.marked is not None and shown.marked >= _MOST_LINES:
        first = shown.marked - _MOST_LINES // 2
    last = min(first + _MOST_LINES, len(shown.lines))
    lines: list[RenderableType] = []
    if first:
        lines.append(Text(f"  … {first:,} lines", "dim"))
    for number in range(first, last):
        if number == shown.marked:
            about = "" if field is None else f"   ← {printable(field)}"
            lines.append(Text.assemble(("▶ ", "red"), (shown.lines[number], "bold red"), about))
        else:
            lines.append(Text("  " + shown.lines[number]))
    if last < len(shown.lines):
        lines.append(Text(f"  … {len(shown.lines) - last:,} more lines; --json has all", "dim"))
    return lines


def _headers(headers: Headers, field: str | None) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    for name, value in headers:
        offends = name == field
        style = "bold red" if offends or name == HEADER_FIELD else ""
        mark = Text("▶" if offends else " ", "red")
        # What is said above in full need not be said again in full.
        grid.add_row(mark, Text(printable(name), style or "dim"), Text(_bytes(value), style))
    return grid


def _bytes(value: bytes | None) -> str:
    """A short value on a line."""
    if value is None:
        return "(none)"
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return "0x" + value[:_LONGEST_CAUSE].hex()
    return printable(text[:_LONGEST_CAUSE]) + ("…" if len(text) > _LONGEST_CAUSE else "")


def _plain(value: bytes | None) -> Any:
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode(), "hex": hex_dump(value)}


def _document(value: bytes | None) -> Any:
    try:
        return None if value is None else from_json(value)
    except ValueError:
        return None


def _width(texts: Iterable[str]) -> int:
    return max(len(printable(text)) for text in texts)


def _why(reason: str, indent: int) -> Text:
    text = printable(reason)
    more = "…" if len(text) > _LONGEST_CAUSE else ""
    return Text(" " * indent + text[:_LONGEST_CAUSE] + more)


def _handled(letter: Letter) -> str:
    if letter.purged_at is not None:
        return "  purged"
    return "  redriven" if letter.redriven_at is not None else ""


def _audit(audit: RedriveAudit) -> str:
    when = f"{audit.requested_at.astimezone():%Y-%m-%d %H:%M:%S}"
    why = "" if audit.reason is None else f": {audit.reason}"
    edited = "edited, " if audit.edited else ""
    unsure = "" if audit.sent_at is not None else ", not known to be sent"
    return printable(
        f"{when} by {audit.requested_by}, {edited}as message {audit.message_id}{unsure}{why}"
    )


def _first_line(text: str) -> str:
    return text.split("\n", 1)[0]


def _moment(moment: datetime) -> str:
    local = moment.astimezone()
    today = datetime.now().astimezone().date()
    return f"{local:%H:%M:%S}" if local.date() == today else f"{local:%Y-%m-%d %H:%M}"

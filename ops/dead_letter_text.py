"""How a dead letter's value is shown: JSON with the offending line marked, text, or a hex dump."""

import json
import re
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic_core import from_json

_STEP: Final = "  "
_LONGEST_TEXT: Final = 400
_LINE_OF_ERROR: Final = re.compile(r"\bat line (\d{1,9}) column \d+")
_ROW: Final = 16
_MOST_BYTES: Final = 1024
_PLAIN: Final = frozenset(
    (string.ascii_letters + string.digits + string.punctuation + " ").encode()
)

Path = tuple[str, ...]


@dataclass(frozen=True)
class Shown:
    """A value as lines; ``kind`` says what it was taken for."""

    kind: str
    """``JSON``, ``text``, ``bytes`` or ``nothing``."""
    lines: Sequence[str]
    marked: int | None = None
    """Which line offends, from 0; ``None`` where that cannot be said."""


def show_value(value: bytes | None, *, field: str | None, reason: str) -> Shown:
    """A record's value for a person to read.

    Args:
        value: The bytes, of whatever kind.
        field: The path of the offending field, as in ``payload.steps.0.action``.
        reason: Why it was given up; it may say in which line it is malformed.
    """
    if value is None:
        return Shown("nothing", ["(no value: a tombstone)"])
    try:
        document = from_json(value)
    except ValueError:
        return _show_text(value, reason)
    pairs = list(_json_lines(document, shorten=True))
    lines = [printable(text) for _, text in pairs]
    return Shown("JSON", lines, _line_of([path for path, _ in pairs], field))


def pretty_json(document: Any) -> str:
    """A document over several lines, whole."""
    return "\n".join(text for _, text in _json_lines(document, shorten=False))


def printable(text: str) -> str:
    """A line that does nothing to a terminal but to be read."""
    return "".join(
        character if character.isprintable() else ascii(character)[1:-1] for character in text
    )


def hex_dump(value: bytes) -> list[str]:
    """Offset, sixteen bytes, and what of them is text; the beginning of a long value."""
    lines = []
    for start in range(0, min(len(value), _MOST_BYTES), _ROW):
        row = value[start : start + _ROW]
        plain = "".join(chr(byte) if byte in _PLAIN else "." for byte in row)
        lines.append(f"{start:08x}  {row.hex(' ', 1):<{_ROW * 3}} |{plain}|")
    if len(value) > _MOST_BYTES:
        lines.append(f"… {len(value) - _MOST_BYTES:,} more bytes")
    return lines


def _show_text(value: bytes, reason: str) -> Shown:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return Shown("bytes", hex_dump(value))
    if not text or any(not (each.isprintable() or each in "\t\r\n") for each in text):
        return Shown("bytes", hex_dump(value) or ["(no bytes)"])
    lines = [printable(_cut(line.expandtabs(4))) for line in text.splitlines()]
    found = _LINE_OF_ERROR.search(reason)
    line = int(found[1]) - 1 if found else None
    return Shown("text", lines, line if line is not None and 0 <= line < len(lines) else None)


def _json_lines(
    value: Any, path: Path = (), *, shorten: bool, lead: str = "", tail: str = ""
) -> Iterator[tuple[Path | None, str]]:
    """The lines of a document as :func:`json.dumps` lays it out, each with what it is about."""
    indent = _STEP * len(path)
    items: list[tuple[str, str, Any]]
    if isinstance(value, dict) and value:
        opening, closing = "{", "}"
        items = [(name, f"{_scalar(name, shorten)}: ", each) for name, each in value.items()]
    elif isinstance(value, list) and value:
        opening, closing = "[", "]"
        items = [(str(number), "", each) for number, each in enumerate(value)]
    else:
        yield path, f"{indent}{lead}{_scalar(value, shorten)}{tail}"
        return
    yield path, f"{indent}{lead}{opening}"
    for number, (name, label, each) in enumerate(items, start=1):
        comma = "," if number < len(items) else ""
        yield from _json_lines(each, (*path, name), shorten=shorten, lead=label, tail=comma)
    yield None, f"{indent}{closing}{tail}"


def _scalar(value: Any, shorten: bool) -> str:
    if shorten and isinstance(value, str):
        value = _cut(value)
    return json.dumps(value, ensure_ascii=False)


def _cut(text: str) -> str:
    if len(text) <= _LONGEST_TEXT:
        return text
    return f"{text[:_LONGEST_TEXT]}… ({len(text):,} characters)"


def _line_of(paths: Sequence[Path | None], field: str | None) -> int | None:
    """The line of a field; of what should hold it, where it is missing.

    A request's fields are named without the envelope that may be around them.
    """
    if not field:
        return None
    lines = {path: line for line, path in enumerate(paths) if path is not None}
    wanted = tuple(field.split("."))
    for candidate in (wanted, ("payload", *wanted)):
        if candidate in lines:
            return lines[candidate]
    for candidate in (wanted, ("payload", *wanted)):
        for length in range(len(candidate) - 1, 0, -1):
            if candidate[:length] in lines:
                return lines[candidate[:length]]
    return None

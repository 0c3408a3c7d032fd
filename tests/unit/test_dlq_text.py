"""How values of dead letters are shown and edited."""

import json
import os
import stat
import sys
from pathlib import Path

import pytest

from agents.runtime.errors import ConfigurationError, InvalidMessageError
from ops.dead_letter_text import hex_dump, pretty_json, printable, show_value
from ops.editing import in_editor, json_patch

ENVELOPE = {
    "message_type": "Plan",
    "payload": {"steps": [{"action": "a"}, {"action": "NO", "depends_on": []}], "text": "x"},
}


def marked(value: object, field: str | None, reason: str = "") -> str | None:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    shown = show_value(raw, field=field, reason=reason)
    return None if shown.marked is None else shown.lines[shown.marked].strip()


@pytest.mark.parametrize(
    ("field", "line"),
    [
        ("payload.steps.1.action", '"action": "NO",'),
        ("steps.1.action", '"action": "NO",'),  # as a request's fields are named
        ("payload.steps.1.depends_on", '"depends_on": []'),
        ("payload.steps.1.missing", "{"),
        ("payload.missing", '"payload": {'),
        ("message_type", '"message_type": "Plan",'),
        ("payload.steps", '"steps": ['),
        ("missing", None),
        (None, None),
    ],
)
def test_the_offending_line_is_marked(field: str | None, line: str | None) -> None:
    if field == "missing":
        assert marked({"text": 1}, field) is None
    else:
        assert marked(ENVELOPE, field) == line


def test_of_malformed_json_the_line_is_marked_where_it_breaks() -> None:
    reason = "the value is not JSON: expected value at line 2 column 9"
    assert marked(b'{"a": 1,\n "text": }', None, reason) == '"text": }'


def test_json_is_laid_out_as_the_standard_library_does() -> None:
    assert pretty_json(ENVELOPE) == json.dumps(ENVELOPE, indent=2, ensure_ascii=False)


def test_a_long_text_is_shortened_where_it_is_shown_only() -> None:
    [_, line, _] = show_value(json.dumps({"a": "x" * 5000}).encode(), field=None, reason="").lines
    assert len(line) < 500
    assert "5,000 characters" in line
    assert len(pretty_json({"a": "x" * 5000})) > 5000


def test_what_is_no_text_is_shown_as_bytes() -> None:
    shown = show_value(b"\x00\xff" + b"text" * 5, field=None, reason="")
    assert shown.kind == "bytes"
    assert shown.lines[0] == (
        "00000000  00 ff 74 65 78 74 74 65 78 74 74 65 78 74 74 65  |..texttexttextte|"
    )


def test_a_dump_has_an_end() -> None:
    assert hex_dump(bytes(5000))[-1] == "… 3,976 more bytes"


@pytest.mark.parametrize(
    ("value", "kind"),
    [(None, "nothing"), (b"", "bytes"), (b"a plain text", "text"), (b"[" * 5000, "text")],
)
def test_every_value_can_be_shown(value: bytes | None, kind: str) -> None:
    shown = show_value(value, field="a.b", reason="at line 999 column 1")
    assert shown.kind == kind
    assert shown.lines
    assert shown.marked is None


def test_nothing_that_is_shown_moves_the_cursor_or_hides_text() -> None:
    evil = "\x1b[2J\u202e\x9b\u200b"
    assert printable(evil).isprintable()
    for value in (json.dumps({evil: evil}, ensure_ascii=False).encode(), evil.encode()):
        for line in show_value(value, field=None, reason="").lines:
            assert line.isprintable()


@pytest.mark.parametrize("given", ["{}", "[1]", '[{"op": "fly", "path": "/a"}]', "[", "nowhere"])
def test_what_is_no_patch_is_explained(given: str) -> None:
    with pytest.raises(ConfigurationError, match="patch"):
        json_patch(given)


def test_a_patch_may_be_a_file(tmp_path: Path) -> None:
    file = tmp_path / "fix.json"
    file.write_text('[{"op": "add", "path": "/b", "value": "ü"}]')
    assert json_patch(str(file))(b'{"a": 1.0}') == '{"a":1.0,"b":"ü"}'.encode()


@pytest.mark.parametrize("value", [None, b"", b"\xff", b"{"])
def test_only_json_can_be_patched(value: bytes | None) -> None:
    with pytest.raises(InvalidMessageError, match="not JSON"):
        json_patch("[]")(value)


def editor(tmp_path: Path, code: str) -> dict[str, str]:
    """An editor that runs a line of Python on ``text``."""
    script = tmp_path / "editor.py"
    script.write_text(
        "import pathlib, sys\n"
        "file = pathlib.Path(sys.argv[-1])\n"
        f"text = file.read_text()\n{code}\nfile.write_text(text)\n"
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return {"EDITOR": f"{sys.executable} {script} --wait"}


def test_an_editor_is_given_json_laid_out_and_the_record_compact_json(tmp_path: Path) -> None:
    code = "assert text.startswith('{\\n  \"text\"'), text; text = text.replace('7', '\"go\"')"
    assert in_editor(editor(tmp_path, code))(b'{"text":7}') == b'{"text":"go"}'


def test_a_second_edit_begins_where_the_first_ended(tmp_path: Path) -> None:
    edit = in_editor(editor(tmp_path, "text = text.replace('7', '77')"))
    assert edit(b"[7]") == b"[77]"
    assert edit(b"[7]") == b"[7777]"


def test_bytes_that_nobody_touched_stay_as_they_were(tmp_path: Path) -> None:
    assert in_editor(editor(tmp_path, ""))(b"\xff\x00") == b"\xff\x00"


def test_an_editor_that_fails_is_named() -> None:
    with pytest.raises(ConfigurationError, match="no-such-editor"):
        in_editor({**os.environ, "VISUAL": "no-such-editor"})(b"{}")

"""How a person changes the value of a record: by a JSON Patch (RFC 6902), or in their editor."""

import os
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from jsonpatch import JsonPatch, JsonPatchException, JsonPointerException
from pydantic_core import from_json

from agents.runtime.errors import ConfigurationError, InvalidMessageError
from ops.dead_letter_text import pretty_json
from ops.redrive_records import to_value

_EDITOR: Final = "vi"
_MALFORMED: Final = (JsonPatchException, JsonPointerException, TypeError, ValueError, KeyError)


def json_patch(given: str) -> Callable[[bytes | None], bytes]:
    """The edit that a JSON Patch makes.

    Args:
        given: The patch itself, or the file that holds it.

    Raises:
        ConfigurationError: It is no patch, or the file cannot be read.
    """
    source = given
    if not given.lstrip().startswith(("[", "{")):
        try:
            source = Path(given).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"cannot read the patch {given}: {error}") from None
    try:
        operations = from_json(source)
        if not isinstance(operations, list):
            raise TypeError("it must be a list of operations")
        patch = JsonPatch(operations)
    except _MALFORMED as error:
        raise ConfigurationError(f"the patch is no JSON Patch (RFC 6902): {error}") from None

    def edit(value: bytes | None) -> bytes:
        try:
            document: Any = from_json(value or b"")
        except ValueError:
            raise InvalidMessageError(
                "its value is not JSON, so there is nothing to patch; use --edit"
            ) from None
        try:
            return to_value(patch.apply(document))
        except _MALFORMED as error:
            raise InvalidMessageError(f"the patch does not fit: {error}") from None

    return edit


def in_editor(environ: Mapping[str, str] = os.environ) -> Callable[[bytes | None], bytes]:
    """The edit that a person makes in ``$VISUAL`` or ``$EDITOR``.

    JSON is laid out for reading, and made compact again. What has been edited stays as it is for
    the next time, so that a mistake costs nobody their work.
    """
    command = shlex.split(environ.get("VISUAL") or environ.get("EDITOR") or _EDITOR)
    latest: list[str] = []

    def edit(value: bytes | None) -> bytes:
        text = latest[-1] if latest else _editable(value or b"")
        latest.append(_run(command, text))
        try:
            return to_value(from_json(latest[-1]))
        except ValueError:
            # Unless nothing was touched, whoever reads the record will say what is wrong.
            untouched = latest[-1] == _editable(value or b"")
            return (value or b"") if untouched else latest[-1].encode()

    return edit


def _editable(value: bytes) -> str:
    try:
        return pretty_json(from_json(value)) + "\n"
    except ValueError:
        return value.decode("utf-8", errors="replace")


def _run(command: list[str], text: str) -> str:
    with tempfile.TemporaryDirectory(prefix="millstream-") as folder:
        file = Path(folder) / "value.json"
        file.write_text(text, encoding="utf-8")
        try:
            subprocess.run([*command, str(file)], check=True)  # noqa: S603  # the user's own editor
            return file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError, subprocess.CalledProcessError) as error:
            raise ConfigurationError(
                f"editing with {shlex.join(command)} failed: {error}; is $EDITOR right?"
            ) from None

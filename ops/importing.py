"""Adding entries to actions.yaml without touching what people wrote there."""

import io
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from agents.executors import SETTINGS_MODELS
from agents.runtime.catalogue import load_catalogue
from schemas import JsonObject

_INDENT = "  "


def add_actions(path: Path, entries: Mapping[str, JsonObject]) -> None:
    """Write ``entries`` behind the last action of the catalogue at ``path``.

    The file is replaced only if it is sound with them.

    Raises:
        DeclarationError: It is not; nothing was changed.
    """
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    at = _end_of_actions("".join(lines))
    if lines and not lines[at - 1].endswith("\n"):
        lines[at - 1] += "\n"
    text = "".join(
        [*lines[:at], *("\n" + _written(*entry) for entry in entries.items()), *lines[at:]]
    )
    with _beside(path, text) as draft:
        load_catalogue(draft, SETTINGS_MODELS)
        draft.chmod(path.stat().st_mode)
        draft.replace(path)


def written(entries: Mapping[str, JsonObject]) -> str:
    """``entries`` as they stand in the file."""
    return "\n".join(_written(*entry) for entry in entries.items())


def _written(action_id: str, entry: JsonObject) -> str:
    yaml = YAML()
    yaml.width = 100
    yaml.allow_unicode = True
    stream = io.StringIO()
    yaml.dump({action_id: entry}, stream)
    return "".join(_INDENT + line for line in stream.getvalue().splitlines(keepends=True))


@contextmanager
def _beside(path: Path, text: str) -> Iterator[Path]:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    draft = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        yield draft
    finally:
        draft.unlink(missing_ok=True)


def _end_of_actions(text: str) -> int:
    """The number of lines up to the last one of the section ``actions``."""
    root = YAML().compose(io.StringIO(text))
    (actions,) = (value for key, value in root.value if key.value == "actions")
    return _last_line(actions) + 1


def _last_line(node: Node) -> int:
    """The last line of what stands in a node; its own end mark comes after blank lines."""
    if isinstance(node, ScalarNode) or getattr(node, "flow_style", False):
        end = node.end_mark
        return int(
            end.line - 1 if end.column == 0 and end.line > node.start_mark.line else end.line
        )
    children: list[Node] = []
    if isinstance(node, SequenceNode):
        children = list(node.value)
    if isinstance(node, MappingNode):
        children = [part for pair in node.value for part in pair]
    return max(map(_last_line, children), default=int(node.start_mark.line))

"""YAML as plain values, with the line of each, and without stopping at the first mistake."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Final

from pydantic import JsonValue
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, StringMark, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

Path = tuple[str | int, ...]
"""Keys and indices from the root of a file to a value in it."""

_TAG: Final = "tag:yaml.org,2002:"
_BASES: Final[Mapping[str, int]] = {"0x": 16, "0o": 8, "0b": 2}


def _to_int(text: str) -> int:
    digits = text.replace("_", "").lower()
    base = _BASES.get(digits.lstrip("+-")[:2], 10)
    return int(digits, base)


def _to_float(text: str) -> float:
    return float(text.replace("_", "").replace(".inf", "inf").replace(".nan", "nan"))


_SCALARS: Final[Mapping[str, Callable[[str], JsonValue]]] = {
    f"{_TAG}null": lambda _: None,
    f"{_TAG}bool": lambda text: text.lower() == "true",
    f"{_TAG}int": _to_int,
    f"{_TAG}float": _to_float,
    f"{_TAG}str": str,
    f"{_TAG}timestamp": str,  # whatever reads a date knows its form
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands in a text."""

    line: int
    """Counted from 1."""
    offset: int
    """In characters from the start; what YAML's aliases repeat has the same."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong at one place of a text."""

    path: Path
    place: Place
    wrong: str
    expected: str


START: Final = Place(line=1, offset=0)


@dataclass(slots=True)
class Source:
    """What a YAML text says.

    ``value`` is ``None`` where the text is no YAML at all. A value that cannot stand is left out
    and named in ``findings``. ``places`` says where every value stands; a mapping's value stands
    where its key stands.
    """

    value: JsonValue = None
    places: dict[Path, Place] = field(default_factory=lambda: {(): START})
    findings: list[Finding] = field(default_factory=list)


def read_yaml(text: str) -> Source:
    """Read one YAML 1.2 document."""
    source = Source()
    try:
        node: Node | None = YAML(typ="safe", pure=True).compose(text)
    except YAMLError as error:
        source.findings.append(_syntax_finding(error, text))
        return source
    if node is not None:
        source.places[()] = _place(node.start_mark)
        source.value = _Walk(source).value(node, ())
    return source


def _place(mark: StringMark) -> Place:
    return Place(line=mark.line + 1, offset=mark.index)


def _syntax_finding(error: YAMLError, text: str) -> Finding:
    if isinstance(error, ReaderError):
        place = Place(text.count("\n", 0, error.position) + 1, error.position)
        code_point = ord(text[error.position])
        return Finding((), place, f"the character U+{code_point:04X} is not allowed", "plain text")
    if isinstance(error, MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        said = str(error.problem or error.context)
        if error.problem and error.context and error.context_mark:
            said += f", {error.context} (from line {error.context_mark.line + 1})"
        place = _place(mark) if mark else START
        column = f" (column {mark.column + 1})" if mark else ""
        return Finding((), place, f"this is no YAML: {said}{column}", "valid YAML")
    return Finding((), START, f"this is no YAML: {error}", "valid YAML")


class _Walk:
    """One walk over the nodes of a document."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._open: set[int] = set()

    def value(self, node: Node, path: Path) -> JsonValue:
        if id(node) in self._open:
            self._find(path, node, "an alias contains itself", "a value that ends")
            return None
        self._open.add(id(node))
        try:
            if isinstance(node, MappingNode):
                return self._mapping(node, path)
            if isinstance(node, SequenceNode):
                return self._sequence(node, path)
            return self._scalar(node, path)
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: MappingNode, path: Path) -> JsonValue:
        result: dict[str, JsonValue] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode):
                self._find(path, key_node, "a key is a mapping or a list", "a plain text as key")
                continue
            key = str(key_node.value)
            place = (*path, key)
            if key in result:
                first = self._source.places[place].line
                self._find(
                    place, key_node, f"the key stands twice, first on line {first}", "each key once"
                )
                continue
            self._source.places[place] = _place(key_node.start_mark)
            result[key] = self.value(value_node, place)
        return result

    def _sequence(self, node: SequenceNode, path: Path) -> JsonValue:
        result: list[JsonValue] = []
        for index, item in enumerate(node.value):
            self._source.places[(*path, index)] = _place(item.start_mark)
            result.append(self.value(item, (*path, index)))
        return result

    def _scalar(self, node: Node, path: Path) -> JsonValue:
        text, tag = str(node.value), str(node.tag)
        if tag in _SCALARS:
            value = _SCALARS[tag](text)
            if isinstance(value, float) and not isfinite(value):
                self._find(path, node, f"{text} is not finite", "a finite number")
                return None
            return value
        self._find(path, node, f"the tag {tag} has no meaning here", "a value without a tag")
        return None

    def _find(self, path: Path, node: Node, wrong: str, expected: str) -> None:
        self._source.findings.append(Finding(path, _place(node.start_mark), wrong, expected))

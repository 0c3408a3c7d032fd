"""A declaration file on its way to a model: every problem of it is collected, none raised early."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Generic, TypeVar

from pydantic import BaseModel, JsonValue, ValidationError

from agents.runtime.declarations.explain import explain
from agents.runtime.declarations.source import START, Path, Place, Source, read_yaml
from agents.runtime.errors import ConfigurationError
from schemas import Model

ModelT = TypeVar("ModelT", bound=BaseModel)

#: Errors that only follow from another error beside them.
_CONSEQUENCES = frozenset({"default_factory_not_called"})

#: How deep an entry lies: section, name.
_ENTRY_DEPTH = 2


class Declaration(Model):
    """A model of something that people write into a declaration file."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a declaration file."""

    file: str
    line: int
    """Counted from 1."""
    path: str
    """Where in the file's structure, such as ``topics."millstream.plans.v1".partitions``."""
    wrong: str
    expected: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: at {self.path}: {self.wrong}; expected {self.expected}"


class DeclarationError(ConfigurationError):
    """A declaration file cannot be used.

    Args:
        problems: All that is wrong with it, in the order of the file.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class Document(Generic[ModelT]):
    """A declaration file being read: its values, where they stand, what is wrong with them.

    Nothing raises before the end: ask :meth:`sound` for what is well-formed, :meth:`report` what
    else is wrong, and finish with :meth:`close`.

    Args:
        file: The file; its name, as given, leads every problem.
        model: What the root of the file must be.
    """

    def __init__(self, file: FilePath, model: type[ModelT]) -> None:
        self.file = str(file)
        self._model = model
        self._problems: dict[tuple[object, ...], Problem] = {}
        self._source = self._read(file)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What was found so far, in the order of the file.

        What YAML's aliases repeat is named once, under the path that comes first.
        """
        return tuple(sorted(self._problems.values(), key=lambda problem: problem.line))

    def keys(self, *path: str) -> tuple[str, ...]:
        """The keys of the mapping at ``path``, sound or not; none where no mapping stands."""
        value = self._source.value
        for part in path:
            value = value.get(part) if isinstance(value, dict) else None
        return tuple(value) if isinstance(value, dict) else ()

    def line_of(self, path: Path) -> int:
        """The line of the value at ``path``, or of the nearest one around it."""
        return self._place_of(path).line

    def report(self, path: Path, wrong: str, expected: str) -> None:
        """Add a problem that the model alone cannot see."""
        self._add(path, self._place_of(path), wrong, expected)

    def report_invalid(
        self, error: ValidationError, model: type[BaseModel], path: Path = ()
    ) -> None:
        """Add the problems of the value at ``path``, which was validated as ``model``."""
        for item in error.errors(include_url=False):
            if item["type"] not in _CONSEQUENCES:
                self.report(self._locate(path, item["loc"]), *explain(item, model))

    def sound(self) -> ModelT | None:
        """The well-formed part of the file; entries with problems are reported and left out.

        An entry is a value of one of the mappings in the root. ``None`` where nothing is left.
        """
        if self._source.value is None:
            return None
        try:
            return self._validate(self._source.value)
        except ValidationError as error:
            self.report_invalid(error, self._model)
            rest = _without_entries(self._source.value, error)
        try:
            return self._validate(rest)
        except ValidationError:
            return None  # its problems are those reported above

    def close(self, sound: ModelT | None) -> ModelT:
        """Finish the reading.

        Returns:
            ``sound``, which is then the whole file.

        Raises:
            DeclarationError: The file has problems; all of them are named.
        """
        if self._problems or sound is None:
            raise DeclarationError(self.problems)
        return sound

    def _validate(self, value: JsonValue) -> ModelT:
        # Strict JSON: "3" is no number, yet a list may become a tuple and a number a decimal.
        return self._model.model_validate_json(json.dumps(value), strict=True)

    def _read(self, file: FilePath) -> Source:
        try:
            source = read_yaml(file.read_text(encoding="utf-8"))
        except OSError as error:
            self._add((), START, f"it cannot be read ({error.strerror})", "a readable YAML file")
            return Source()
        except UnicodeDecodeError as error:
            self._add((), START, f"byte {error.start} is not UTF-8", "YAML in UTF-8")
            return Source()
        for finding in source.findings:
            self._add(finding.path, finding.place, finding.wrong, finding.expected)
        if source.value is None and not source.findings:
            sections = ", ".join(self._model.model_fields)
            self._add((), START, "the file is empty", f"a mapping with {sections}")
        return source

    def _locate(self, path: Path, location: Path) -> Path:
        """Where an error lies, without the parts that pydantic adds, such as ``[key]``."""
        for index, part in enumerate(location):
            last = index == len(location) - 1
            if (*path, part) in self._source.places or (last and part != "[key]"):
                path = (*path, part)
        return path

    def _place_of(self, path: Path) -> Place:
        while path not in self._source.places:
            path = path[:-1]
        return self._source.places[path]

    def _add(self, path: Path, place: Place, wrong: str, expected: str) -> None:
        identity = (place.offset, path[-1:], wrong, expected)
        problem = Problem(self.file, place.line, _show(path), wrong, expected)
        self._problems.setdefault(identity, problem)


def _show(path: Path) -> str:
    shown = ""
    for part in path:
        if isinstance(part, int):
            shown += f"[{part}]"
        else:
            name = f'"{part}"' if "." in part or " " in part else part
            shown += f".{name}" if shown else name
    return shown or "the file"


def _without_entries(value: JsonValue, error: ValidationError) -> JsonValue:
    """``value`` without the entries that ``error`` complains about."""
    if not isinstance(value, dict):
        return value
    broken = {item["loc"][:_ENTRY_DEPTH] for item in error.errors(include_url=False)}
    return {
        section: {name: entry for name, entry in entries.items() if (section, name) not in broken}
        if isinstance(entries, dict)
        else entries
        for section, entries in value.items()
        if (section,) not in broken
    }

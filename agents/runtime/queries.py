"""SQL lives in ``.sql`` files; each statement has a name, and code asks for it by that name.

::

    -- name: lock_runs
    -- What it does, for the reader.
    SELECT ...
"""

import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from agents.runtime.errors import ConfigurationError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Declared = TypeVar("Declared", bound="DataclassInstance")

_HEADING: Final = re.compile(r"--\s*name:\s*(\S.*?)\s*$")
_NAME: Final = re.compile(r"[a-z][a-z0-9_]*")


def load_queries(source: Path) -> Mapping[str, bytes]:
    """The named statements of ``source``, as the driver takes them; comments are left out.

    Raises:
        ConfigurationError: A name is malformed or used twice, a query is empty, or SQL stands
            before the first name. The message names file and line.
    """
    statements: dict[str, bytes] = {}
    name: str | None = None
    heading = 0
    lines: list[str] = []

    def finish() -> None:
        if name is None:
            return
        statement = "\n".join(lines).strip().removesuffix(";")
        if not statement:
            raise ConfigurationError(f"{source}:{heading}: query {name!r} is empty")
        statements[name] = statement.encode()

    for number, line in enumerate(source.read_text(encoding="utf-8").splitlines(), start=1):
        if found := _HEADING.match(line):
            finish()
            name, heading = found[1], number
            lines.clear()
            if not _NAME.fullmatch(name):
                raise ConfigurationError(f"{source}:{number}: {name!r} cannot name a query")
            if name in statements:
                raise ConfigurationError(f"{source}:{number}: query {name!r} is there already")
        elif line.strip() and not line.lstrip().startswith("--"):
            if name is None:
                raise ConfigurationError(f"{source}:{number}: SQL stands before the first name")
            lines.append(line.rstrip())
    finish()
    return statements


def bind_queries(source: Path, declaration: type[Declared]) -> Declared:
    """The statements of ``source`` as the fields of a dataclass, which says what it needs.

    Raises:
        ConfigurationError: As :func:`load_queries`; or a declared query is missing, or the file
            has one that nobody declares.
    """
    statements = load_queries(source)
    declared = {field.name for field in fields(declaration)}
    problems = [f"{name} is missing" for name in sorted(declared - statements.keys())]
    problems += [f"{name} is used by nobody" for name in sorted(statements.keys() - declared)]
    if problems:
        raise ConfigurationError(
            f"{source} and {declaration.__module__}.{declaration.__qualname__} disagree: "
            + "; ".join(problems)
        )
    return declaration(**statements)

"""Keys of people: made once, the public half for the list of principals."""

import getpass
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ruamel.yaml import YAML

from agents.runtime.signing import SigningKey

PRINCIPALS_FILE: Final = "principals.yaml"


def login() -> str:
    """The name of whoever runs this process; ``operator`` where the system knows none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "operator"


def make_key(file: Path, name: str, groups: Sequence[str] = ()) -> str:
    """Make a private key in a new file.

    Returns:
        What belongs into the list of principals, as YAML.

    Raises:
        ConfigurationError: The file exists, or cannot be made.
    """
    key = SigningKey.generate()
    key.write(file)
    return _as_yaml({name: _entry(key, groups)})


def provide_keys(folder: Path, names: Sequence[str]) -> tuple[Path, Mapping[str, Path]]:
    """Keys and the list of principals for a stack on this machine; those that are there stay.

    Returns:
        The list of principals, and by name the file of each private key.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: folder / f"{number}.pem" for number, name in enumerate(names)}
    for file in files.values():
        if not file.exists():
            SigningKey.generate().write(file)
    listed = folder / PRINCIPALS_FILE
    listed.write_text(
        _as_yaml({name: _entry(SigningKey.read(file), ()) for name, file in files.items()}),
        encoding="utf-8",
    )
    return listed, files


def _entry(key: SigningKey, groups: Sequence[str]) -> dict[str, Any]:
    entry: dict[str, Any] = {"groups": list(groups)} if groups else {}
    return {**entry, "keys": [str(key.public)]}


def _as_yaml(principals: Mapping[str, Any]) -> str:
    yaml, text = YAML(), io.StringIO()
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.dump({"principals": dict(principals)}, text)
    return text.getvalue()

"""Keys of people: made once, the public half for the list of principals."""

import getpass
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from agents.runtime.errors import ConfigurationError
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
    """Keys and the list of principals for a stack on this machine; what is there stays.

    Returns:
        The list of principals, and by name the file of each private key.

    Raises:
        ConfigurationError: The list is no list of principals.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: folder / f"{number}.pem" for number, name in enumerate(names)}
    for file in files.values():
        if not file.exists():
            SigningKey.generate().write(file)
    listed = folder / PRINCIPALS_FILE
    _list(listed, {name: SigningKey.read(file) for name, file in files.items()})
    return listed, files


def _list(listed: Path, keys: Mapping[str, SigningKey]) -> None:
    """Have ``listed`` name the keys, beside whatever people have written into it."""
    known: Any = {}
    try:
        with listed.open(encoding="utf-8") as file:
            known = _yaml().load(file) or {}
    except FileNotFoundError:
        pass
    except (YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{listed} is no list of principals: {error}") from None
    principals = known.setdefault("principals", {}) if isinstance(known, dict) else None
    if not isinstance(principals, dict):
        raise ConfigurationError(f"{listed} is no list of principals; mend it, or delete it")
    missing = {name: key for name, key in keys.items() if not _names(principals.get(name), key)}
    for name, key in missing.items():
        principals[name] = _entry(key, ())
    if missing:
        with listed.open("w", encoding="utf-8") as file:
            _yaml().dump(known, file)


def _names(entry: Any, key: SigningKey) -> bool:
    """Whether an entry of the list holds ``key``, perhaps among others."""
    return isinstance(entry, dict) and str(key.public) in (entry.get("keys") or ())


def _entry(key: SigningKey, groups: Sequence[str]) -> dict[str, Any]:
    entry: dict[str, Any] = {"groups": list(groups)} if groups else {}
    return {**entry, "keys": [str(key.public)]}


def _as_yaml(principals: Mapping[str, Any]) -> str:
    text = io.StringIO()
    _yaml().dump({"principals": dict(principals)}, text)
    return text.getvalue()


def _yaml() -> YAML:
    yaml = YAML()
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml

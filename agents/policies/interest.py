"""What policies look at.

Questions leave the rest blank. Two steps that differ only in what no policy looks at are then the
same question, whose answer is remembered: a set that looks at the hour and at production is asked
once an hour about production and about everything else, whoever asks and whatever it costs.

In the policies' bodies (Cedar's JSON format) whatever they look at is one of three things: an
attribute of a variable, such as ``context.time.hour``; the name of an entity, such as
``Tenant::"acme"``, which is all that a user, a group or a tenant can be compared with, since no
attribute holds one; or an attribute of something that is only
known when the policy is evaluated, which counts for every entity that has one of that name.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

_SOMETHING: Final = "?"
"""Stands for what is only known when a policy is evaluated."""
_ENTITY: Final = {"type", "id"}
_ACCESS: Final = {"left", "attr"}

Path = tuple[str, ...]
"""A variable and attributes from it on, such as ``("context", "time", "hour")``."""


class Interest:
    """What some policies look at.

    Args:
        bodies: The policies, in Cedar's JSON format.
    """

    def __init__(self, bodies: Iterable[Mapping[str, Any]]) -> None:
        listed = list(bodies)
        self._paths = frozenset(path for body in listed for path in _paths_in(body))
        self._entities = frozenset(entity for body in listed for entity in _entities_in(body))
        self._known: dict[Path, bool] = {}

    def covers(self, *path: str) -> bool:
        """Whether they look at what stands at ``path`` of the context, or at what it is part of."""
        known = self._known.get(path)
        if known is None:
            whole = ("context", *path)
            known = any(whole[:end] in self._paths for end in range(1, len(whole) + 1))
            self._known[path] = known
        return known

    def sees(self, variable: str, attribute: str) -> bool:
        """Whether they look at an attribute of the ``principal`` or of the ``resource``."""
        return not self._paths.isdisjoint({(variable, attribute), (_SOMETHING, attribute)})

    def names(self, entity_type: str, name: str) -> bool:
        """Whether they name this entity."""
        return (entity_type, name) in self._entities


def _paths_in(node: Any) -> Iterator[Path]:
    """The variables that an expression names, with as many attributes as are certain."""
    path = _path_of(node)
    if path is not None:
        yield path
    elif isinstance(node, dict):
        access = _access_in(node)
        if access is not None:
            yield (_SOMETHING, access["attr"])
        for part in node.values():
            yield from _paths_in(part)
    elif isinstance(node, list):
        for part in node:
            yield from _paths_in(part)


def _path_of(node: Any) -> Path | None:
    """The path that ``node`` is, where it is a variable or an attribute of one."""
    if not isinstance(node, dict):
        return None
    if node.keys() == {"Var"} and isinstance(node["Var"], str):
        return (node["Var"],)
    access = _access_in(node)
    before = None if access is None else _path_of(access["left"])
    return None if access is None or before is None else (*before, access["attr"])


def _access_in(node: Mapping[str, Any]) -> Mapping[str, Any] | None:
    access = node.get(".", node.get("has"))
    return access if isinstance(access, dict) and access.keys() == _ACCESS else None


def _entities_in(node: Any) -> Iterator[tuple[str, str]]:
    """The entities that a policy names, in its scope or in its conditions."""
    if isinstance(node, dict):
        if node.keys() == _ENTITY and all(isinstance(part, str) for part in node.values()):
            yield node["type"], node["id"]
        for part in node.values():
            yield from _entities_in(part)
    elif isinstance(node, list):
        for part in node:
            yield from _entities_in(part)

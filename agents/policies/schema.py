"""What policies may speak of: the Cedar schema, made from the catalogue.

Entities: a ``User`` is in their ``Group`` s and their ``Tenant``. A ``Target`` is in the
``Environment`` and in the things, such as a ``Service``, that a step names. Names of environments
and things are those of the catalogue, so that a policy cannot misspell one.

Actions: each action of the catalogue by its id, in ``Action::"read"`` or ``Action::"write"``, and
in ``Action::"destructive"`` where the catalogue says so.

Context: see :mod:`agents.policies.questions`, which fills it.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any, Final

from agents.policies.cedar import CedarError, Schema
from agents.runtime.catalogue import ActionSpec, Catalogue, ValueType
from agents.runtime.errors import ConfigurationError

READ: Final = "read"
WRITE: Final = "write"
DESTRUCTIVE: Final = "destructive"
_OURS: Final = frozenset({"User", "Group", "Tenant", "Target", "Time", "Cost", "PlanFacts"})

_Type = dict[str, Any]
_LONG: Final[_Type] = {"type": "Long"}
_STRING: Final[_Type] = {"type": "String"}
_BOOLEAN: Final[_Type] = {"type": "Boolean"}
_DECIMAL: Final[_Type] = {"type": "Extension", "name": "decimal"}

_TYPES: Final[Mapping[ValueType, _Type]] = {
    "string": _STRING,
    "integer": _LONG,
    "number": _DECIMAL,
    "boolean": _BOOLEAN,
    # Cedar's records are closed and its sets have one type; policies see these as JSON.
    "object": _STRING,
    "array": _STRING,
}


@cache
def entity_type(kind: str) -> str:
    """The entity type of a catalogue kind: ``database_cluster`` is ``DatabaseCluster``."""
    return "".join(part.capitalize() for part in kind.split("_"))


def schema_of(catalogue: Catalogue) -> Schema:
    """The schema for ``catalogue``.

    Raises:
        ConfigurationError: A kind of entity has a name that policies need for something else.
    """
    try:
        return Schema(declared_schema(catalogue))
    except CedarError as error:
        raise ConfigurationError(f"{catalogue.source}: no policy schema: {error}") from None


def declared_schema(catalogue: Catalogue) -> dict[str, Any]:
    """The schema in Cedar's JSON format.

    Raises:
        ConfigurationError: As :func:`schema_of`.
    """
    kinds = _types_of_kinds(catalogue)
    target = {kind: {**_entity(name), "required": False} for kind, name in kinds.items()}
    return {
        "": {
            "commonTypes": _COMMON,
            "entityTypes": {
                "Group": {},
                "Tenant": {},
                "User": {
                    "memberOfTypes": ["Group", "Tenant"],
                    "shape": _record(name=_STRING),
                },
                "Target": {
                    "memberOfTypes": list(kinds.values()),
                    "shape": {"type": "Record", "attributes": target},
                },
                **{name: _names(catalogue.names(kind)) for kind, name in kinds.items()},
            },
            "actions": {
                READ: {},
                WRITE: {},
                DESTRUCTIVE: {"memberOf": [{"id": WRITE}]},
                **_actions(catalogue),
            },
        }
    }


def _types_of_kinds(catalogue: Catalogue) -> dict[str, str]:
    types: dict[str, str] = {}
    for kind in catalogue.kinds():
        name = entity_type(kind)
        if name in _OURS or name in types.values():
            raise ConfigurationError(
                f"{catalogue.source}: policies cannot tell the kind of entity {kind!r} from "
                f"another {name}; give it another name"
            )
        types[kind] = name
    return types


def _names(names: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    # An enumeration cannot be empty.
    return {"enum": list(names)} if names else {}


def _actions(catalogue: Catalogue) -> dict[str, Any]:
    actions = {
        action.id: _action(
            _groups(action), {name: _TYPES[spec.type] for name, spec in action.parameters.items()}
        )
        for action in catalogue.actions.values()
    }
    taken = {group for action in catalogue.actions.values() for group in _groups(action)}
    # Cedar takes a policy about a group without actions for a mistake. A catalogue may have none,
    # and then one that nobody can ask for stands in.
    absent = [group for group in (READ, WRITE, DESTRUCTIVE) if group not in taken]
    return {**actions, **{f"no {group} action": _action((group,), {}) for group in absent}}


def _action(groups: Iterable[str], parameters: Mapping[str, _Type]) -> dict[str, Any]:
    optional = {name: {**declared, "required": False} for name, declared in parameters.items()}
    return {
        "memberOf": [{"id": group} for group in groups],
        "appliesTo": {
            "principalTypes": ["User"],
            "resourceTypes": ["Target"],
            "context": _record(
                parameters={"type": "Record", "attributes": optional},
                effect=_STRING,
                risk=_STRING,
                executor=_STRING,
                cost={"type": "Cost"},
                plan={"type": "PlanFacts"},
                time={"type": "Time"},
                approvals=_LONG,
                approvers={"type": "Set", "element": _STRING},
                lane=_STRING,
            ),
        },
    }


def _groups(action: ActionSpec) -> Iterator[str]:
    yield READ if action.effect == "read" else WRITE
    if action.destructive:
        yield DESTRUCTIVE


def _entity(name: str) -> _Type:
    return {"type": "Entity", "name": name}


def _record(**attributes: _Type) -> dict[str, Any]:
    return {"type": "Record", "attributes": attributes}


_COMMON: Final = {
    # Cedar takes ten times as long over a decimal or a datetime as over a number.
    "Cost": _record(
        database_storage=_LONG,
        compute_hours=_LONG,
        api_calls=_LONG,
        llm_tokens=_LONG,
        total=_LONG,
    ),
    "PlanFacts": _record(steps=_LONG, cost=_LONG),
    "Time": _record(date=_LONG, weekday=_LONG, hour=_LONG, minute=_LONG),
}

"""The catalogue in use: actions with everything resolved, and the questions roles ask of it."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ConfigDict, Field, JsonValue

from agents.runtime import references
from agents.runtime.catalogue.connections import Connection
from agents.runtime.catalogue.entries import (
    ENVIRONMENT,
    ActionDeclaration,
    CatalogueFile,
    Environment,
)
from agents.runtime.catalogue.parameters import ParameterSpec
from agents.runtime.declarations import did_you_mean, schema_of, show
from agents.runtime.errors import PermanentError
from schemas import JsonObject, Model


class UnknownActionError(PermanentError):
    """The catalogue has no action of that id.

    Args:
        action: The id that was asked for.
        hint: A near match as it ends a sentence, or nothing.
    """

    def __init__(self, action: str, hint: str = "") -> None:
        super().__init__(f"the catalogue has no action {action!r}{hint}", code="unknown_action")
        self.action = action


class ActionSpec(ActionDeclaration):
    """An action of the catalogue. ``choices`` of a parameter with an entity are its names."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    id: str
    source: str
    """File and line of its declaration."""

    def check_parameters(
        self, values: Mapping[str, JsonValue], *, allow_references: bool = True
    ) -> list[str]:
        """All that is wrong with ``values``, a sentence each; empty where the action can run.

        Args:
            values: Parameters by name.
            allow_references: Whether a value may still refer to an earlier step's output. Such a
                value is checked once it is resolved.
        """
        problems = [
            f"parameter {name!r} is missing: {spec.description}"
            for name, spec in self.parameters.items()
            if spec.required and name not in values
        ]
        for name, value in values.items():
            spec = self.parameters.get(name)
            if spec is None:
                hint = did_you_mean(name, self.parameters)
                problems.append(f"{self.id} has no parameter {show(name)}{hint}")
            elif allow_references and references.find(value):
                continue
            elif problem := spec.check(value):
                problems.append(f"parameter {name!r} {problem}")
        return problems

    def complete(self, values: Mapping[str, JsonValue]) -> JsonObject:
        """``values`` with the defaults of the parameters that are not given."""
        defaults = {
            name: spec.default
            for name, spec in self.parameters.items()
            if name not in values and spec.default is not None
        }
        return {**values, **defaults}

    def parameters_of(self, entity: str) -> Iterator[tuple[str, ParameterSpec]]:
        """The parameters that name a thing of the kind ``entity``."""
        return ((name, spec) for name, spec in self.parameters.items() if spec.entity == entity)


def settings_context(
    action: ActionDeclaration, connections: Mapping[str, Connection]
) -> dict[str, Any]:
    """What an executor's model of ``with`` may compare it with, as its validation context.

    ``parameters`` and ``outputs`` are names, ``connections`` has the kind of each by its name.
    """
    return {
        "parameters": tuple(action.parameters),
        "outputs": tuple(action.outputs),
        "connections": {name: connection.kind for name, connection in connections.items()},
    }


class Catalogue(Model):
    """Everything that actions.yaml declares."""

    environments: dict[str, Environment]
    entities: dict[str, dict[str, tuple[str, ...]]]
    """Kind, then name, then the other names of the thing; environments are not among them."""
    actions: dict[str, ActionSpec]
    source: str
    """The file it was read from."""
    connections: dict[str, Connection] = Field(default_factory=dict)
    """Where executors connect to, by name."""
    private_hosts: tuple[str, ...] = ()
    """Hosts that actions may call although their addresses are private."""

    def action(self, action_id: str) -> ActionSpec:
        """The action of that id.

        Raises:
            UnknownActionError: There is none; the error names a near one.
        """
        try:
            return self.actions[action_id]
        except KeyError:
            raise UnknownActionError(action_id, did_you_mean(action_id, self.actions)) from None

    def names(self, kind: str) -> Mapping[str, tuple[str, ...]]:
        """Things of a kind with their other names; nothing where the kind is not declared."""
        if kind == ENVIRONMENT:
            return {name: place.aliases for name, place in self.environments.items()}
        return self.entities.get(kind, {})

    def kinds(self) -> tuple[str, ...]:
        """The kinds of things that have names, environments first."""
        return (ENVIRONMENT, *self.entities)


def catalogue_schema() -> dict[str, Any]:
    """The JSON Schema of actions.yaml, for editors. Executors' settings are open in it."""
    return schema_of(CatalogueFile, "Millstream action catalogue")

"""What a model of one entry cannot see: whether the entries of actions.yaml fit together."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Final

from pydantic import BaseModel, ValidationError

from agents.runtime.catalogue.actions import settings_context
from agents.runtime.catalogue.compensation_checks import check_compensation
from agents.runtime.catalogue.connections import Connection
from agents.runtime.catalogue.entries import ENVIRONMENT, ActionDeclaration, CatalogueFile
from agents.runtime.catalogue.parameters import TEXT_HINTS, ParameterSpec, ValueType
from agents.runtime.catalogue.prices import Prices
from agents.runtime.declarations import Document, Path, did_you_mean

Executors = Mapping[str, type[BaseModel]]
"""By executor, the model of its settings (``with``).

It is validated with :func:`~agents.runtime.catalogue.settings_context` of the action, so that a
template can be checked against what the action has.
"""

_ONLY_FOR: Final[Mapping[str, tuple[ValueType, ...]]] = {
    "entity": ("string",),
    "pattern": ("string",),
    "max_length": ("string",),
    "secrets": ("string",),
    "minimum": ("integer", "number"),
    "maximum": ("integer", "number"),
}
MAX_COST: Final = 1_000_000
"""US dollars that one attempt may cost, so that the dearest plan fits into the ledger."""


class Checks:
    """Reports to a document what does not fit in the well-formed part of it."""

    def __init__(
        self, document: Document[CatalogueFile], executors: Executors | None, prices: Prices
    ) -> None:
        self._document = document
        self._executors = executors
        self._prices = prices
        # From the document, so that a malformed environment is not reported as unknown as well.
        self._environments = document.keys("environments")
        self._kinds = (ENVIRONMENT, *document.keys("entities"))

    def run(self, declared: CatalogueFile) -> None:
        """Check everything."""
        if ENVIRONMENT in declared.entities:
            self._report(
                ("entities", ENVIRONMENT),
                "environments have a section of their own",
                "their names and aliases under environments",
            )
        self._names_are_unambiguous(
            {name: place.aliases for name, place in declared.environments.items()},
            ("environments",),
            aliases_in=("aliases",),
        )
        for kind, things in declared.entities.items():
            self._names_are_unambiguous(things, ("entities", kind))
        for action_id, action in declared.actions.items():
            self._action(action, declared.connections, ("actions", action_id))
            self._compensation(action, declared.actions, ("actions", action_id, "compensation"))

    def _names_are_unambiguous(
        self, things: Mapping[str, tuple[str, ...]], path: Path, aliases_in: Path = ()
    ) -> None:
        owners: dict[str, str] = {}
        for name in things:
            if (owner := owners.setdefault(name.casefold(), name)) is not name:
                self._report((*path, name), f"{name!r} is also {owner!r}", "names that differ")
        for name, aliases in things.items():
            for index, alias in enumerate(aliases):
                if (owner := owners.setdefault(alias.casefold(), name)) is not name:
                    self._report(
                        (*path, name, *aliases_in, index),
                        f"{alias!r} already means {owner!r}",
                        "an alias that means one thing",
                    )

    def _action(
        self, action: ActionDeclaration, connections: Mapping[str, Connection], path: Path
    ) -> None:
        for name, parameter in action.parameters.items():
            self._parameter(parameter, (*path, "parameters", name))
        for slot in action.evidence:
            self._known("slot", slot, (*self._kinds, *TEXT_HINTS), (*path, "evidence", slot))
        for index, phrase in enumerate(action.phrases):
            if phrase.weight == 0:
                self._report((*path, "phrases", index), "a weight of 0 says nothing", "another")
        if action.destructive and action.effect == "read":
            self._report(
                (*path, "destructive"),
                "an action that only reads destroys nothing",
                "another effect",
            )
        for index, name in enumerate(action.allowed_environments or ()):
            place = (*path, "allowed_environments", index)
            self._known("environment", name, self._environments, place)
        has_environment = any(p.entity == ENVIRONMENT for p in action.parameters.values())
        if action.allowed_environments is not None and not has_environment:
            self._report(
                (*path, "allowed_environments"),
                "no parameter says in which environment the action runs",
                f"a parameter with `entity: {ENVIRONMENT}`",
            )
        self._cost(action, path)
        self._executor(action, connections, path)

    def _cost(self, action: ActionDeclaration, path: Path) -> None:
        for name in self._prices.missing_for(action.usage):
            self._report(
                (*path, "usage", name), f"{name} has no price", "a price for it in prices.yaml"
            )
        parts = (action.cost, self._prices.cost_of(action.usage))
        if sum(part.total for part in parts) > MAX_COST:
            at = "cost" if action.cost.total > MAX_COST else "usage"
            self._report(
                (*path, at), "one attempt is too dear", f"at most {MAX_COST} US dollars in all"
            )

    def _executor(
        self, action: ActionDeclaration, connections: Mapping[str, Connection], path: Path
    ) -> None:
        if self._executors is None:
            return
        self._known("executor", action.executor, self._executors, (*path, "executor"))
        model = self._executors.get(action.executor)
        if model is None:
            return
        context = settings_context(action, connections)
        try:
            model.model_validate_json(json.dumps(action.settings), strict=True, context=context)
        except ValidationError as error:
            self._document.report_invalid(error, model, (*path, "with"))

    def _compensation(
        self, action: ActionDeclaration, actions: Mapping[str, ActionDeclaration], path: Path
    ) -> None:
        if action.compensation is None:
            return
        if action.effect == "read":
            self._report(path, "an action that only reads has nothing to undo", "none")
        undo = action.compensation.action
        self._known("action", undo, self._document.keys("actions"), (*path, "action"))
        if undo in actions:
            check_compensation(action, actions[undo], path, self._report)

    def _parameter(self, spec: ParameterSpec, path: Path) -> None:
        for field, types in _ONLY_FOR.items():
            if getattr(spec, field) is not None and spec.type not in types:
                self._report(
                    (*path, field),
                    f"a parameter of type {spec.type} has no {field}",
                    f"type {' or '.join(types)}",
                )
        if spec.entity is not None:
            self._known("entity", spec.entity, self._kinds, (*path, "entity"))
            if spec.choices is not None:
                self._report(
                    (*path, "choices"), "the entity already says which", "entity or choices"
                )
        if spec.minimum is not None and spec.maximum is not None and spec.minimum > spec.maximum:
            self._report(
                (*path, "minimum"),
                f"{spec.minimum:g} is above the maximum",
                f"at most {spec.maximum:g}",
            )
        if spec.required and spec.default is not None:
            self._report(
                (*path, "required"), "a required parameter has a default", "one or the other"
            )
        if self._pattern_compiles(spec, path):
            self._values_fit(spec, path)

    def _pattern_compiles(self, spec: ParameterSpec, path: Path) -> bool:
        try:
            re.compile(spec.pattern or "")
        except re.error as error:
            self._report((*path, "pattern"), f"it is malformed: {error}", "a regular expression")
            return False
        return True

    def _values_fit(self, spec: ParameterSpec, path: Path) -> None:
        open_choice = spec.model_copy(update={"choices": None})
        for index, choice in enumerate(spec.choices or ()):
            if problem := open_choice.check(choice):
                self._report((*path, "choices", index), f"the choice {problem}", "a fitting value")
        if spec.default is None:
            return
        if spec.entity is not None:
            names = self._document.keys(
                *(("environments",) if spec.entity == ENVIRONMENT else ("entities", spec.entity))
            )
            self._known(spec.entity, str(spec.default), names, (*path, "default"))
        elif problem := spec.check(spec.default):
            self._report((*path, "default"), f"the default {problem}", "a fitting value")

    def _known(self, what: str, name: str, names: Iterable[str], path: Path) -> None:
        known = tuple(names)
        if name not in known:
            expected = f"one of {', '.join(known)}" if known else f"no {what}, as none is declared"
            self._report(path, f"unknown {what} {name!r}", expected + did_you_mean(name, known))

    def _report(self, path: Path, wrong: str, expected: str) -> None:
        self._document.report(path, wrong, expected)

"""Cedar's engine, spoken to in this module only.

Cedar skips a policy whose condition cannot be evaluated. A ``forbid`` that is skipped forbids
nothing, so one missing field or one overflowing sum would turn No into Yes. Hence two rules that
no caller can leave out: a question is always asked with the schema, which refuses ill-formed ones,
and an answer with an error never allows.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal

import cedarpy

PolicyEffect = Literal["permit", "forbid"]

_REMEMBERED_ANSWERS: Final = 4096
_REMEMBERED_ENTITIES: Final = 1024
_PREFIX: Final = re.compile(r"^for policy `[^`]*`,? ?:? ?")
_ACTION: Final = re.compile(r" for Action::\"[^\"]*\"")
#: What the validator says of a policy that already has another problem.
_CONSEQUENCE: Final = "unable to find an applicable action"


class CedarError(ValueError):
    """A text is no policy, or a schema is none."""


@dataclass(frozen=True, slots=True)
class ParsedPolicy:
    """One policy, as Cedar understands it."""

    effect: PolicyEffect
    annotations: Mapping[str, str]
    body: Mapping[str, Any]
    """In Cedar's JSON format."""


@dataclass(frozen=True, slots=True)
class Question:
    """Whether a user may do an action to a target; equal questions have equal answers."""

    user: str
    action: str
    target: str
    entities: str
    """The user and the target with their attributes, in Cedar's JSON format."""
    context: str
    """In Cedar's JSON format."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What policies say to a question."""

    allowed: bool
    policies: tuple[str, ...]
    """The ids of the policies that decided: the permits that matched where it is allowed, else the
    forbids that matched; none where nothing permits it."""
    errors: tuple[str, ...] = ()
    """Why it could not be decided; then it is not allowed."""


class Schema:
    """What policies may speak of.

    Args:
        declared: The schema in Cedar's JSON format.

    Raises:
        CedarError: It is no schema.
    """

    def __init__(self, declared: Mapping[str, Any]) -> None:
        try:
            self.text = json.dumps(declared, sort_keys=True)
            self.handle = cedarpy.Schema.from_json_str(self.text)
        except ValueError as error:
            raise CedarError(str(error)) from None

    def __str__(self) -> str:
        """The schema in Cedar's own syntax."""
        return str(self.handle)

    def problems_of(self, policy: str) -> list[str]:
        """What is wrong with the text of one policy, a clause each."""
        errors = cedarpy.validate_policies(policy, self.handle).errors
        # The validator goes through all actions, in no order; what it says of each is said once.
        found = sorted((_PREFIX.sub("", error.error) for error in errors), reverse=True)
        problems = sorted({_ACTION.sub("", each): each for each in found}.values())
        return [each for each in problems if not each.startswith(_CONSEQUENCE)] or problems[:1]


class Engine:
    """Some policies, compiled to answer questions.

    Args:
        policies: By id, their bodies.
        schema: The one that they were checked against.
    """

    def __init__(self, policies: Mapping[str, Mapping[str, Any]], schema: Schema) -> None:
        document = {"staticPolicies": dict(policies), "templates": {}, "templateLinks": []}
        self._policies = cedarpy.PolicySet.from_json_str(json.dumps(document))
        self._schema = schema.handle
        # Both are remembered by value. That bounds the cost of plans that repeat an action.
        self._entities = lru_cache(_REMEMBERED_ENTITIES)(self._parse_entities)
        self._answers = lru_cache(_REMEMBERED_ANSWERS)(self._ask)

    def ask(self, question: Question) -> Answer:
        """What the policies say; whatever cannot be decided is not allowed."""
        return self._answers(question)

    def _ask(self, question: Question) -> Answer:
        try:
            result = cedarpy.is_authorized(
                {
                    "principal": {"type": "User", "id": question.user},
                    "action": {"type": "Action", "id": question.action},
                    "resource": {"type": "Target", "id": question.target},
                    "context": question.context,
                },
                self._policies,
                self._entities(question.entities),
                self._schema,
            )
        except ValueError as error:
            return Answer(allowed=False, policies=(), errors=(str(error),))
        diagnostics = result.diagnostics
        errors = tuple(diagnostics.errors)
        if result.decision is cedarpy.Decision.NoDecision and not errors:
            errors = ("Cedar came to no decision",)
        return Answer(
            allowed=result.allowed and not errors,
            policies=tuple(sorted(diagnostics.reasons)),
            errors=errors,
        )

    def _parse_entities(self, entities: str) -> cedarpy.Entities:
        return cedarpy.Entities.from_json_str(entities, self._schema)


def parse_policy(text: str) -> ParsedPolicy:
    """The one policy that ``text`` holds.

    Raises:
        CedarError: It is malformed, a template, or not one policy.
    """
    try:
        document = json.loads(cedarpy.policies_to_json_str(text))
    except ValueError as error:
        raise CedarError(str(error)) from None
    if document["templates"]:
        raise CedarError("it has a slot such as ?principal, and nothing would fill it")
    policies = list(document["staticPolicies"].values())
    if len(policies) != 1:
        raise CedarError(f"it is {len(policies)} policies")
    body = policies[0]
    annotations = {name: value or "" for name, value in body.get("annotations", {}).items()}
    return ParsedPolicy(body["effect"], annotations, body)

"""What stands in actions.yaml, section by section."""

from typing import Annotated, Any, Final

from pydantic import (
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from agents.runtime.catalogue.connections import Connection, FixedText
from agents.runtime.catalogue.parameters import ParameterSpec, ValueType
from agents.runtime.catalogue.prices import Usage
from agents.runtime.declarations import Declaration, Matching, Seconds, show, wrong_value
from schemas import CostEstimate, RetryPolicy
from schemas.base import Identifier, JsonObject, Tenant, Text
from schemas.plan import Effect, Risk

ENVIRONMENT: Final = "environment"
"""The kind of entity whose names are those of the section ``environments``."""

RISKS: Final[tuple[Risk, ...]] = ("low", "medium", "high")
"""From the least to the greatest."""

ActionName = Annotated[
    str,
    Matching(
        r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+",
        "a dotted lower-case id of at most 120 characters, such as service.restart",
    ),
    Field(max_length=120),
]
_Kind = Annotated[str, Matching(r"[a-z][a-z0-9_]{0,62}", "a lower-case name such as service")]
_Label = Annotated[
    str, Matching(r"\S(.{0,98}\S)?", "1 to 100 characters without space at either end")
]


class Environment(Declaration):
    """A place in which actions happen."""

    aliases: tuple[_Label, ...] = ()
    """Other names that a request may use"""
    max_risk: Risk
    """The greatest risk that is allowed there: low, medium or high"""

    def allows(self, risk: Risk) -> bool:
        """Whether an action of ``risk`` may run here."""
        return RISKS.index(risk) <= RISKS.index(self.max_risk)


class Phrase(Declaration):
    """Words of a request that speak for an action, or against it."""

    phrase: _Label
    """The words"""
    weight: Annotated[float, Field(ge=-10, le=10)] = 1.0
    """How much they say; below zero they speak against the action"""

    @model_validator(mode="before")
    @classmethod
    def _read_bare_text(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"phrase": value}
        if isinstance(value, dict | cls):
            return value
        raise wrong_value(
            f"{show(value)} is no phrase", "words, or a mapping with phrase and weight"
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"anyOf": [{"type": "string", "minLength": 1}, handler(schema)]}


class OutputSpec(Declaration):
    """Something that a step of an action puts out, for later steps to refer to."""

    type: ValueType = "string"
    """The type of the value"""
    description: Text
    """What it is, in one sentence"""


class RetryDeclaration(RetryPolicy):
    """A retry policy as people write it: with units."""

    initial_delay: Annotated[Seconds, Field(ge=0, le=3600)] = 1.0
    """The wait before the second attempt, such as 1s"""


class _AsRetryPolicy:
    """Reads a :class:`RetryDeclaration` where a :class:`RetryPolicy` is wanted."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.json_or_python_schema(
            json_schema=core_schema.no_info_after_validator_function(
                lambda written: RetryPolicy(**written.model_dump()), handler(RetryDeclaration)
            ),
            python_schema=handler(source),
        )

    def __get_pydantic_json_schema__(
        self, _: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return handler(RetryDeclaration.__pydantic_core_schema__)


class CompensationDeclaration(Declaration):
    """What undoes an action."""

    action: ActionName
    """The action that does it"""
    parameters: JsonObject = Field(default_factory=dict)
    """Its parameters; ${parameters.NAME} and ${output.NAME} stand for what the step that is undone
    was given and has put out"""


class ActionDeclaration(Declaration):
    """What an executor can do: an entry of the section ``actions``."""

    description: Text
    """What the action does, in one sentence"""
    phrases: tuple[Phrase, ...] = ()
    """Words that the rule-based parser looks for; without any, only a plan can name the action"""
    evidence: dict[str, Annotated[float, Field(ge=-10, le=10)]] = Field(default_factory=dict)
    """What it says about this action that a text names a thing of some kind (an entity kind, or a
    hint of ``from_text``), as a weight: below zero it speaks against"""
    parameters: dict[Identifier, ParameterSpec] = Field(default_factory=dict)
    """The action's parameters by name"""
    executor: Identifier
    """Who does it: http, sql, mcp, python or notify"""
    settings: Annotated[JsonObject, Field(alias="with")] = Field(default_factory=dict)
    """The executor's settings for this action"""
    effect: Effect
    """What doing it twice means: read, idempotent or effect"""
    risk: Risk
    """How much harm it can do: low, medium or high"""
    cost: CostEstimate = CostEstimate()
    """What one attempt costs in US dollars, beside its usage"""
    usage: Usage = Usage()
    """What one attempt uses of that which has a price in prices.yaml"""
    retry: Annotated[RetryPolicy, _AsRetryPolicy()] = RetryPolicy()
    """How often it is tried, and how long the waits are"""
    timeout: Annotated[Seconds, Field(gt=0, le=86_400)] = 30.0
    """How long one attempt may take, such as 30s"""
    destructive: bool = False
    """Whether it takes away what cannot be brought back"""
    needs_approval: bool = False
    """Whether a person must approve it each time"""
    allowed_environments: tuple[Identifier, ...] | None = None
    """The only environments in which it may run; all where this is not given"""
    allowed_tenants: tuple[Tenant, ...] | None = None
    """The only tenants that may run it; all where this is not given"""
    outputs: dict[Identifier, OutputSpec] = Field(default_factory=dict)
    """What a step puts out, for later steps to refer to"""
    compensation: CompensationDeclaration | None = None
    """What undoes it, where a plan says that a failure is compensated"""


class CatalogueFile(Declaration):
    """The root of actions.yaml."""

    environments: dict[_Kind, Environment]
    """The places in which actions happen, by name"""
    entities: dict[_Kind, dict[_Label, tuple[_Label, ...]]] = Field(default_factory=dict)
    """The things that requests name: kind, then name, then its other names"""
    connections: dict[_Kind, Connection] = Field(default_factory=dict)
    """Databases, MCP servers and mail servers by name, for the actions that use them"""
    private_hosts: tuple[FixedText, ...] = ()
    """Hosts that actions may call although their addresses are private, as host, host:port or URL;
    calls to other private addresses are refused"""
    actions: dict[ActionName, ActionDeclaration]
    """The actions by id"""

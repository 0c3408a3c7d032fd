"""The action catalogue: what executors can do, under which names and rules (actions.yaml)."""

from agents.runtime.catalogue.actions import (
    ActionSpec,
    Catalogue,
    UnknownActionError,
    catalogue_schema,
    settings_context,
)
from agents.runtime.catalogue.compensation import parameters_for
from agents.runtime.catalogue.connections import (
    Connection,
    McpEndpoint,
    McpProcess,
    PostgresConnection,
    SmtpConnection,
)
from agents.runtime.catalogue.entries import (
    ENVIRONMENT,
    ActionDeclaration,
    CompensationDeclaration,
    Environment,
    OutputSpec,
    Phrase,
)
from agents.runtime.catalogue.load import load_catalogue
from agents.runtime.catalogue.parameters import (
    ParameterSpec,
    TextHint,
    ValueType,
)
from agents.runtime.catalogue.prices import Prices, Usage, load_prices

__all__ = [
    "ENVIRONMENT",
    "ActionDeclaration",
    "ActionSpec",
    "Catalogue",
    "CompensationDeclaration",
    "Connection",
    "Environment",
    "McpEndpoint",
    "McpProcess",
    "OutputSpec",
    "ParameterSpec",
    "Phrase",
    "PostgresConnection",
    "Prices",
    "SmtpConnection",
    "TextHint",
    "UnknownActionError",
    "Usage",
    "ValueType",
    "catalogue_schema",
    "load_catalogue",
    "load_prices",
    "parameters_for",
    "settings_context",
]

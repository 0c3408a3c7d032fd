"""Files in which people declare things: topics.yaml, actions.yaml.

A mistake is answered with the place and with what was expected there, and all mistakes of a file
are reported at once::

    actions.yaml:41: at actions."service.restart".risk: 'hgh' is not allowed; expected 'low',
    'medium' or 'high' (did you mean 'high'?)
"""

from agents.runtime.declarations.document import (
    Declaration,
    DeclarationError,
    Document,
    Problem,
)
from agents.runtime.declarations.explain import did_you_mean, near, show, wrong_value
from agents.runtime.declarations.schema import schema_of
from agents.runtime.declarations.source import Path
from agents.runtime.declarations.types import (
    Duration,
    Matching,
    Seconds,
    Size,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)

__all__ = [
    "Declaration",
    "DeclarationError",
    "Document",
    "Duration",
    "Matching",
    "Path",
    "Problem",
    "Seconds",
    "Size",
    "did_you_mean",
    "format_duration",
    "format_size",
    "near",
    "parse_duration",
    "parse_size",
    "schema_of",
    "show",
    "wrong_value",
]

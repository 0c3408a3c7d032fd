"""The parameters of an action: their types, limits, and where a text may name them."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import Field, JsonValue

from agents.runtime import references
from agents.runtime.declarations import Declaration, did_you_mean, show
from schemas.base import Identifier, Text

ValueType = Literal["string", "integer", "number", "boolean", "object", "array"]
"""The types of JSON; ``number`` includes integers."""

TextHint = Literal["quoted", "version", "number", "url", "channel"]
"""The form in which a sentence names a parameter, for the rule-based parser."""

TEXT_HINTS: Final[tuple[str, ...]] = get_args(TextHint)

_TYPES: Final[Mapping[ValueType, tuple[type[Any], ...]]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list,),
}


class ParameterSpec(Declaration):
    """One parameter of an action."""

    type: ValueType = "string"
    """The type of the value"""
    description: Text
    """What the parameter means, in one sentence"""
    default: JsonValue = None
    """What is used where the parameter is not given; null stands for no default"""
    required: Annotated[bool, Field(default_factory=lambda fields: fields.get("default") is None)]
    """Whether a request must give it; true unless there is a default"""
    entity: Identifier | None = None
    """The kind of thing it names: a key of ``entities``, or ``environment``"""
    choices: tuple[JsonValue, ...] | None = None
    """The allowed values; for an entity they are its names"""
    pattern: Annotated[str, Field(max_length=500)] | None = None
    """A regular expression that matches the whole text"""
    minimum: float | None = None
    """The least number"""
    maximum: float | None = None
    """The greatest number"""
    max_length: Annotated[int, Field(ge=1)] | None = None
    """The longest text, in characters"""
    from_text: TextHint | None = None
    """The form in which a sentence names it"""
    secrets: Annotated[tuple[Identifier, ...], Field(min_length=1)] | None = None
    """The secrets of which a plan names one as ${secret:name}; the value itself is never given"""

    def check(self, value: JsonValue) -> str | None:
        """What is wrong with ``value`` in a clause such as ``must be an integer, not 'x'``."""
        if self.secrets is not None:
            return self._check_secret(self.secrets, value)
        if references.names_secret(value):
            return "must not name a secret"
        if not self._has_type(value):
            article = "an" if self.type[0] in "aeiou" else "a"
            return f"must be {article} {self.type}, not {show(value)}"
        return self._check_value(value)

    def _check_value(self, value: JsonValue) -> str | None:
        if self.choices is not None and value not in self.choices:
            names = [str(choice) for choice in self.choices]
            hint = did_you_mean(str(value), names)
            return f"must be one of {', '.join(names)}, not {show(value)}{hint}"
        if isinstance(value, str):
            return self._check_text(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return self._check_number(value)
        return None

    @staticmethod
    def _check_secret(allowed: tuple[str, ...], value: JsonValue) -> str | None:
        if references.secret_name(value) in allowed:
            return None
        known = ", ".join(f"${{secret:{name}}}" for name in allowed)
        return f"must be {known}: a secret is named, and never given"  # nor is what was given said

    def _has_type(self, value: JsonValue) -> bool:
        if isinstance(value, bool):
            return self.type == "boolean"
        return isinstance(value, _TYPES[self.type])

    def _check_text(self, text: str) -> str | None:
        if self.max_length is not None and len(text) > self.max_length:
            return f"must have at most {self.max_length} characters, not {len(text)}"
        if self.pattern is not None and not re.fullmatch(self.pattern, text):
            return f"must match {self.pattern}, not {show(text)}"
        return None

    def _check_number(self, number: float) -> str | None:
        if self.minimum is not None and number < self.minimum:
            return f"must be at least {self.minimum:g}, not {number}"
        if self.maximum is not None and number > self.maximum:
            return f"must be at most {self.maximum:g}, not {number}"
        return None

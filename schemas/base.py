"""What every model of the vocabulary shares: strictness and the constrained scalar types.

Limits are wide enough for real use and narrow enough that no field can carry a document where a
name belongs. Lengths are in characters after Unicode normalisation by the sender; Millstream
itself normalises nothing.
"""

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Final, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    PlainSerializer,
    StringConstraints,
)

#: The lane of production. Other lanes are a prefix that ends in a dot, such as ``canary.``.
PRODUCTION_LANE = ""


_set: Final = object.__setattr__


class Model(BaseModel):
    """A frozen value that forbids unknown fields."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True,
        extra="forbid",
        ser_json_timedelta="float",
        ser_json_inf_nan="constants",
        use_attribute_docstrings=True,
    )

    @classmethod
    def of(cls, values: dict[str, Any]) -> Self:
        """An instance around ``values``, which hold every field and are valid already.

        Nothing is checked, so every value comes from a validated model or from code. It does what
        ``model_construct`` does, without looking at each field, which takes several times as long:
        envelopes and runs are made for every message.
        """
        instance = cls.__new__(cls)
        _set(instance, "__dict__", values)
        _set(instance, "__pydantic_fields_set__", set(values))
        _set(instance, "__pydantic_extra__", None)
        _set(instance, "__pydantic_private__", None)
        return instance

    def replace(self, **changes: Any) -> Self:
        """The same value with some fields replaced; ``changes`` are valid already, as in `of`."""
        return self.of({**self.__dict__, **changes})


class Payload(Model):
    """A model that travels as the payload of an :class:`~schemas.envelope.AgentMessage`.

    The class name is its ``message_type`` on the wire; ``schema_version`` rises with every
    compatible change. A breaking change is a new topic.
    """

    schema_version: ClassVar[int] = 1


_CONTROL_CHARACTER: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def _no_control_characters(text: str) -> str:
    found = _CONTROL_CHARACTER.search(text)
    if found is not None:
        raise ValueError(
            f"contains the control character U+{ord(found[0]):04X}; remove it and send again"
        )
    return text


def _not_blank(text: str) -> str:
    if not text or text.isspace():
        raise ValueError("is blank")
    return text


def _to_utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)


Text = Annotated[
    str,
    StringConstraints(min_length=1, max_length=10_000),
    AfterValidator(_not_blank),
    AfterValidator(_no_control_characters),
]
"""Prose that people write or read: not blank, at most 10,000 characters, no control characters."""

Name = Annotated[
    str,
    StringConstraints(min_length=1, max_length=200),
    AfterValidator(_not_blank),
    AfterValidator(_no_control_characters),
]
"""A short label such as a user, a group or a title."""

Identifier = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
"""A name that code declares: roles, executors, parameters, step ids."""

ActionId = Annotated[
    str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+$", max_length=120)
]
"""An entry of the action catalogue, such as ``service.restart``."""

StepId = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
"""A step within its plan; references name it: ``${steps.check.output.version}``."""

Tenant = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
"""Who a request is accounted to."""

Lane = Annotated[str, StringConstraints(pattern=r"^([a-z0-9][a-z0-9-]{0,60}\.)?$")]
"""The prefix that isolates a whole copy of the pipeline; empty for production."""

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""A SHA-256 digest in lower-case hexadecimal."""

Code = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
"""A stable, machine-readable reason; see :data:`agents.runtime.errors.ErrorCode`."""

UtcDatetime = Annotated[AwareDatetime, AfterValidator(_to_utc)]
"""A moment with a time zone, kept in UTC."""

Usd = Annotated[
    Decimal,
    Field(ge=0, max_digits=18, decimal_places=6),
    PlainSerializer(str, return_type=str, when_used="json"),
]
"""An amount of US dollars, exact to a millionth."""

JsonObject = dict[str, JsonValue]
"""A JSON object with string keys."""

"""Scalars as people write them: ``7d``, ``3MB``, and names that follow a rule."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, Final

from pydantic import (
    BeforeValidator,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from agents.runtime.declarations.explain import show, wrong_value

_UNITS_OF_TIME: Final[Mapping[str, timedelta]] = {
    "d": timedelta(days=1),
    "h": timedelta(hours=1),
    "m": timedelta(minutes=1),
    "s": timedelta(seconds=1),
    "ms": timedelta(milliseconds=1),
}
_UNITS_OF_SIZE: Final[Mapping[str, int]] = {
    "GiB": 1024**3,
    "GB": 1000**3,
    "MiB": 1024**2,
    "MB": 1000**2,
    "KiB": 1024,
    "KB": 1000,
    "B": 1,
}
_DURATION: Final = r"(\d+(ms|[dhms]))+"
_DURATION_EXPECTED: Final = "a duration such as 500ms, 30s, 5m, 1h30m or 7d"
_SIZE: Final = r"(\d+) ?(B|KB|KiB|MB|MiB|GB|GiB)"
_SIZE_EXPECTED: Final = "a size such as 64KB, 3MB or 1GiB"
#: Past this a duration in milliseconds no longer fits what Kafka and Postgres take.
_LONGEST: Final = timedelta(days=36_500)


def parse_duration(text: str) -> timedelta:
    """The duration that ``text`` such as ``1h30m`` means; units d, h, m, s and ms.

    Raises:
        ValueError: It is no such text, or longer than a hundred years.
    """
    if not re.fullmatch(_DURATION, text, re.ASCII):
        raise wrong_value(f"{show(text)} is no duration", _DURATION_EXPECTED)
    parts = re.findall(r"(\d+)(ms|[dhms])", text)
    # Compared as plain numbers first: a timedelta overflows where an int does not.
    seconds = sum(int(count) * _UNITS_OF_TIME[unit].total_seconds() for count, unit in parts)
    if seconds > _LONGEST.total_seconds():
        raise wrong_value(f"{show(text)} is too long", "a duration of at most 36500d")
    return sum((int(count) * _UNITS_OF_TIME[unit] for count, unit in parts), timedelta())


def format_duration(duration: timedelta) -> str:
    """``duration`` in the largest units that express it exactly to the millisecond."""
    rest, text = duration, ""
    for unit, length in _UNITS_OF_TIME.items():
        count, rest = divmod(rest, length)
        if count:
            text += f"{count}{unit}"
    return text or "0s"


def parse_size(text: str) -> int:
    """The bytes that ``text`` such as ``3MB`` means; MB is 10⁶ bytes, MiB is 2²⁰.

    Raises:
        ValueError: It is no such text.
    """
    match = re.fullmatch(_SIZE, text, re.ASCII)
    if match is None:
        raise wrong_value(f"{show(text)} is no size", _SIZE_EXPECTED)
    return int(match[1]) * _UNITS_OF_SIZE[match[2]]


def format_size(size: int) -> str:
    """``size`` in bytes, in the largest unit that divides it."""
    for unit, length in _UNITS_OF_SIZE.items():
        if size and size % length == 0:
            return f"{size // length}{unit}"
    return f"{size}B"


# In a file a quantity has its unit. Code, which validates Python values, may pass the plain one.


def _read_duration(value: object, info: ValidationInfo) -> object:
    if isinstance(value, str):
        return parse_duration(value)
    if info.mode == "python" and isinstance(value, timedelta):
        return value
    raise wrong_value(f"{show(value)} is no duration", _DURATION_EXPECTED)


def _read_seconds(value: object, info: ValidationInfo) -> object:
    if isinstance(value, str):
        return parse_duration(value).total_seconds()
    if info.mode == "python":
        return value
    raise wrong_value(f"{show(value)} is no duration", _DURATION_EXPECTED)


def _read_size(value: object, info: ValidationInfo) -> object:
    if isinstance(value, str):
        return parse_size(value)
    if info.mode == "python":
        return value
    raise wrong_value(f"{show(value)} is no size", _SIZE_EXPECTED)


_DURATION_SCHEMA: Final = {
    "type": "string",
    "pattern": f"^{_DURATION}$",
    "description": _DURATION_EXPECTED,
}

Duration = Annotated[timedelta, BeforeValidator(_read_duration), WithJsonSchema(_DURATION_SCHEMA)]
"""A span of time, written such as ``7d``."""

Seconds = Annotated[float, BeforeValidator(_read_seconds), WithJsonSchema(_DURATION_SCHEMA)]
"""A span of time, written such as ``30s``, kept in seconds."""

Size = Annotated[
    int,
    BeforeValidator(_read_size),
    WithJsonSchema({"type": "string", "pattern": f"^{_SIZE}$", "description": _SIZE_EXPECTED}),
]
"""A number of bytes, written such as ``3MB``."""


@dataclass(frozen=True, slots=True)
class Matching:
    """A text that a regular expression matches as a whole.

    Args:
        regex: In the syntax that Python and ECMA 262 share, without anchors.
        expected: What people are told when it does not match.
    """

    regex: str
    expected: str

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return handler(schema) | {"pattern": f"^{self.regex}$", "description": self.expected}

    def _check(self, text: str) -> str:
        if not re.fullmatch(self.regex, text):
            raise wrong_value(f"{show(text)} is not allowed", self.expected)
        return text

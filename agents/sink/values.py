"""Values that Postgres takes as they are, of values that it would refuse.

``text`` and ``jsonb`` cannot hold U+0000, and ``jsonb`` no number that is not finite, though a
message may: an HTTP response in a step's output, say. History keeps such a value with U+FFFD for
the character and a string for the number. The record on the topic is not touched.
"""

import base64
import contextlib
import json
import math
from typing import Any, Final

from pydantic_core import from_json, to_json

from agents.runtime.records import Headers
from schemas import Payload

_NUL: Final = "\x00"
_REPLACEMENT: Final = "\ufffd"


def text(value: str | None) -> str | None:
    """``value`` without U+0000."""
    if value is not None and _NUL in value:
        return value.replace(_NUL, _REPLACEMENT)
    return value


def jsonb(value: Any) -> str:
    """``value`` as JSON that ``jsonb`` takes; models are written as they travel."""
    encoded = (
        value.model_dump_json()
        if isinstance(value, Payload)
        else to_json(value, inf_nan_mode="constants").decode()
    )
    return storable_json(encoded)


def storable_json(encoded: str) -> str:
    """JSON that ``jsonb`` takes; what it takes already stays as it is written."""
    # Quick and rarely true: the words may also be part of a text, which the slow way leaves alone.
    if "\\u0000" in encoded or "NaN" in encoded or "Infinity" in encoded:
        return json.dumps(_storable(from_json(encoded)), ensure_ascii=False, allow_nan=False)
    return encoded


def headers_json(headers: Headers) -> str:
    """Record headers as a list of pairs.

    A value that is no text which Postgres can keep is ``{"base64": "..."}``.
    """
    return jsonb([[name, _header_value(value)] for name, value in headers])


def _header_value(value: bytes | None) -> Any:
    if value is None:
        return None
    if b"\0" not in value:
        with contextlib.suppress(UnicodeDecodeError):
            return value.decode()
    return {"base64": base64.b64encode(value).decode()}


def _storable(value: Any) -> Any:
    match value:
        case str():
            return text(value)
        case float() if not math.isfinite(value):
            return str(value)
        case list():
            return [_storable(item) for item in value]
        case dict():
            return {text(name): _storable(item) for name, item in value.items()}
        case _:
            return value

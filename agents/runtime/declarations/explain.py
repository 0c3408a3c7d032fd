"""What pydantic found, in words for the person who edits the file."""

import difflib
import re
from collections.abc import Iterable, Mapping
from types import UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError

_LONGEST_SHOWN: Final = 60
#: Beyond this a word is no misspelt name, and comparing it would cost time.
_LONGEST_NAME: Final = 100
_KINDS: Final[Mapping[type, str]] = {
    bool: "true or false",
    str: "text",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "a mapping",
}
_KIND_ERRORS: Final[Mapping[str, str]] = {
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "float_type": "a number",
    "int_type": "a whole number",
    "list_type": "a list",
    "model_attributes_type": "a mapping",
    "model_type": "a mapping",
    "string_type": "text",
    "tuple_type": "a list",
}
_COMPARISONS: Final = ("greater", "less")
_CUSTOM: Final = "declaration"
_THIRD_PERSON: Final[Mapping[str, str]] = {"have": "has", "match": "matches"}
_SHOULD: Final = re.compile(r"^(?:\w+) should (be|have|match) (.+)$", re.DOTALL)


def wrong_value(wrong: str, expected: str) -> PydanticCustomError:
    """The error to raise in a validator of a declaration: what was wrong, what was expected."""
    return PydanticCustomError(
        _CUSTOM, "{wrong}; expected {expected}", {"wrong": wrong, "expected": expected}
    )


def near(word: str, choices: Iterable[str]) -> str | None:
    """The choice that ``word`` was probably meant to be."""
    if len(word) > _LONGEST_NAME:
        return None
    matches = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return matches[0] if matches else None


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """`` (did you mean 'x'?)``, or nothing where no choice is near."""
    match = near(word, choices)
    return f" (did you mean {match!r}?)" if match is not None else ""


def show(value: object) -> str:
    """``value`` as it reads in a sentence, cut where it is long."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict | list):
        return _KINDS[type(value)]
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


def explain(error: ErrorDetails, model: type[BaseModel]) -> tuple[str, str]:
    """What was wrong and what was expected, for an error of validating ``model``."""
    location, value = error["loc"], error["input"]
    context = error.get("ctx", {})
    match error["type"]:
        case "declaration":
            answer = str(context["wrong"]), str(context["expected"])
        case "missing":
            answer = "it is missing", _purpose(model, location)
        case "extra_forbidden":
            answer = "unknown field", _known_fields(model, location)
        case "literal_error":
            expected = str(context["expected"])
            hint = did_you_mean(str(value), re.findall(r"'([^']+)'", expected))
            answer = f"{show(value)} is not allowed", f"{expected}{hint}"
        case "union_tag_invalid":
            tag, expected = str(context["tag"]), str(context["expected_tags"])
            hint = did_you_mean(tag, re.findall(r"'([^']+)'", expected))
            answer = f"{context['discriminator']} {show(tag)} is not allowed", f"{expected}{hint}"
        case "value_error":
            answer = str(context["error"]), _purpose(model, location)
        case kind if kind in _KIND_ERRORS:
            answer = f"{_kind(value)} stands here", _KIND_ERRORS[kind]
        case _:
            answer = f"{show(value)} is not allowed", _should(error["msg"])
    return answer


def _kind(value: object) -> str:
    if value is None:
        return "nothing"
    kind = _KINDS.get(type(value), type(value).__name__)
    return kind if isinstance(value, dict | list) else f"{kind} ({show(value)})"


def _should(message: str) -> str:
    """What pydantic's "Input should be …" asks for."""
    match = _SHOULD.match(message)
    if match is None:
        return message
    verb, rest = match.groups()
    if verb == "be":
        return f"a value {rest}" if rest.startswith(_COMPARISONS) else rest
    return f"a value that {_THIRD_PERSON[verb]} {rest}"


def _known_fields(model: type[BaseModel], location: tuple[int | str, ...]) -> str:
    names = _field_names(_annotation_at(model, location[:-1]))
    if not names:
        return "nothing here"
    return f"one of {', '.join(names)}{did_you_mean(str(location[-1]), names)}"


def _purpose(model: type[BaseModel], location: tuple[int | str, ...]) -> str:
    """What the field at ``location`` is for."""
    owner = _annotation_at(model, location[:-1])
    info = _field(owner, str(location[-1])) if location else None
    if info is not None and info.description:
        purpose = " ".join(info.description.split()).rstrip(".")
        return purpose[:1].lower() + purpose[1:]
    return str(location[-1]) if location else "a value that fits"


def _annotation_at(model: Any, location: tuple[int | str, ...]) -> Any:
    """The type that a model declares for the value at ``location``; ``None`` if it has none."""
    current = _plain(model)
    for part in location:
        if part == "[key]":
            return None
        if isinstance(current, type) and issubclass(current, BaseModel):
            info = _field(current, str(part))
            current = _plain(info.annotation) if info is not None else None
        else:
            arguments = get_args(current)
            current = _plain(
                arguments[-1 if get_origin(current) is not tuple else 0] if arguments else None
            )
    return current


def _plain(annotation: Any) -> Any:
    """``annotation`` without ``Annotated`` and ``| None``."""
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        arms = [arm for arm in get_args(annotation) if arm is not type(None)]
        return _plain(arms[0]) if len(arms) == 1 else None
    return annotation


def _field(owner: Any, name: str) -> FieldInfo | None:
    if not (isinstance(owner, type) and issubclass(owner, BaseModel)):
        return None
    fields = owner.model_fields
    return fields.get(name) or next((f for f in fields.values() if f.alias == name), None)


def _field_names(owner: Any) -> tuple[str, ...]:
    if not (isinstance(owner, type) and issubclass(owner, BaseModel)):
        return ()
    return tuple(info.alias or name for name, info in owner.model_fields.items())

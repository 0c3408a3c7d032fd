"""Parameters of a step as the arguments of a function, in the types that it declares.

JSON has no dates, sets or enumerations; where a function's annotation asks for one, the parameter
is read as such, strictly: a text is never taken for a number.
"""

import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, NotRequired

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config
from pydantic.errors import PydanticUserError
from pydantic_core import to_json
from typing_extensions import TypedDict

from agents.runtime.errors import PermanentError
from schemas import JsonObject


def check_call(name: str, function: Callable[..., Any], parameters: Iterable[str]) -> None:
    """Make sure that an action's parameters are arguments of a function, and all that it needs.

    Raises:
        ValueError: They are not, or an annotation is nothing that JSON can be read as.
    """
    signature = inspect.signature(function)
    given: Mapping[str, Any] = dict.fromkeys(parameters)
    try:
        signature.bind(**given)
    except TypeError as error:
        raise ValueError(
            f"{name}{signature} cannot be called with the action's parameters "
            f"({', '.join(given) or 'none'}): {error}"
        ) from error
    try:
        _adapter(function)
    except (NameError, PydanticUserError) as error:
        raise ValueError(f"{name}{signature}: an annotation cannot be used: {error}") from error


def read_arguments(function: Callable[..., Any], parameters: JsonObject) -> dict[str, Any]:
    """The arguments to call ``function`` with.

    Raises:
        PermanentError: A parameter is not of the declared type; code ``invalid_parameters``.
    """
    try:
        return _adapter(function).validate_json(to_json(parameters))
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}"
            for detail in error.errors(include_url=False, include_input=False)
        )
        raise PermanentError(
            f"the parameters are not what the function takes: {problems}",
            code="invalid_parameters",
        ) from error


@lru_cache(maxsize=1024)
def _adapter(function: Callable[..., Any]) -> TypeAdapter[dict[str, Any]]:
    hints = typing.get_type_hints(inspect.unwrap(function), include_extras=True)
    fields: dict[str, Any] = {}
    takes_more = False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            takes_more = True
            continue
        hint = hints.get(parameter.name, Any)
        is_needed = parameter.default is parameter.empty
        fields[parameter.name] = hint if is_needed else NotRequired[hint]
    typed_dict: Any = TypedDict  # its fields are known at run time only
    config = ConfigDict(strict=True, extra="allow" if takes_more else "forbid")
    return TypeAdapter(with_config(config)(typed_dict("arguments", fields)))

"""What executors check of an action's ``with`` before anything starts."""

from collections.abc import Mapping
from typing import Annotated

from jsonpath_ng.exceptions import JSONPathError
from pydantic import AfterValidator, ValidationInfo

from agents.executors.json_path import parse_path
from agents.runtime.declarations import did_you_mean
from agents.runtime.templates import Template, UrlTemplate
from schemas.base import Identifier


def _check_url(text: str) -> str:
    UrlTemplate.parse(text)
    return text


def _check_text(text: str) -> str:
    Template.parse(text)
    return text


def _check_path(text: str) -> str:
    try:
        parse_path(text)
    except JSONPathError as error:
        raise ValueError(f"{text!r} is no JSONPath: {error}") from error
    return text


UrlText = Annotated[str, AfterValidator(_check_url)]
"""A template of an absolute URL."""
TemplateText = Annotated[str, AfterValidator(_check_text)]
"""A template of a text."""
OutputPaths = dict[Identifier, Annotated[str, AfterValidator(_check_path)]]
"""By output, the JSONPath of its value in what came back."""


def check_names(named: frozenset[str], info: ValidationInfo) -> None:
    """Make sure that templates name only parameters that the action has.

    Args:
        named: The parameters that they name.
        info: Of a validation with :func:`~agents.runtime.catalogue.settings_context`; without one,
            nothing is checked.

    Raises:
        ValueError: They name others.
    """
    known = (info.context or {}).get("parameters")
    if known is not None and (unknown := sorted(named - set(known))):
        raise ValueError(
            f"the templates name {', '.join(unknown)}, but the action's parameters are "
            f"{', '.join(known) or 'none'}"
        )


def check_outputs(paths: OutputPaths, info: ValidationInfo) -> None:
    """Make sure that there is a path for each of the action's outputs, and for no other.

    Raises:
        ValueError: It is not so.
    """
    declared = (info.context or {}).get("outputs")
    if declared is not None and set(declared) != set(paths):
        raise ValueError(
            f"it reads {', '.join(sorted(paths)) or 'nothing'} from the response, but "
            f"the action's outputs are {', '.join(sorted(declared)) or 'none'}"
        )


def check_connection(name: str, kinds: tuple[str, ...], info: ValidationInfo) -> None:
    """Make sure that the catalogue has a connection of that name and of one of these kinds.

    Raises:
        ValueError: It has not.
    """
    known: Mapping[str, str] | None = (info.context or {}).get("connections")
    if known is None:
        return
    fitting = [other for other, kind in known.items() if kind in kinds]
    if name not in fitting:
        listed = ", ".join(fitting) or "none"
        raise ValueError(
            f"there is no connection {name!r} of kind {' or '.join(kinds)}, only {listed}"
            f"{did_you_mean(name, fitting)}"
        )

"""Templates in an action's settings: texts with places that parameters fill in.

``{name}`` stands for the parameter of that name, ``${settings.name}`` for one of the values that
:meth:`~agents.runtime.settings.Settings.template_values` offers, ``${secret:name}`` for a secret
(:mod:`agents.runtime.secrets`); ``{{`` and ``}}`` are braces. A value that is filled in is never
read as a template again.

In JSON, a text that is nothing but ``{name}`` becomes the parameter itself, with its type. In a
URL, parameters are percent-encoded, so that none of them can add a path segment, a query or a
host, and none may stand before the path.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from pydantic import JsonValue

from agents.runtime.errors import PermanentError
from agents.runtime.settings import Settings

#: What process settings offer, whatever their values are.
SETTING_NAMES: Final = frozenset(Settings.model_construct().template_values())

_TOKEN: Final = re.compile(
    r"\$\{settings\.(?P<setting>[a-z][a-z0-9_]*)\}"
    r"|\$\{(?P<secret>secret:[a-z][a-z0-9_]{0,62})\}"
    r"|\{(?P<parameter>[a-z][a-z0-9_]*)\}"
    r"|(?P<brace>\{\{|\}\})"
    r"|(?P<stray>\$\{|[{}])"
)


class TemplateError(ValueError):
    """A template is malformed; the message says where and what is allowed."""


@dataclass(frozen=True, slots=True)
class _Parameter:
    name: str


@dataclass(frozen=True, slots=True)
class _Setting:
    """A setting, or ``secret:`` and the name of a secret: what no request can choose."""

    name: str


_Part = str | _Parameter | _Setting


@dataclass(frozen=True, slots=True)
class Template:
    """A text with places for parameters and settings; made by :meth:`parse`."""

    parts: tuple[_Part, ...]

    @staticmethod
    @lru_cache(maxsize=4096)
    def parse(text: str) -> "Template":
        """Read a template.

        Raises:
            TemplateError: A brace stands alone, or there is no setting of that name.
        """
        parts: list[_Part] = []
        position = 0
        for match in _TOKEN.finditer(text):
            parts.append(text[position : match.start()])
            position = match.end()
            if name := match["parameter"]:
                parts.append(_Parameter(name))
            elif name := match["setting"]:
                if name not in SETTING_NAMES:
                    known = ", ".join(sorted(SETTING_NAMES))
                    raise TemplateError(f"there is no setting {name!r} for templates, only {known}")
                parts.append(_Setting(name))
            elif name := match["secret"]:
                parts.append(_Setting(name))
            elif brace := match["brace"]:
                parts.append(brace[0])
            else:
                raise TemplateError(
                    f"{match['stray']!r} at position {match.start()} begins or ends nothing; write "
                    "{parameter}, ${settings.name}, ${secret:name}, or {{ and }} for braces"
                )
        parts.append(text[position:])
        return Template(tuple(part for part in parts if part != ""))

    @property
    def parameters(self) -> frozenset[str]:
        """The parameters that it names."""
        return frozenset(part.name for part in self.parts if isinstance(part, _Parameter))

    @property
    def sole_parameter(self) -> str | None:
        """The parameter that is all there is to it, if so."""
        match self.parts:
            case (_Parameter(name),):
                return name
        return None

    def render(
        self,
        parameters: Mapping[str, JsonValue],
        settings: Mapping[str, str],
        *,
        encode: Callable[[str], str] = str,
    ) -> str:
        """The text with everything filled in.

        Args:
            parameters: Values by name. Texts stand as they are, others in the form of JSON.
            settings: What :meth:`Settings.template_values` offers, and each secret under its
                name after ``secret:``; ``Job.values`` gives both.
            encode: Makes a parameter's text harmless in its surroundings.

        Raises:
            PermanentError: A parameter that it names is not given.
        """
        return "".join(
            part
            if isinstance(part, str)
            else settings[part.name]
            if isinstance(part, _Setting)
            else encode(_as_text(_value_of(part.name, parameters)))
            for part in self.parts
        )


@dataclass(frozen=True, slots=True)
class UrlTemplate:
    """A template that makes an absolute http or https URL; made by :meth:`parse`."""

    template: Template

    @staticmethod
    def parse(text: str) -> "UrlTemplate":
        """Read a URL template.

        Raises:
            TemplateError: The template is malformed, or its scheme and host are not fixed by
                literal text and settings alone.
        """
        template = Template.parse(text)
        fixed = ""
        for part in template.parts:
            if isinstance(part, _Parameter):
                break
            # Settings are judged when they are filled in; here one stands for a scheme and host.
            fixed += part if isinstance(part, str) else "http://setting" if not fixed else "setting"
        _split(fixed, needs_path=bool(template.parameters))
        return UrlTemplate(template)

    def render(self, parameters: Mapping[str, JsonValue], settings: Mapping[str, str]) -> str:
        """The URL with everything filled in.

        Raises:
            PermanentError: A parameter is not given, is empty, or would change the URL's shape,
                such as ``..``; the code is ``invalid_parameters``.
        """
        url = self.template.render(parameters, settings, encode=_quote)
        try:
            _split(url, needs_path=False)
        except TemplateError as error:
            raise PermanentError(
                f"the settings make no URL: {error}", code="configuration"
            ) from error
        segments = (unquote(segment) for segment in urlsplit(url).path.split("/"))
        if any(segment in {".", ".."} for segment in segments):
            raise PermanentError(
                f"the path of {url} has a segment of dots, which would lead elsewhere",
                code="invalid_parameters",
            )
        return url


def render_json(
    value: JsonValue, parameters: Mapping[str, JsonValue], settings: Mapping[str, str]
) -> JsonValue:
    """``value`` with each text in it read as a template and filled in; keys stay as they are.

    An entry that is exactly one parameter is left out where that parameter is not given.

    Raises:
        PermanentError: A parameter that stands among other text is not given.
    """
    if isinstance(value, str):
        template = Template.parse(value)
        sole = template.sole_parameter
        if sole is not None:
            return _value_of(sole, parameters)
        return template.render(parameters, settings)
    if isinstance(value, list):
        return [
            render_json(item, parameters, settings)
            for item in value
            if not _is_absent(item, parameters)
        ]
    if isinstance(value, dict):
        return {
            key: render_json(item, parameters, settings)
            for key, item in value.items()
            if not _is_absent(item, parameters)
        }
    return value


def parameters_in(value: JsonValue) -> frozenset[str]:
    """The parameters that the texts in ``value`` name.

    Raises:
        TemplateError: A text is a malformed template.
    """
    if isinstance(value, str):
        return Template.parse(value).parameters
    if isinstance(value, list):
        return frozenset().union(*(parameters_in(item) for item in value))
    if isinstance(value, dict):
        return frozenset().union(*(parameters_in(item) for item in value.values()))
    return frozenset()


def _is_absent(item: JsonValue, parameters: Mapping[str, JsonValue]) -> bool:
    if not isinstance(item, str):
        return False
    sole = Template.parse(item).sole_parameter
    return sole is not None and sole not in parameters


def _value_of(name: str, parameters: Mapping[str, JsonValue]) -> JsonValue:
    if name not in parameters:
        raise PermanentError(f"parameter {name!r} is not given", code="invalid_parameters")
    return parameters[name]


def _as_text(value: JsonValue) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _quote(text: str) -> str:
    if not text:
        raise PermanentError("an empty text cannot be part of a URL", code="invalid_parameters")
    return quote(text, safe="")


def _split(url: str, *, needs_path: bool) -> None:
    try:
        parts = urlsplit(url)
        host = parts.hostname
        _ = parts.port  # reading it is what checks it
    except ValueError as error:
        raise TemplateError(f"it is no URL ({error})") from error
    if parts.scheme not in {"http", "https"} or not host:
        raise TemplateError("it must begin with http:// or https:// and a fixed host")
    if parts.username is not None or parts.password is not None:
        raise TemplateError("it must not carry a user or password")
    if "#" in url:
        raise TemplateError("it must not have a fragment")
    if needs_path and not parts.path:
        raise TemplateError("a parameter may stand only in the path or the query")

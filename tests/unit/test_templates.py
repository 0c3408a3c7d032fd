"""Templates in an action's settings."""

from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import JsonValue

from agents.runtime.errors import PermanentError
from agents.runtime.templates import (
    Template,
    TemplateError,
    UrlTemplate,
    parameters_in,
    render_json,
)

SETTINGS = {"playground_url": "http://127.0.0.1:8099"}


def render_url(template: str, **parameters: JsonValue) -> str:
    return UrlTemplate.parse(template).render(parameters, SETTINGS)


def test_fills_in_parameters_and_settings() -> None:
    template = Template.parse("{service} at ${settings.playground_url}")
    assert template.render({"service": "checkout"}, SETTINGS) == "checkout at http://127.0.0.1:8099"


def test_names_the_parameters_it_needs() -> None:
    assert Template.parse("{a}-{b}-{a} {{c}}").parameters == {"a", "b"}


def test_doubled_braces_are_braces() -> None:
    assert Template.parse("{{{a}}}").render({"a": "x"}, SETTINGS) == "{x}"


def test_a_value_is_never_read_as_a_template_again() -> None:
    value = "${settings.playground_url} {b} {{"
    assert Template.parse("{a}").render({"a": value, "b": "no"}, SETTINGS) == value


@pytest.mark.parametrize("text", ["{", "a}", "{a b}", "{A}", "${steps.x.output.y}", "${url}"])
def test_a_malformed_template_says_what_is_allowed(text: str) -> None:
    with pytest.raises(TemplateError, match="write"):
        Template.parse(text)


def test_a_setting_that_is_not_offered_is_refused() -> None:
    with pytest.raises(TemplateError, match=r"database_url.*only playground_url"):
        Template.parse("${settings.database_url}")


def test_a_parameter_that_is_not_given_is_named() -> None:
    with pytest.raises(PermanentError, match="'a' is not given") as caught:
        Template.parse("-{a}-").render({}, SETTINGS)
    assert caught.value.code == "invalid_parameters"


@pytest.mark.parametrize(
    ("value", "text"),
    [(3, "3"), (1.5, "1.5"), (True, "true"), (None, "null"), ([1, "ä"], '[1,"ä"]')],
)
def test_values_stand_in_a_text_in_the_form_of_json(value: JsonValue, text: str) -> None:
    assert Template.parse("<{a}>").render({"a": value}, SETTINGS) == f"<{text}>"


def test_a_text_that_is_one_parameter_keeps_its_type_in_json() -> None:
    body: JsonValue = {
        "replicas": "{n}",
        "list": ["{n}", "n={n}"],
        "flag": True,
        "deep": {"x": "{o}"},
    }
    assert render_json(body, {"n": 3, "o": {"k": [1]}}, SETTINGS) == {
        "replicas": 3,
        "list": [3, "n=3"],
        "flag": True,
        "deep": {"x": {"k": [1]}},
    }
    assert parameters_in(body) == {"n", "o"}


def test_an_optional_parameter_that_is_not_given_is_left_out_of_json() -> None:
    body: JsonValue = {"a": "{a}", "b": "{b}", "c": ["{b}", 1]}
    assert render_json(body, {"a": 1}, SETTINGS) == {"a": 1, "c": [1]}


def test_a_setting_begins_a_url() -> None:
    url = render_url("${settings.playground_url}/services/{s}?v={v}", s="a b", v="1&x=2")
    assert url == "http://127.0.0.1:8099/services/a%20b?v=1%26x%3D2"


@given(st.text(min_size=1).filter(lambda text: text not in {".", ".."}))
def test_a_parameter_stays_one_segment_of_the_path(text: str) -> None:
    assume(not any("\ud800" <= character <= "\udfff" for character in text))
    parts = urlsplit(render_url("http://host/a/{p}/b", p=text))
    assert (parts.netloc, parts.query, parts.fragment) == ("host", "", "")
    assert [unquote(segment) for segment in parts.path.split("/")] == ["", "a", text, "b"]


@pytest.mark.parametrize("value", ["..", "."])
def test_a_parameter_cannot_climb_out_of_its_path(value: str) -> None:
    with pytest.raises(PermanentError, match="segment of dots"):
        render_url("http://host/a/{p}/b", p=value)


def test_two_parameters_cannot_climb_out_together() -> None:
    with pytest.raises(PermanentError, match="segment of dots"):
        render_url("http://host/a/{p}{q}/b", p=".", q=".")


def test_an_empty_parameter_cannot_be_a_segment() -> None:
    with pytest.raises(PermanentError, match="empty"):
        render_url("http://host/a/{p}", p="")


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("/only/a/path", "fixed host"),
        ("ftp://host/", "http"),
        ("{scheme}://host/", "fixed host"),
        ("http://{host}/", "fixed host"),
        ("http://host{p}", "only in the path"),
        ("http://host:{port}/", "only in the path"),
        ("${settings.playground_url}{p}", "only in the path"),
        ("http://me:secret@host/", "user or password"),
        ("http://host/#{p}", "fragment"),
        ("http://host:port/", "no URL"),
        ("http://[::1/", "no URL"),
    ],
)
def test_a_url_template_fixes_its_host(template: str, complaint: str) -> None:
    with pytest.raises(TemplateError, match=complaint):
        UrlTemplate.parse(template)


def test_a_setting_that_is_no_url_is_reported_as_configuration() -> None:
    with pytest.raises(PermanentError, match="fixed host") as caught:
        UrlTemplate.parse("${settings.playground_url}/x").render(
            {}, {"playground_url": "localhost"}
        )
    assert caught.value.code == "configuration"

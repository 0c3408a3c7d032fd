"""Statements with places for parameters that are bound."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agents.executors.sql import SqlSettings
from agents.executors.sql_statement import StatementError, parse_statement


def test_places_become_bound_parameters_and_percents_stay_what_they_are() -> None:
    statement = parse_statement("SELECT {a}, 7 % {b}, '{{1}}'::int[], 'x%' WHERE c = {a}")
    assert statement.query == "SELECT %(a)s, 7 %% %(b)s, '{1}'::int[], 'x%%' WHERE c = %(a)s"
    assert statement.names == {"a", "b"}


@pytest.mark.parametrize(
    "text",
    [
        "SELECT '{a}'",
        "SELECT 'it''s {a}'",
        'SELECT "{a}"',
        "SELECT $${a}$$",
        "SELECT $tag$ {a} $tag$",
        "SELECT E'\\'{a}'",
        "SELECT 1 -- {a}",
        "SELECT 1 /* {a} */",
        "SELECT * FROM t WHERE name LIKE '%{a}%'",
    ],
)
def test_a_place_within_quotes_or_a_comment_is_refused(text: str) -> None:
    with pytest.raises(StatementError, match=r"\{a\} stands within quotes"):
        parse_statement(text)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("SELECT 1; DELETE FROM t", "more than one"),
        ("COMMIT; SELECT 1", "more than one"),
        ("", "no statement"),
        (" ; ", "no statement"),
        ("-- nothing", "no statement"),
        ("SELECT {", "begins or ends nothing"),
        ("SELECT {A}", "begins or ends nothing"),
        ("SELECT ${secret:x}", "begins or ends nothing"),
        ("SELECT ${settings.playground_url}", "begins or ends nothing"),
    ],
)
def test_what_is_no_single_statement_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(StatementError, match=complaint):
        parse_statement(text)


@pytest.mark.parametrize("text", ["SELECT 1;", "SELECT ';'", "SELECT 1 /* a; b */", "SELECT 1;\n"])
def test_a_semicolon_that_separates_nothing_is_allowed(text: str) -> None:
    parse_statement(text)


@given(st.text())
def test_any_text_is_a_statement_or_refused(text: str) -> None:
    with suppress(StatementError):
        parse_statement(text)


CONTEXT = {
    "parameters": ("customer",),
    "outputs": ("total",),
    "connections": {"orders": "postgres", "mail": "smtp"},
}
SOUND = {
    "connection": "orders",
    "statement": "SELECT {customer} AS total, {idempotency_key}",
    "outputs": {"total": "$.rows[0].total"},
}


def test_sound_settings_are_taken() -> None:
    SqlSettings.model_validate(SOUND, context=CONTEXT)


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"connection": "order"}, "did you mean 'orders'"),
        ({"connection": "mail"}, "no connection 'mail' of kind postgres"),
        ({"statement": "SELECT {custmer}"}, "custmer, but the action's parameters are customer"),
        ({"statement": "SELECT '{customer}'"}, "within quotes"),
        ({"outputs": {}}, "reads nothing from the response"),
        ({"outputs": {"total": "$[["}}, "no JSONPath"),
        ({"max_rows": 0}, "max_rows"),
    ],
)
def test_wrong_settings_are_found_before_anything_starts(
    wrong: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        SqlSettings.model_validate(SOUND | wrong, context=CONTEXT)
    assert complaint in str(caught.value)

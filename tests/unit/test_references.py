"""References to earlier outputs: found, refused when malformed, resolved with their JSON type."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from agents.runtime.errors import PermanentError
from agents.runtime.references import Reference, escape, find, malformed, resolve, sole

OUTPUTS: dict[str, dict[str, JsonValue]] = {
    "check": {
        "version": "2.4.1",
        "replicas": 3,
        "healthy": True,
        "previous": None,
        "instances": [{"name": "a-1", "zone": "eu"}, {"name": "a-2", "zone": "us"}],
    }
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_references_are_found_however_deep() -> None:
    value: JsonValue = {
        "text": "runs ${steps.check.output.version} and ${steps.a-b.output.x[2].y}",
        "list": [{"deep": "${steps.check.output.version}"}, 7],
    }
    assert find(value) == {
        Reference("check", ("version",)),
        Reference("a-b", ("x", 2, "y")),
    }


def test_a_reference_reads_as_it_was_written() -> None:
    text = "${steps.list.output.services[0].name}"
    assert {str(reference) for reference in find(text)} == {text}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${steps.check.output.version}", "2.4.1"),
        ("${steps.check.output.replicas}", 3),
        ("${steps.check.output.healthy}", True),
        ("${steps.check.output.previous}", None),
        ("${steps.check.output.instances[1]}", {"name": "a-2", "zone": "us"}),
        ("${steps.check.output.instances[1].zone}", "us"),
    ],
)
def test_a_text_that_is_one_reference_becomes_the_value_with_its_type(
    text: str, expected: JsonValue
) -> None:
    assert resolve(text, OUTPUTS) == expected
    assert type(resolve(text, OUTPUTS)) is type(expected)


def test_within_a_text_values_are_rendered() -> None:
    text = (
        "v${steps.check.output.version} x${steps.check.output.replicas} "
        "${steps.check.output.healthy} ${steps.check.output.instances[0]}"
    )
    assert resolve(text, OUTPUTS) == 'v2.4.1 x3 true {"name": "a-1", "zone": "eu"}'


def test_what_a_reference_yields_is_not_resolved_again() -> None:
    outputs: dict[str, dict[str, JsonValue]] = {"a": {"x": "${steps.a.output.secret}", "secret": 1}}
    assert resolve("${steps.a.output.x}", outputs) == "${steps.a.output.secret}"
    assert resolve("<${steps.a.output.x}>", outputs) == "<${steps.a.output.secret}>"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("${steps.other.output.version}", "step 'other' has put out nothing"),
        ("${steps.check.output.verzion}", "no 'verzion' among 'version'"),
        ("${steps.check.output.instances[2]}", "no item 2 among 2"),
        ("${steps.check.output.version.major}", "no object"),
        ("${steps.check.output.version[0]}", "no array"),
        ("see ${steps.check.output.nope}", "no 'nope'"),
        ("see ${steps.check.version}", "is no reference"),
    ],
)
def test_a_reference_without_a_value_is_refused_and_named(text: str, named: str) -> None:
    with pytest.raises(PermanentError, match="steps") as caught:
        resolve(text, OUTPUTS)
    assert caught.value.code == "unresolved_reference"
    assert named in caught.value.reason


@pytest.mark.parametrize(
    "text",
    [
        "${step.check.output.version}",
        "${steps.check.version}",
        "${steps.check.output}",
        "${steps.Check.output.version}",
        "${steps.check.output.a[x]}",
        "${steps.check.output.a b}",
        "${}",
        "${HOME}",
        "${steps.check.output.version",
    ],
)
def test_what_only_looks_like_a_reference_is_reported(text: str) -> None:
    assert find(text) == set()
    assert malformed({"in": [f"before {text} after"]})


def test_an_escaped_opening_is_text() -> None:
    text = "run $${HOME}/bin and $${steps.check.output.version}"
    assert (find(text), malformed(text)) == (set(), [])
    assert resolve(text, OUTPUTS) == "run ${HOME}/bin and ${steps.check.output.version}"


def test_only_a_text_that_is_nothing_else_is_a_sole_reference() -> None:
    assert sole("${steps.a.output.b}") == Reference("a", ("b",))
    assert sole(" ${steps.a.output.b}") is None
    assert sole(["${steps.a.output.b}"]) is None


@given(st.text(alphabet="${}steps.output.a[0] x", max_size=60) | st.text())
def test_escaped_text_refers_to_nothing_and_comes_back_as_it_was(text: str) -> None:
    assert (find(escape(text)), malformed(escape(text))) == (set(), [])
    assert resolve(escape(text), {}) == text


@given(JSON)
def test_a_value_without_an_opening_is_left_alone(value: JsonValue) -> None:
    if not malformed(value) and not find(value) and "$${" not in repr(value):
        assert resolve(value, {}) == value

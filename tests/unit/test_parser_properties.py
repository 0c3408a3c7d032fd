"""What holds of the intent parser whatever the text."""

import time
from collections.abc import Callable
from typing import Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agents.intent_parser import understand
from agents.parsing.questions import UnclearError
from agents.parsing.words import WORDS
from agents.runtime.catalogue import Catalogue, load_catalogue
from agents.runtime.settings import ROOT
from schemas import ExecutionRequest, IntendedAction, Outcome

CATALOGUE: Final = load_catalogue(ROOT / "actions.yaml")
LONGEST: Final = 10_000


def read(text: str, catalogue: Catalogue = CATALOGUE) -> list[IntendedAction] | str:
    try:
        return understand(text, catalogue)
    except UnclearError as unclear:
        return unclear.question


def names_of(environment: str) -> tuple[str, ...]:
    return (environment, *CATALOGUE.environments[environment].aliases)


SERVICES: Final = tuple(CATALOGUE.names("service"))
ENVIRONMENTS: Final = tuple(CATALOGUE.environments)
VERBS: Final = ("restart", "delete", "roll back", "check", "bounce", "decommission", "reboot")
GERUNDS: Final = ("restarting", "deleting", "rolling back", "checking", "bouncing", "rebooting")
VOCABULARY: Final = sorted(
    {word for words in WORDS.values() for word in words}
    | {phrase.phrase for spec in CATALOGUE.actions.values() for phrase in spec.phrases}
    | {
        label
        for kind in CATALOGUE.kinds()
        for name, aliases in CATALOGUE.names(kind).items()
        for label in (name, *aliases)
    }
    | {",", ".", ";", ":", "?", "(", "'", '"', "\n", "2.4.1", "v3", "5", "#ops", "'done'", "-"}
)
SOUP: Final = st.lists(st.sampled_from(VOCABULARY), max_size=25).map(" ".join)
ORDERS: Final = st.tuples(
    st.sampled_from(VERBS), st.sampled_from(SERVICES), st.sampled_from(ENVIRONMENTS)
)


@given(st.text() | SOUP)
@example("roll" + " " * 300 + "back checkout in dev")
@example("restart checkout in dev " + "'" * 50)
def test_any_text_is_understood_or_asked_about_and_always_in_the_same_way(text: str) -> None:
    first = read(text)
    assert first == read(text)
    if isinstance(first, str):
        # The question fits into the message that carries it.
        Outcome.model_validate(
            {
                "request_id": "00000000-0000-0000-0000-000000000000",
                "status": "needs_clarification",
                "code": "needs_clarification",
                "reason": first,
            }
        )
    else:
        for found in first:
            spec = CATALOGUE.action(found.action)
            assert spec.check_parameters(found.parameters, allow_references=False) == []


@given(SOUP)
@example("in staging, restart checkout")
def test_an_environment_is_always_one_that_the_text_names(text: str) -> None:
    found = read(text)
    if not isinstance(found, str):
        for action in found:
            environment = action.parameters.get("environment")
            if environment is not None:
                assert any(name in text for name in names_of(str(environment)))


@given(
    st.sampled_from(
        [
            "do not {0} {1} in {2}",
            "don't {0} {1} in {2}",
            "please don't {0} {1} in {2}",
            "never {0} {1} in {2}",
            "in {2}, do not {0} {1}",
            "can you not {0} {1} in {2}",
            "you must not {0} {1} in {2}",
            "no need to {0} {1} in {2}",
            "I don't want you to {0} {1} in {2}",
            "tell #ops 'hi' and do not {0} {1} in {2}",
            "tell #ops 'hi', but never {0} {1} in {2}",
            "do not {0} {1} in {2} or tell #ops 'hi'",
            "{0} {1} in {2}. No, don't.",
            "{0} {1} in {2}. Do not {0} {1}.",
            "{0} {1} in {2}; please do not {0} anything",
            "avoid to {0} {1} in {2}",
            "{0} not {1} in {2}",
            "{0} {1} not in {2}",
        ]
    ),
    ORDERS,
)
def test_what_is_negated_is_never_done(form: str, order: tuple[str, str, str]) -> None:
    found = read(form.format(*order))
    assert isinstance(found, str) or {action.action for action in found} == {"notify.send"}


@given(
    st.sampled_from(["without {0} {1}", "instead of {0} {1}", "rather than {0} {1}"]),
    st.sampled_from(GERUNDS),
    ORDERS,
    st.sampled_from(SERVICES),
)
def test_what_is_averted_is_never_done(
    form: str, gerund: str, order: tuple[str, str, str], other: str
) -> None:
    verb, service, environment = order
    found = read(f"{verb} {service} in {environment} {form.format(gerund, other)}")
    if not isinstance(found, str):
        assert [action.parameters["service"] for action in found] == [service]
        allowed = read(f"{verb} {service} in {environment}")
        assert found == allowed


@given(
    ORDERS,
    st.integers(0, 4),
    st.text(alphabet="bdfghjklmnpqrtvwxyz", min_size=3, max_size=12),
)
def test_a_word_that_nobody_knows_stops_an_order(
    order: tuple[str, str, str], position: int, word: str
) -> None:
    verb, service, environment = order
    words = [*verb.split(), service, "in", environment]
    words.insert(min(position, len(words)), word)
    if word not in {part for label in VOCABULARY for part in label.split()}:
        assert isinstance(read(" ".join(words)), str)


@given(ORDERS)
def test_a_plain_order_is_understood(order: tuple[str, str, str]) -> None:
    verb, service, environment = order
    found = read(f"please {verb} the {service} service in {environment}")
    assert not isinstance(found, str)
    assert [action.parameters for action in found] == [
        {"service": service, "environment": environment}
    ]


@pytest.mark.parametrize(
    "piece",
    [
        "restart checkout in staging and ",
        "checkout, ",
        "'a ",
        "tell : ",
        "roll the ",
        "🚀",
        "${",
        "chekout ",
        "do not restart ",
        "a.",
    ],
)
def test_the_longest_text_is_dealt_with(
    piece: str, record_property: Callable[[str, object], None]
) -> None:
    text = (piece * LONGEST)[:LONGEST]
    ExecutionRequest(text=text)
    started = time.perf_counter()
    found = read(text)
    # Reported, not asserted: how long it takes depends on the machine.
    record_property("milliseconds", round((time.perf_counter() - started) * 1000, 1))
    assert isinstance(found, str)
    assert len(found) < 1000

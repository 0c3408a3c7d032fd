"""The intent parser turns plain orders into actions, and asks about everything else."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from ruamel.yaml import YAML

from agents.intent_parser import parse, understand
from agents.parsing.questions import UnclearError
from agents.runtime.catalogue import Catalogue, load_catalogue
from agents.runtime.settings import ROOT
from agents.runtime.testing import fake_context, fake_services, message_with, test_id
from schemas import ExecutionRequest, Intent, Outcome, PlannedStep, Requester

CATALOGUE: Final = load_catalogue(ROOT / "actions.yaml")
PARAPHRASES: Final[dict[str, Any]] = YAML(typ="safe", pure=True).load(
    (Path(__file__).parent / "data" / "paraphrases.yaml").read_text()
)
STATUS: Final = PlannedStep(step_id="look", action="service.status")
Actions = list[tuple[str, dict[str, object]]]


def actions_in(text: str, catalogue: Catalogue = CATALOGUE) -> Actions | None:
    """What the parser makes of ``text``; ``None`` where it asks back."""
    try:
        return [(found.action, dict(found.parameters)) for found in understand(text, catalogue)]
    except UnclearError:
        return None


def question_about(text: str) -> str:
    with pytest.raises(UnclearError) as caught:
        understand(text, CATALOGUE)
    return caught.value.question


def expected(case: dict[str, Any]) -> Actions | None:
    if case.get("abstain"):
        return None
    return [
        (action, {k: str(v) if k == "version" else v for k, v in values.items()})
        for step in case["expect"]
        for action, values in step.items()
    ]


@pytest.mark.parametrize("case", PARAPHRASES["tuning"], ids=lambda case: case["text"])
def test_a_paraphrase_means_what_people_mean(case: dict[str, Any]) -> None:
    assert actions_in(case["text"]) == expected(case)


def test_no_held_out_paraphrase_becomes_a_wrong_action(
    record_property: Callable[[str, object], None],
) -> None:
    cases = PARAPHRASES["held_out"]
    outcomes = {case["text"]: (actions_in(case["text"]), expected(case)) for case in cases}
    right = [text for text, (found, wanted) in outcomes.items() if found == wanted]
    asked = [
        text for text, (found, wanted) in outcomes.items() if found is None and wanted is not None
    ]
    record_property("held_out_right", len(right))
    record_property("held_out_abstained", len(asked))
    assert len(cases) >= 30
    assert set(outcomes) - {*right, *asked} == set()


@pytest.mark.parametrize("text", PARAPHRASES["traps"])
def test_a_trap_becomes_no_action(text: str) -> None:
    assert actions_in(text) is None


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("restart checkout", "In which environment? Production, staging or development."),
        ("restart in staging", "Which service? Checkout, payments,"),
        ("deploy checkout to staging", "Which version? The version to bring in"),
        ("tell 'done'", "Which channel?"),
        ("tell #releases", "What the message says"),
        ("scale checkout to 900 in dev", "must be at most 50, not 900"),
        ("scale checkout 3 in dev", 'say "to 3"'),
        ("restart checkout and delete payments in prod or dev", "leaves a choice with 'or'"),
        ("restart checkout in staging tomorrow", "no conditions or times such as 'tomorrow'"),
        ("don't restart checkout in staging", "only what not to do"),
        ("restart checkout in staging gently", "did not understand 'gently'"),
        ("restart checkout in stаging", "mixes Latin and Cyrillic letters"),
        ("restart checkout in \u202egnigats", "invisible characters"),
        ("deploy checkout and payments 2.4.1 to dev", "hold for checkout and payments alike"),
        ("should we restart checkout in staging?", "rather than an order"),
        ("deploy the previous version of checkout to dev", "service.deploy or service.rollback"),
        ("lunch?", "did not understand 'lunch'"),
        ("hello there", "What I can do: status of, restart, deploy"),
        ("checkout in staging", "does not say what to do with it"),
        ("deploy checkout 2.4.1 from staging", "what 'from' says"),
    ],
)
def test_the_question_names_what_is_missing(text: str, asked: str) -> None:
    assert asked in question_about(text)


def test_an_environment_named_once_holds_for_every_action_that_needs_one() -> None:
    assert actions_in("back up orders, restart checkout and check search in staging") == [
        ("database.backup", {"database": "orders", "environment": "staging"}),
        ("service.restart", {"service": "checkout", "environment": "staging"}),
        ("service.status", {"service": "search", "environment": "staging"}),
    ]


def test_with_two_environments_named_none_is_borrowed() -> None:
    question = question_about("restart checkout in staging, then payments in dev, then check web")
    assert "In which environment?" in question


def test_an_environment_that_opens_a_sentence_holds_for_that_sentence() -> None:
    text = "In staging, restart checkout. In production, restart payments and search."
    assert actions_in(text) == [
        ("service.restart", {"service": "checkout", "environment": "staging"}),
        ("service.restart", {"service": "payments", "environment": "production"}),
        ("service.restart", {"service": "search", "environment": "production"}),
    ]


def test_what_is_negated_apart_from_the_order_is_left_out() -> None:
    for text in (
        "restart checkout in staging, not payments",
        "restart checkout in staging without restarting payments and search",
        "restart checkout in staging but do not restart checkout in production",
        "don't restart payments. restart checkout in staging",
    ):
        assert actions_in(text) == [
            ("service.restart", {"service": "checkout", "environment": "staging"})
        ], text


@pytest.mark.parametrize(
    "text",
    [
        "restart checkout (staging)",
        "Hi! Could you restart checkout in staging? Thanks!",
        "restart checkout in staging because it is slow",
        "checkout in staging: restart",
        "in staging, do a restart of checkout",
        "restart the checkout service\nin staging",
        "restart checkout in staging and let me know when it is done",
        "- restart checkout in staging",
    ],
)
def test_what_changes_nothing_may_stand_around_an_order(text: str) -> None:
    assert actions_in(text) == [
        ("service.restart", {"service": "checkout", "environment": "staging"})
    ]


@pytest.mark.parametrize(
    ("text", "services"),
    [
        ("check checkout in staging and restart it", ["checkout", "checkout"]),
        ("check and restart checkout in staging", ["checkout", "checkout"]),
        ("deploy checkout 2.4.1 and payments 1.9 to dev", ["checkout", "payments"]),
        ("scale checkout and payments to 3 in dev", ["checkout", "payments"]),
        ("deploy checkout 2.4.1 to staging and dev", ["checkout", "checkout"]),
        ("roll checkout back in dev", ["checkout"]),
        ("what's the version of checkout in dev?", ["checkout"]),
    ],
)
def test_things_are_shared_where_it_is_plain_which_is_meant(text: str, services: list[str]) -> None:
    found = actions_in(text)
    assert found is not None
    assert [parameters["service"] for _, parameters in found] == services


def test_a_reason_that_may_be_a_condition_is_a_question_back() -> None:
    question = question_about("restart checkout in staging because it is slow, just kidding")
    assert "only says why" in question


def test_asking_for_an_action_and_against_it_is_a_question_back() -> None:
    assert "both asks for an action" in question_about(
        "restart checkout in staging and do not restart it"
    )


def test_a_message_may_come_without_quotation_marks() -> None:
    for text in ("tell #ops that search is slow", "tell #ops: search is slow"):
        assert actions_in(text) == [("notify.send", {"channel": "#ops", "text": "search is slow"})]


def test_a_message_keeps_its_spelling() -> None:
    assert actions_in("tell #ops “It’s Done – really”") == [
        ("notify.send", {"channel": "#ops", "text": "It’s Done – really"})
    ]


def test_a_message_is_never_read_as_an_order_nor_as_a_reference() -> None:
    text = "tell #ops 'delete checkout in production ${steps.a.output.b}'"
    assert actions_in(text) == [
        (
            "notify.send",
            {"channel": "#ops", "text": "delete checkout in production $${steps.a.output.b}"},
        )
    ]


def test_a_read_that_a_message_carries_comes_before_the_message() -> None:
    found = actions_in("tell #ops which version of checkout runs in dev, then restart payments")
    assert found is not None
    assert [action for action, _ in found] == [
        "service.status",
        "notify.send",
        "service.restart",
    ]


def test_evidence_and_confidence_say_how_sure_the_reading_is() -> None:
    (exact,) = understand("please restart checkout in staging", CATALOGUE)
    (misspelt,) = understand("please restart chekout in staging", CATALOGUE)
    assert exact.evidence == ("restart",)
    assert exact.confidence == 1.0
    assert 0.84 <= misspelt.confidence < 1.0
    assert misspelt.parameters == exact.parameters


def test_more_than_twenty_actions_are_a_plan_not_a_text() -> None:
    text = "; ".join(["check checkout in staging"] * 21)
    assert "send a plan" in question_about(text)


async def test_the_role_emits_an_intent_with_its_request() -> None:
    request = ExecutionRequest(
        text="restart checkout\n in staging", requester=Requester(user="ada")
    )
    intent = await parse(request, fake_context(request))
    assert isinstance(intent, Intent)
    assert (intent.title, intent.requester) == ("restart checkout in staging", "ada")
    assert (intent.parser, intent.request_id) == ("rules", test_id("message"))
    assert [found.action for found in intent.actions] == ["service.restart"]


async def test_the_role_ends_an_unclear_request_with_a_question() -> None:
    request = ExecutionRequest(text="restart checkout", requester=Requester(user="ada"))
    outcome = await parse(request, fake_context(request))
    assert isinstance(outcome, Outcome)
    assert (outcome.status, outcome.code) == ("needs_clarification", "needs_clarification")
    assert "In which environment?" in outcome.reason
    assert (outcome.title, outcome.requester) == ("restart checkout", "ada")


async def test_a_ready_made_plan_is_passed_on_as_it_is() -> None:
    steps = (
        PlannedStep(step_id="check", action="service.status"),
        PlannedStep(step_id="tell", action="notify.send", depends_on=("check",)),
    )
    for text, title in ((None, "service.status, then notify.send"), ("delete it", "delete it")):
        request = ExecutionRequest(text=text, plan=steps)
        intent = await parse(request, fake_context(request))
        assert isinstance(intent, Intent)
        assert (intent.parser, intent.steps, intent.actions) == ("plan", steps, ())
        assert intent.title == title


@pytest.mark.parametrize("body", [{"text": "status of web in staging"}, {"plan": [STATUS]}])
async def test_the_requesters_groups_are_passed_on(body: dict[str, Any]) -> None:
    requester = Requester(user="ada", groups=("sre", "web"))
    request = ExecutionRequest(**body, requester=requester)
    intent = await parse(request, fake_context(request))
    assert isinstance(intent, Intent)
    assert (intent.requester, intent.groups) == ("ada", ("sre", "web"))


async def test_a_long_text_becomes_a_short_title() -> None:
    request = ExecutionRequest(text="restart checkout in staging " + "please " * 1000)
    services = fake_services(catalogue=CATALOGUE)
    context = fake_context(request, services=services, message=message_with(request))
    intent = await parse(request, context)
    assert isinstance(intent, Intent)
    assert len(intent.title) == 200

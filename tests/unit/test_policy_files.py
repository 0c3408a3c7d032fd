"""Policy files: every mistake is named with its place, and none is half in force."""

from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from support.policies import FOLDER, PERMIT, SHIPPED, judge_by

from agents.policies import declared_schema, load_policies, schema_of
from agents.policies.policy import passages_of
from agents.runtime.catalogue import Catalogue
from agents.runtime.declarations import DeclarationError
from agents.runtime.errors import ConfigurationError

REPLICAS = "context.parameters.replicas"
FORBID = '@id("a.b") @reason("r") @remedy("m")\nforbid (principal, action, resource)'


def problems(text: str) -> list[str]:
    with pytest.raises(DeclarationError) as caught:
        judge_by(text)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("permit(principal, action, resource) when { };", "cannot be read: "),
        ("permit(principal, action, resource)", "cannot be read: "),
        (";", "cannot be read: "),
        ('@id("a") permit(principal in Team::"x", action, resource);', "entity type `Team`"),
        ('@id("a") permit(principal, action == Action::"x.y", resource);', '`Action::"x.y"`'),
        (
            '@id("a") permit(principal, action, resource in Environment::"prod");',
            '"prod"` is not declared',
        ),
        (f"{FORBID} when {{ context.hour > 3 }};", "attribute `hour`"),
        (f"{FORBID} when {{ context.risk > 3 }};", "expected Long but saw String"),
        (
            f'{FORBID} when {{ action == Action::"service.scale" && {REPLICAS} > 3 }};',
            "optional attribute `parameters.replicas`",
        ),
        ('@id("a") permit(principal == ?principal, action, resource);', "slot such as ?principal"),
        ("permit(principal, action, resource);", "@id is ''"),
        ('@id("No Spaces") permit(principal, action, resource);', "@id is 'No Spaces'"),
        (PERMIT + PERMIT, "its @id is that of p.cedar:1"),
        ('@id("no-permit") permit(principal, action, resource);', "that of Millstream itself"),
        ('@id("a") @reson("x") permit(principal, action, resource);', "did you mean 'reason'?"),
        ('@id("a") @remedy("m") forbid(principal, action, resource);', "without a reason"),
        ('@id("a") @reason("r") forbid(principal, action, resource);', "what would make a plan"),
        ('@id("a") @approvals("1") permit(principal, action, resource);', "no @approvals"),
        (f'@approvals("0") {FORBID};', "@approvals is '0'"),
        (f'@approvals("two") {FORBID};', "@approvals is 'two'"),
        (f'@approvals("²") {FORBID};', "@approvals is '²'"),
        (f'@approver_groups("sre") {FORBID};', "@approver_groups without @approvals"),
        (f'@approvals("1") @approver_groups("sre,") {FORBID};', "@approver_groups is 'sre,'"),
        (f'@approvals("1") @approvals_expire("soon") {FORBID};', "@approvals_expire is 'soon'"),
        (f'@approvals("1") @approvals_expire("0s") {FORBID};', "@approvals_expire is '0s'"),
        (FORBID.replace('"r"', '"{who} may not"') + ";", "@reason names {who}"),
        ("// nothing but a comment; really\n", "it holds no policies"),
    ],
)
def test_a_mistake_is_named(text: str, said: str) -> None:
    found = problems(text)
    assert len(found) == 1, found
    assert said in found[0]


def test_a_problem_stands_on_the_line_where_its_policy_begins() -> None:
    text = f"{PERMIT}\n// a comment; with a semicolon\n{FORBID}\nwhen {{ context.hour > 3 }};\n"
    assert problems(text)[0].startswith("p.cedar:4: at a.b: ")


def test_all_problems_are_named_at_once() -> None:
    text = "permit(principal, action, resource);\n\nforbid(principal, action, resource);\n"
    found = problems(text)
    assert [each.split(": ")[0] for each in found] == [
        "p.cedar:1",
        "p.cedar:3",
        "p.cedar:3",
        "p.cedar:3",
    ]


def test_a_semicolon_in_a_text_or_a_comment_ends_no_policy() -> None:
    text = '@reason("a; \\"b; //c") permit(\n principal, // why; not\n action, resource);\n forbid;'
    assert [(each.line, each.text[:9]) for each in passages_of("p", text)] == [
        (1, '@reason("'),
        (4, "forbid;"),
    ]


def test_a_folder_without_policies_is_none(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no policy")
    with pytest.raises(DeclarationError, match="holds no policies"):
        load_policies(tmp_path, schema_of(SHIPPED), ZoneInfo("UTC"))


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DeclarationError, match=r"gone:1: .*No such file"):
        load_policies(tmp_path / "gone", schema_of(SHIPPED), ZoneInfo("UTC"))


def test_a_file_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.cedar").write_bytes(b"\xff")
    (tmp_path / "b.cedar").write_text(PERMIT)
    with pytest.raises(DeclarationError, match=r"a\.cedar:1"):
        load_policies(tmp_path, schema_of(SHIPPED), ZoneInfo("UTC"))


def test_the_digest_tells_policies_time_zones_and_catalogues_apart() -> None:
    fewer = SHIPPED.model_copy(update={"entities": {}})
    digests = [
        judge_by(PERMIT).policies.digest,
        judge_by(PERMIT + "\n").policies.digest,
        judge_by(PERMIT, zone="Europe/Zurich").policies.digest,
        judge_by(PERMIT, catalogue=_without_services(fewer)).policies.digest,
    ]
    assert len(set(digests)) == 4
    assert judge_by(PERMIT).policies.digest == digests[0]


def _without_services(catalogue: Catalogue) -> Catalogue:
    actions = {"notify.send": catalogue.actions["notify.send"]}
    return catalogue.model_copy(update={"actions": actions})


def test_a_kind_of_entity_that_policies_need_for_themselves_is_refused() -> None:
    catalogue = SHIPPED.model_copy(update={"entities": {"tenant": {"acme": ()}}})
    with pytest.raises(ConfigurationError, match="'tenant'"):
        schema_of(catalogue)


def test_two_kinds_that_policies_cannot_tell_apart_are_refused() -> None:
    catalogue = SHIPPED.model_copy(update={"entities": {"a_b": {}, "aB": {}, "a__b": {}}})
    with pytest.raises(ConfigurationError, match="'a__b'"):
        declared_schema(catalogue)


def test_the_shipped_policies_do_for_a_catalogue_that_only_reads() -> None:
    reads = {key: each for key, each in SHIPPED.actions.items() if each.effect == "read"}
    schema = schema_of(SHIPPED.model_copy(update={"actions": reads}))
    assert len(load_policies(FOLDER, schema, ZoneInfo("UTC")).policies) == 10


def test_a_policy_that_could_never_speak_is_a_mistake() -> None:
    (problem,) = problems('@id("a") permit(principal in Service::"web", action, resource);')
    assert "unable to find an applicable action" in problem

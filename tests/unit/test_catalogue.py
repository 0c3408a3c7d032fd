"""actions.yaml: what it may say, what it says of an action's parameters, and its JSON Schema."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import jsonschema
import pytest
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationInfo, model_validator

from agents.executors import SETTINGS_MODELS
from agents.runtime.catalogue import (
    ActionSpec,
    Catalogue,
    Phrase,
    UnknownActionError,
    catalogue_schema,
    load_catalogue,
)
from agents.runtime.catalogue.checks import Executors
from agents.runtime.declarations import DeclarationError
from agents.runtime.declarations.source import read_yaml
from schemas import RetryPolicy
from schemas.export import render

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "actions.yaml"

HEAD = """\
environments:
  production: {aliases: [prod], max_risk: medium}
  staging: {max_risk: high}
entities:
  service: {checkout: [cart], web: []}
actions:
"""
#: What an action needs, so that a test writes only what it is about.
BASE = "description: d, executor: echo, effect: read, risk: low"


class EchoSettings(BaseModel):
    """An executor's settings that know what the action declares."""

    model_config = ConfigDict(extra="forbid")

    says: str = "{word}"

    @model_validator(mode="after")
    def _says_a_parameter(self, info: ValidationInfo) -> Self:
        if self.says.strip("{}") not in (*(info.context or {})["parameters"], "word"):
            raise ValueError(f"{self.says} names no parameter")
        return self


Load = Callable[..., Catalogue]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    monkeypatch.chdir(tmp_path)

    def load_text(text: str, executors: Executors | None = None) -> Catalogue:
        Path("actions.yaml").write_text(text, encoding="utf-8")
        return load_catalogue(Path("actions.yaml"), executors)

    return load_text


@pytest.fixture(scope="module")
def shipped() -> Catalogue:
    return load_catalogue(SHIPPED, SETTINGS_MODELS)


def problems(load: Load, *entries: str, executors: Executors | None = None) -> Sequence[str]:
    with pytest.raises(DeclarationError) as caught:
        load(HEAD + "".join(f"  {entry}\n" for entry in entries), executors)
    return [
        str(problem).removeprefix(f"actions.yaml:{problem.line}: at ")
        for problem in caught.value.problems
    ]


def action_with(load: Load, parameters: str) -> ActionSpec:
    return load(HEAD + f"  x.y: {{{BASE}, parameters: {{{parameters}}}}}\n").action("x.y")


def test_the_shipped_catalogue_is_sound_for_the_shipped_executors(shipped: Catalogue) -> None:
    assert set(shipped.actions) == {
        *("service.status", "service.restart", "service.deploy", "service.rollback"),
        *("service.scale", "service.delete", "database.backup"),
        *("versions.compare", "notify.send"),
    }


def test_deleting_a_service_is_beyond_what_production_allows(shipped: Catalogue) -> None:
    delete = shipped.action("service.delete")
    assert not shipped.environments["production"].allows(delete.risk)
    assert shipped.environments["staging"].allows(delete.risk)


def test_an_action_reads_as_declared(load: Load) -> None:
    catalogue = load(
        HEAD
        + """\
  service.restart:
    description: Restarts it.
    phrases: [restart, {phrase: bounce, weight: 0.5}]
    evidence: {service: 0.5, version: -1}
    parameters:
      service: {description: Which., entity: service}
    executor: http
    with: {url: x}
    effect: effect
    risk: medium
    cost: {api_calls: 0.0001, llm_tokens: "0.25"}
    retry: {max_attempts: 5, initial_delay: 500ms}
    timeout: 1m
    needs_approval: true
    allowed_tenants: [acme]
    outputs: {version: {description: What runs.}}
"""
    )
    action = catalogue.action("service.restart")
    assert action.phrases == (Phrase(phrase="restart"), Phrase(phrase="bounce", weight=0.5))
    assert action.parameters["service"].required
    assert action.parameters["service"].choices == ("checkout", "web")
    assert action.settings == {"url": "x"}
    assert str(action.cost.total) == "0.2501"
    assert action.retry == RetryPolicy(max_attempts=5, initial_delay=0.5)
    assert action.timeout == 60.0
    assert action.needs_approval
    assert action.allowed_tenants == ("acme",)
    assert action.outputs["version"].type == "string"
    assert action.source == "actions.yaml:7"


def test_names_come_with_their_aliases_and_environments_are_a_kind_of_their_own(
    load: Load,
) -> None:
    catalogue = load(HEAD + f"  x.y: {{{BASE}}}\n")
    assert catalogue.kinds() == ("environment", "service")
    assert catalogue.names("environment") == {"production": ("prod",), "staging": ()}
    assert catalogue.names("service") == {"checkout": ("cart",), "web": ()}
    assert catalogue.names("planet") == {}


def test_an_unknown_action_is_an_error_that_names_a_near_one(shipped: Catalogue) -> None:
    with pytest.raises(UnknownActionError, match=r"did you mean 'service\.restart'\?") as caught:
        shipped.action("service.restrat")
    assert caught.value.code == "unknown_action"


def test_all_mistakes_of_a_file_are_named_with_their_lines(load: Load) -> None:
    text = f"""\
environments:
  production: {{aliases: [prod], max_risk: hgh}}
entities:
  service: {{checkout: [cart], web: [Cart]}}
  environment: {{mars: []}}
actions:
  service.Restart: {{{BASE}}}
  service.deploy:
    description: Deploys.
    executor: echo
    effect: write
    risk: low
    timeout: 5
    retry: {{initial_delay: 1, max_attempts: 0}}
    cost: {{api_calls: -1}}
  service.scale:
    {BASE.replace(", ", chr(10) + "    ")}
    phrases: [{{phrase: scale, weight: 0}}, 7]
"""
    with pytest.raises(DeclarationError) as caught:
        load(text, {"echo": EchoSettings})
    assert [(problem.line, problem.path) for problem in caught.value.problems] == [
        (2, "environments.production.max_risk"),
        (4, "entities.service.web[0]"),
        (5, "entities.environment"),
        (7, 'actions."service.Restart"'),
        (11, 'actions."service.deploy".effect'),
        (13, 'actions."service.deploy".timeout'),
        (14, 'actions."service.deploy".retry.max_attempts'),
        (14, 'actions."service.deploy".retry.initial_delay'),
        (15, 'actions."service.deploy".cost.api_calls'),
        (21, 'actions."service.scale".phrases[1]'),
    ]


@pytest.mark.parametrize(
    ("parameter", "problem"),
    [
        ("entity: servce", "entity: unknown entity 'servce'; expected one of environment, service"),
        ("type: integer, entity: service", "entity: a parameter of type integer has no entity"),
        ("entity: service, choices: [web]", "choices: the entity already says which"),
        ("entity: service, default: wbe", "default: unknown service 'wbe'"),
        ("default: 3", "default: the default must be a string, not 3"),
        ("required: true, default: x", "required: a required parameter has a default"),
        ("pattern: '['", "pattern: it is malformed: unterminated character set"),
        ("type: number, pattern: x", "pattern: a parameter of type number has no pattern"),
        ("minimum: 3", "minimum: a parameter of type string has no minimum"),
        ("type: integer, minimum: 3, maximum: 2", "minimum: 3 is above the maximum"),
        ("type: integer, choices: [1, two]", "choices[1]: the choice must be an integer"),
        ("from_text: qouted", "from_text: 'qouted' is not allowed"),
    ],
)
def test_a_parameter_that_makes_no_sense_is_explained(
    load: Load, parameter: str, problem: str
) -> None:
    entry = f"x.y: {{{BASE}, parameters: {{p: {{description: d, {parameter}}}}}}}"
    (found,) = problems(load, entry)
    assert found.startswith(f'actions."x.y".parameters.p.{problem}')


def test_names_of_other_sections_must_be_declared(load: Load) -> None:
    environment = "parameters: {e: {description: d, entity: environment}}"
    assert problems(
        load,
        f"a.a: {{{BASE}, evidence: {{servic: 1}}}}",
        f"a.b: {{{BASE}, allowed_environments: [prodction], {environment}}}",
        f"a.c: {{{BASE}, allowed_environments: [staging]}}",
    ) == [
        (
            "actions.\"a.a\".evidence.servic: unknown slot 'servic'; expected one of environment, "
            "service, quoted, version, number, url, channel (did you mean 'service'?)"
        ),
        (
            "actions.\"a.b\".allowed_environments[0]: unknown environment 'prodction'; "
            "expected one of production, staging (did you mean 'production'?)"
        ),
        (
            'actions."a.c".allowed_environments: no parameter says in which environment the action '
            "runs; expected a parameter with `entity: environment`"
        ),
    ]


def test_what_only_reads_is_not_destructive(load: Load) -> None:
    assert problems(load, f"a.a: {{{BASE}, destructive: true}}") == [
        (
            'actions."a.a".destructive: an action that only reads destroys nothing; '
            "expected another effect"
        )
    ]


def test_settings_are_checked_by_their_executor_which_knows_the_parameters(load: Load) -> None:
    parameters = "parameters: {name: {description: d}}"
    assert problems(
        load,
        f"a.a: {{{BASE}, with: {{sais: x}}}}",
        f"a.b: {{{BASE}, with: {{says: '{{name}}'}}, {parameters}}}",
        f"a.c: {{{BASE}, with: {{says: '{{nmae}}'}}, {parameters}}}",
        f"a.d: {{{BASE.replace('echo', 'ecko')}}}",
        executors={"echo": EchoSettings},
    ) == [
        ("actions.\"a.a\".with.sais: unknown field; expected one of says (did you mean 'says'?)"),
        'actions."a.c".with: {nmae} names no parameter; expected a value that fits',
        (
            "actions.\"a.d\".executor: unknown executor 'ecko'; expected one of echo "
            "(did you mean 'echo'?)"
        ),
    ]


def test_a_sound_set_of_parameters_has_no_problems(shipped: Catalogue) -> None:
    deploy = shipped.action("service.deploy")
    values: dict[str, JsonValue] = {"service": "checkout", "environment": "staging"}
    assert deploy.check_parameters({**values, "version": "2.4.1"}) == []
    assert deploy.check_parameters({**values, "version": "v3.0.0-rc.1"}) == []


def test_all_problems_of_a_set_of_parameters_are_named(shipped: Catalogue) -> None:
    found = shipped.action("service.scale").check_parameters(
        {"service": "chekout", "replicas": 51, "replica": 1}
    )
    assert found == [
        "parameter 'environment' is missing: The environment, which is never guessed.",
        (
            "parameter 'service' must be one of checkout, payments, search, inventory, web, "
            "not 'chekout' (did you mean 'checkout'?)"
        ),
        "parameter 'replicas' must be at most 50, not 51",
        "service.scale has no parameter 'replica' (did you mean 'replicas'?)",
    ]


@pytest.mark.parametrize(
    ("parameter", "value", "problem"),
    [
        ("type: integer", 1, None),
        ("type: integer", 1.5, "must be an integer, not 1.5"),
        ("type: integer", True, "must be an integer, not true"),
        ("type: number", 1, None),
        ("type: number", "1", "must be a number, not '1'"),
        ("type: boolean", False, None),
        ("type: boolean", 0, "must be a boolean, not 0"),
        ("type: object", {"a": [1]}, None),
        ("type: object", [], "must be an object, not a list"),
        ("type: array", [], None),
        ("type: array", None, "must be an array, not nothing"),
        ("pattern: '[a-z]+'", "abc", None),
        ("pattern: '[a-z]+'", "abc1", "must match [a-z]+, not 'abc1'"),
        ("max_length: 3", "abcd", "must have at most 3 characters, not 4"),
        ("type: number, minimum: 0.5", 0.4, "must be at least 0.5, not 0.4"),
        ("choices: [a, b]", "c", "must be one of a, b, not 'c'"),
        ("entity: service", "cart", "must be one of checkout, web, not 'cart'"),
    ],
)
def test_a_value_is_held_against_its_declaration(
    load: Load, parameter: str, value: JsonValue, problem: str | None
) -> None:
    action = action_with(load, f"p: {{description: d, {parameter}}}")
    expected = [] if problem is None else [f"parameter 'p' {problem}"]
    assert action.check_parameters({"p": value}) == expected


@pytest.mark.parametrize(
    "value", ["${steps.a.output.n}", "v${steps.a.output.n}", ["${steps.a.output.n}"]]
)
def test_a_reference_passes_until_it_is_resolved(load: Load, value: JsonValue) -> None:
    action = action_with(load, "p: {description: d, type: integer}")
    assert action.check_parameters({"p": value}) == []
    assert len(action.check_parameters({"p": value}, allow_references=False)) == 1


def test_a_text_that_only_looks_like_a_reference_is_checked(load: Load) -> None:
    action = action_with(load, "p: {description: d, type: integer}")
    assert len(action.check_parameters({"p": "$${steps.a.output.n}"})) == 1


def test_a_parameter_with_a_default_may_be_left_out(load: Load) -> None:
    action = action_with(
        load, "p: {description: d, default: x}, q: {description: d, required: false}"
    )
    assert action.check_parameters({}) == []
    assert action.complete({}) == {"p": "x"}
    assert action.complete({"p": "y", "q": "z"}) == {"p": "y", "q": "z"}


def test_a_catalogue_survives_being_written_and_read(shipped: Catalogue) -> None:
    assert Catalogue.model_validate(shipped.model_dump()) == shipped


def test_the_committed_json_schema_is_that_of_the_models() -> None:
    committed = (ROOT / "schemas/json/actions.schema.json").read_text(encoding="utf-8")
    assert committed == render(catalogue_schema()), (
        "write it with `millstream actions schema > schemas/json/actions.schema.json`"
    )


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = json.loads((ROOT / "schemas/json/actions.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_shipped_catalogue_fits_the_json_schema(
    validator: jsonschema.Draft202012Validator,
) -> None:
    instance: Any = read_yaml(SHIPPED.read_text(encoding="utf-8")).value
    assert [error.message for error in validator.iter_errors(instance)] == []


@pytest.mark.parametrize(
    "entry",
    [
        f"Restart: {{{BASE}}}",
        f"x.y: {{{BASE}, phrazes: []}}",
        f"x.y: {{{BASE}, timeout: 30}}",
        f"x.y: {{{BASE}, retry: {{initial_delay: 1}}}}",
        f"x.y: {{{BASE}, phrases: [7]}}",
        f"x.y: {{{BASE}, parameters: {{P: {{description: d}}}}}}",
        f"x.y: {{{BASE}, parameters: {{p: {{description: d, type: text}}}}}}",
        "x.y: {description: d}",
    ],
)
def test_the_json_schema_flags_what_the_loader_refuses(
    validator: jsonschema.Draft202012Validator, load: Load, entry: str
) -> None:
    text = f"{HEAD}  {entry}\n"
    instance: Any = read_yaml(text).value
    assert not validator.is_valid(instance)
    with pytest.raises(DeclarationError):
        load(text)

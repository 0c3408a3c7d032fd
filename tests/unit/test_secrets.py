"""Secrets: named in the catalogue and in plans, revealed in the executor, struck out elsewhere."""

import json
import logging
import secrets as randomness
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict
from support.clocks import RecordingClock
from support.steps import Rig, action

from agents.planning.checking import find_problems
from agents.runtime import references
from agents.runtime.catalogue import Catalogue, ParameterSpec
from agents.runtime.errors import NotSentError, PermanentError
from agents.runtime.execution import Job, executor
from agents.runtime.outcomes import sayable
from agents.runtime.revealed import KNOWN, REDACTED, Redactor
from agents.runtime.secrets import (
    EnvironmentSecrets,
    FileSecrets,
    NoSecretError,
    Secrets,
    open_secrets,
    secrets_in,
)
from agents.runtime.settings import Settings, load_settings
from agents.runtime.telemetry import configure_logging
from agents.runtime.templates import Template, UrlTemplate
from schemas import JsonObject, PlannedStep, StepResult


def fresh(prefix: str = "s3cret/ä \"'") -> str:
    """A secret that nothing has learnt yet."""
    return prefix + randomness.token_hex(8)


# --- where they come from


async def test_a_secret_comes_from_the_environment() -> None:
    secrets = open_secrets(Settings(), {"MILLSTREAM_SECRET_API_KEY": "from the environment"})
    assert await secrets.reveal(["api_key"]) == {"api_key": "from the environment"}


async def test_a_file_goes_before_the_environment_and_its_last_line_end_does_not_count(
    tmp_path: Path,
) -> None:
    (tmp_path / "api_key").write_text("from a file\n")
    variables = {"MILLSTREAM_SECRET_API_KEY": "no", "MILLSTREAM_SECRET_OTHER": "from a variable"}
    secrets = open_secrets(Settings(secrets_dir=tmp_path), variables)
    assert await secrets.reveal(["api_key", "other"]) == {
        "api_key": "from a file",
        "other": "from a variable",
    }


async def test_a_changed_secret_is_seen_at_once(tmp_path: Path) -> None:
    secrets = open_secrets(Settings(secrets_dir=tmp_path), {})
    (tmp_path / "api_key").write_text("first value")
    assert await secrets.reveal(["api_key"]) == {"api_key": "first value"}
    (tmp_path / "api_key").write_text("second value")
    assert await secrets.reveal(["api_key"]) == {"api_key": "second value"}


async def test_a_missing_secret_is_named_with_where_to_put_it() -> None:
    with pytest.raises(NoSecretError, match="MILLSTREAM_SECRET_API_KEY") as caught:
        await open_secrets(Settings(), {}).reveal(["api_key"])
    assert caught.value.code == "configuration"


async def test_a_secret_too_short_to_be_struck_out_is_refused() -> None:
    with pytest.raises(NoSecretError, match="fewer than 6") as caught:
        await Secrets([EnvironmentSecrets({"MILLSTREAM_SECRET_PIN": "1234"})]).reveal(["pin"])
    assert "1234" not in str(caught.value)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"x" * 70_000])
async def test_a_file_that_holds_no_text_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "api_key").write_bytes(content)
    with pytest.raises(NoSecretError, match="'api_key'"):
        await FileSecrets(tmp_path).fetch("api_key")


@pytest.mark.parametrize("name", ["../passwd", "/etc/passwd", "a/b", "", ".", "A"])
async def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "passwd").write_text("not for you")
    with pytest.raises(NoSecretError):
        await FileSecrets(tmp_path / "inside").fetch(name)


def test_variables_of_secrets_are_no_settings() -> None:
    load_settings({"MILLSTREAM_SECRET_ANYTHING": "x"})


async def test_a_place_that_does_not_answer_is_said_and_not_taken_for_empty() -> None:
    class Vault:
        async def fetch(self, name: str) -> str | None:
            raise NotSentError(f"the vault does not answer, asked for {name}")

    fallback = EnvironmentSecrets({"MILLSTREAM_SECRET_API_KEY": "an old value"})
    with pytest.raises(NotSentError, match="the vault"):
        await Secrets([Vault(), fallback]).reveal(["api_key"])


# --- where they may be named


def test_templates_name_secrets() -> None:
    template = Template.parse("Bearer ${secret:api_key} for {user}")
    values = {"secret:api_key": "k"}
    assert template.render({"user": "${secret:api_key}"}, values) == (
        "Bearer k for ${secret:api_key}"
    )
    assert template.parameters == {"user"}
    UrlTemplate.parse("${secret:webhook}")
    assert secrets_in({"a": ["${secret:x}", "{secret:y}", {"b": "-${secret:z}-"}]}) == {"x", "z"}


@pytest.mark.parametrize(
    ("value", "is_allowed"),
    [
        ("${secret:api_key}", True),
        ("${secret:database}", False),
        ("Bearer ${secret:api_key}", False),
        ("hunter2hunter2", False),
        (["${secret:api_key}"], False),
        (None, False),
    ],
)
def test_a_parameter_takes_only_the_names_of_secrets_that_it_may_have(
    value: Any, is_allowed: bool
) -> None:
    spec = ParameterSpec(description="A key.", secrets=("api_key",))
    problem = spec.check(value)
    assert (problem is None) is is_allowed
    assert "hunter2" not in (problem or "")


@pytest.mark.parametrize(
    "value",
    ["${secret:api_key}", "x ${secret:api_key}", ["${secret:api_key}"], {"a": ["${secret:a}"]}],
)
def test_a_plan_that_names_a_secret_where_it_must_not_is_refused(value: Any) -> None:
    spec = action(parameters={"any": {"type": type_of(value), "description": "A parameter."}})
    catalogue = Catalogue(environments={}, entities={}, actions={spec.id: spec}, source="x")
    step = PlannedStep(step_id="only", action=spec.id, parameters={"any": value})
    assert [problem.step_id for problem in find_problems([step], catalogue)] == ["only"]


def type_of(value: Any) -> str:
    return {str: "string", list: "array", dict: "object"}[type(value)]


def test_the_router_passes_the_name_of_a_secret_on() -> None:
    assert references.resolve({"a": "${secret:x}"}, {}) == {"a": "${secret:x}"}
    with pytest.raises(PermanentError):
        references.resolve({"a": "key ${secret:x}"}, {})


# --- what becomes of them in an executor


class Anything(BaseModel):
    """An action's ``with`` that may hold anything."""

    model_config = ConfigDict(extra="allow")


def echo(seen: list[JsonObject], *, fails: bool = False) -> Any:
    """An executor whose other side gives back all that it was told."""

    @executor("test", settings=Anything)
    async def act(job: Job[Any], _: None) -> JsonObject:
        seen.append(job.parameters)
        text = str(job.parameters["key"])
        if fails:
            raise PermanentError(f"refused {text} and {quote(text, safe='')}, {text!r}")
        return {"said": f"got {text}", "json": [json.dumps(text)], text: 1}

    return act


async def run(act: Any, secret: str, parameters: JsonObject | None = None) -> StepResult:
    spec = action(
        parameters={
            "key": {"description": "A key.", "secrets": ["api_key"]},
            "text": {"description": "A text.", "required": False},
        }
    )
    rig = Rig((spec,), clock=RecordingClock(), secrets={"api_key": secret, "other": fresh()})
    assignment = await rig.approved(parameters or {"key": "${secret:api_key}"})
    async with rig.hosted(act) as handler:
        return await assignment.run(handler)


async def test_an_executor_gets_the_value_and_nobody_else_does() -> None:
    secret, seen = fresh(), list[JsonObject]()
    result = await run(echo(seen), secret)
    assert seen == [{"key": secret}]
    assert secret not in result.model_dump_json()
    assert json.dumps(secret)[1:-1] not in result.model_dump_json()
    assert result.output["said"] == f"got {REDACTED}"
    assert result.output[REDACTED] == 1


async def test_an_error_says_no_secret_in_any_form() -> None:
    secret = fresh()
    result = await run(echo([], fails=True), secret)
    assert result.failure is not None
    assert result.failure.reason == f"refused {REDACTED} and {REDACTED}, '{REDACTED}'"


async def test_a_secret_that_is_nowhere_fails_the_step_without_an_effect() -> None:
    seen: list[JsonObject] = []
    result = await run(echo(seen), "tiny")
    assert result.failure is not None
    assert (result.status, result.failure.code) == ("failed", "configuration")
    assert seen == []


@pytest.mark.parametrize("value", ["${secret:other}", "plain text", "${secret:api_key} "])
async def test_an_executor_refuses_any_other_value_of_such_a_parameter(value: str) -> None:
    seen: list[JsonObject] = []
    result = await run(echo(seen), fresh(), {"key": value})
    assert result.failure is not None
    assert (result.failure.code, seen) == ("invalid_parameters", [])


async def test_a_text_that_looks_like_a_secret_is_refused_where_it_came_from_elsewhere() -> None:
    seen: list[JsonObject] = []
    parameters: JsonObject = {"key": "${secret:api_key}", "text": "${secret:other}"}
    result = await run(echo(seen), fresh(), parameters)
    assert result.failure is not None
    assert (result.failure.code, seen) == ("invalid_parameters", [])


async def test_what_is_missing_is_said_when_a_process_starts() -> None:
    spec = action(settings={"url": "${secret:nowhere}"})
    act = echo([])
    with structlog.testing.capture_logs() as lines:
        async with Rig((spec,)).hosted(act):
            pass
    (line,) = lines
    assert (line["event"], line["actions"]) == ("secret_missing", ["test.act"])


# --- striking out


SECRETS = st.text(min_size=6, max_size=40)


@given(SECRETS, st.text(max_size=20))
def test_no_way_of_writing_a_learnt_value_is_left(value: str, before: str) -> None:
    redactor = Redactor()
    redactor.learn(value)
    for form in (value, json.dumps(value)[1:-1], repr(value)[1:-1]):
        assert form not in redactor.text(f"{before}{form}") or form in REDACTED


def test_the_parts_of_a_secret_address_are_struck_out_too() -> None:
    redactor = Redactor()
    redactor.learn("https://hooks.example.com/services/T000/B000/abcdef?token=0123456789abcdef")
    redactor.learn("postgresql://me:p%40ssword@db.example.com/orders")
    text = "POST /services/T000/B000/abcdef and token=0123456789abcdef and p@ssword for orders"
    assert redactor.text(text) == f"POST {REDACTED} and {REDACTED} and {REDACTED} for orders"


def test_a_short_password_in_an_address_does_not_tear_words_apart() -> None:
    redactor = Redactor()
    redactor.learn("postgresql://app:st@db.example/orders")
    assert redactor.text("restart in staging") == "restart in staging"
    assert redactor.text("at postgresql://app:st@db.example/orders") == f"at {REDACTED}"


def test_a_redactor_forgets_the_oldest_before_it_grows_without_end() -> None:
    redactor = Redactor()
    for number in range(5000):
        redactor.learn(f"secret number {number}!")
    assert redactor.text("secret number 4999!") == REDACTED
    assert redactor.text("secret number 1!") == "secret number 1!"


def refuse(reason: str) -> None:
    raise PermanentError(reason)


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_log_line_holds_no_secret_not_even_in_a_traceback(
    log_format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = fresh()
    KNOWN.learn(secret)
    before, config = logging.getLogger().handlers[:], structlog.get_config()
    level = logging.getLogger().level
    try:
        configure_logging(log_format=log_format)
        log = structlog.get_logger("test")
        try:
            refuse(secret)
        except PermanentError:
            log.exception("told", value=secret, nested={"deep": [secret]})
        logging.getLogger("somebody.else").warning("they say %r", secret)
    finally:
        logging.getLogger().handlers[:] = before
        logging.getLogger().setLevel(level)
        structlog.configure(**config)
    said = capsys.readouterr().err
    assert "told" in said
    assert "somebody" in said or "they say" in said
    for form in (secret, json.dumps(secret)[1:-1], repr(secret)[1:-1]):
        assert form not in said


def test_a_reason_is_cut_only_after_secrets_are_struck_out() -> None:
    secret = fresh()
    KNOWN.learn(secret)
    reason = sayable("x" * 1990 + secret)
    assert reason == "x" * 1990 + REDACTED

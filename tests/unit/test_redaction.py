"""Secrets do not leave the process in what is said about a failure."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from agents.runtime import redaction
from agents.runtime.dead_letters import HEADER_MESSAGE, dead_letter
from agents.runtime.endings import ending_of
from agents.runtime.errors import PermanentError, TransientError
from agents.runtime.outcomes import judge
from agents.runtime.records import Record
from agents.runtime.settings import Settings
from agents.runtime.telemetry import redact
from agents.runtime.testing import message_with, test_id
from schemas import Intent, Outcome, Step

PASSWORD = "s3:cr/et@x"
SETTINGS = Settings(
    database_url=SecretStr("postgresql://app:s3%3Acr%2Fet%40x@db.example/millstream"),
    kafka_sasl_password=SecretStr("broker-Pa55"),
)


@pytest.fixture(autouse=True)
def _known_secrets() -> Iterator[None]:
    redaction.learn(SETTINGS)
    yield
    redaction.learn_values(())


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("connect with s3:cr/et@x failed", "connect with [redacted] failed"),
        ("at s3%3Acr%2Fet%40x", "at [redacted]"),
        ("SASL said broker-Pa55!", "SASL said [redacted]!"),
        ("GET https://ann:other@host/x?a=1", "GET https://ann:[redacted]@host/x?a=1"),
        ("redis://:other@host", "redis://:[redacted]@host"),
        ("sent Authorization: Bearer eyJhbGciOi.J9.x-y", "sent Authorization: Bearer [redacted]"),
        ("header 'Basic dXNlcjpwYXNz'", "header 'Basic [redacted]'"),
        ("host=db password=hunter2 user=x", "host=db password=[redacted] user=x"),
        ("host=db password='hunter 2' user=x", "host=db password=[redacted] user=x"),
        ('{"api_key": "abc def", "n": 1}', '{"api_key": [redacted], "n": 1}'),
        ("{'client_secret': 'abc'}", "{'client_secret': [redacted]}"),
        ("?access_token=abc&n=1", "?access_token=[redacted]&n=1"),
        ("X-Api-Key: abc", "X-Api-Key: [redacted]"),
    ],
)
def test_what_is_a_secret_or_looks_like_one_is_taken_out(text: str, left: str) -> None:
    assert redaction.redacted(text) == left
    assert redaction.redacted(left) == left


@pytest.mark.parametrize(
    "text",
    [
        "restart checkout in staging and tell #releases",
        "http://127.0.0.1:8099/environments/staging answered with 503",
        "the bearer of bad news",
        "basic checks failed",
        "bearer tokens: 5 of 7 used",
        "unexpected token '}' at line 3",
        "topic millstream.requests.v1: 5 of 7 records",
    ],
)
def test_ordinary_words_stay(text: str) -> None:
    assert redaction.redacted(text) == text


@given(st.text(max_size=200))
def test_a_known_secret_is_found_wherever_it_stands(around: str) -> None:
    middle = len(around) // 2
    text = f"{around[:middle]} broker-Pa55 {around[middle:]}"
    assert "broker-Pa55" not in redaction.redacted(text)


def test_long_text_takes_time_in_proportion_to_its_length() -> None:
    for text in ("a" * 1_000_000, "token" * 100_000, "http://" * 50_000, "bearer " * 50_000):
        assert redaction.redacted(text) == text


def test_a_secret_of_three_characters_does_not_tear_words_apart() -> None:
    redaction.learn_values(["sta"])
    assert redaction.redacted("restart in staging") == "restart in staging"


def test_a_dead_letter_says_why_without_the_secret() -> None:
    record = Record("millstream.intents.v1", 0, 0, 0, b"k", b"broker-Pa55 as the sender wrote it")
    letter = dead_letter(
        record,
        ValueError("cannot log in with broker-Pa55 at postgresql://u:pw@h/d"),
        code="bug",
        role="planner",
        attempt=1,
        lane="",
        topic_id=None,
    )
    said = dict(letter.headers)[HEADER_MESSAGE]
    assert said == b"cannot log in with [redacted] at postgresql://u:[redacted]@h/d"
    assert letter.value == record.value, "what somebody sent is kept byte for byte"


def test_an_outcome_says_why_without_the_secret() -> None:
    intent = Intent(request_id=test_id("r"), title="restart", requester="ann", parser="rules")
    error = PermanentError("login refused: password=broker-Pa55")
    outcome = ending_of(
        message_with(intent), error, code="permanent", role="planner", now=datetime.now(UTC)
    )
    assert isinstance(outcome, Outcome)
    assert outcome.reason == "login refused: password=[redacted]"


@pytest.mark.parametrize("effect", ["read", "effect"])
@pytest.mark.parametrize(
    "error",
    [
        ValueError("401 for Bearer abcdef123456"),
        ConnectionResetError("https://u:abcdef123456@host broke"),
        TransientError("busy: token=abcdef123456"),
    ],
)
def test_a_step_fails_without_the_secret(effect: Any, error: Exception) -> None:
    step = Step(
        request_id=test_id("request"),
        plan_id=test_id("plan"),
        plan_hash="0" * 64,
        run_no=1,
        step_id="s1",
        action="test.act",
        parameters={},
        attempt=1,
        executor="http",
        effect=effect,
        timeout=5,
    )
    reason = judge(step, error).failure.reason
    assert "abcdef123456" not in reason
    assert "[redacted]" in reason


def test_a_log_line_has_no_secrets_in_any_of_its_values() -> None:
    line = {
        "event": "failed with broker-Pa55",
        "password": "x",
        "reason": "dsn=host:1",
        "exception": "Traceback ...\nValueError: https://u:pw@h",
        "count": 3,
    }
    assert redact(None, "info", line) == {
        "event": "failed with [redacted]",
        "password": "[redacted]",
        "reason": "dsn=[redacted]",
        "exception": "Traceback ...\nValueError: https://u:[redacted]@h",
        "count": 3,
    }

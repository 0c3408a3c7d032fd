"""What ``millstream submit`` puts on the intake topic."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agents.runtime.errors import ConfigurationError, InvalidMessageError
from agents.runtime.intake import read_request
from agents.runtime.records import Record
from ops.show import known_status, moment_of
from ops.submit import Submission, make_submission, read_plan


def read_back(submission: Submission) -> Record:
    sent = submission.record("")
    return Record(sent.topic, 0, 7, 1_700_000_000_000, sent.key, sent.value, sent.headers)


def test_intake_finds_the_ids_that_were_printed() -> None:
    submission = make_submission("restart web in staging", tenant="shop", user="kim")
    message = read_request(read_back(submission), lane="")
    assert message.message_id == submission.message_id
    assert message.correlation_id == submission.execution_id
    assert message.external_id is None
    assert (message.tenant, message.payload.requester.user) == ("shop", "kim")


def test_an_id_of_the_requesters_own_leads_to_the_same_execution() -> None:
    submission = make_submission("restart web in staging", correlation_id="ticket 17")
    message = read_request(read_back(submission), lane="")
    assert message.correlation_id == submission.execution_id
    assert message.external_id == "ticket 17"


def test_a_record_goes_to_the_lane_under_the_key_of_its_execution() -> None:
    submission = make_submission("restart web in staging")
    sent = submission.record("canary.")
    assert sent.topic == "canary.millstream.requests.v1"
    assert sent.key == str(submission.execution_id).encode()


def test_a_plan_may_be_a_bare_list_and_text_on_the_line_is_its_title(tmp_path: Path) -> None:
    steps = [{"step_id": "look", "action": "service.status"}]
    bare, whole = tmp_path / "bare.json", tmp_path / "whole.yaml"
    bare.write_text(json.dumps(steps))
    whole.write_text("text: look\nplan:\n  - {step_id: look, action: service.status}\n")
    assert read_plan(bare) == {"plan": steps}
    assert read_plan(whole) == {"text": "look", "plan": steps}
    assert make_submission("my title", plan=whole).request.text == "my title"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("", "text: "), ("  ", "text: is blank"), ("ring\x07", "control character")],
)
def test_what_intake_would_refuse_is_refused_here(text: str, complaint: str) -> None:
    with pytest.raises(InvalidMessageError, match=complaint):
        make_submission(text)


def test_a_plan_that_is_no_text_is_refused(tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="cannot read the plan"):
        read_plan(plan)


def test_moments_are_spans_or_dates() -> None:
    now = datetime(2026, 1, 2, 12, tzinfo=UTC)
    assert moment_of("15m", now=now) == now - timedelta(minutes=15)
    assert moment_of("2026-01-01", now=now) == datetime(2026, 1, 1, tzinfo=UTC)
    assert moment_of("2026-01-01T10:00+02:00", now=now) == datetime(2026, 1, 1, 8, tzinfo=UTC)
    with pytest.raises(ConfigurationError, match="'soon' is no moment"):
        moment_of("soon", now=now)


def test_a_status_may_be_written_as_it_is_shown() -> None:
    assert known_status("Needs clarification") == "needs_clarification"

"""Runs that are taken from memory: the same as if they were read from their documents."""

from datetime import timedelta

import pytest
from pydantic import ValidationError

from agents.routing import recent
from agents.routing.recent import RecentRuns
from agents.routing.run import Run
from agents.runtime.testing import EPOCH, test_id
from schemas import ExecutionStatus, Failure, StepState

EXECUTION = test_id("execution")


def run_with(output: object = "fine", *, status: ExecutionStatus | None = None) -> Run:
    """A run with a step that put ``output`` out."""
    return Run(
        request_id=test_id("request"),
        tenant="default",
        received_at=EPOCH,
        external_id=None,
        broker_id="test",
        status=status,
        steps=(
            StepState(
                step_id="only",
                action="service.status",
                status="success",
                attempt=1,
                output={"said": output},
                failure=Failure(code="transient", reason="late", retriable=True),
                started_at=EPOCH + timedelta(microseconds=1),
            ),
        ),
        retry_at={"only": EPOCH},
        cause=test_id("cause"),
        started_at=EPOCH,
        updated_at=EPOCH,
    )


def test_a_run_from_memory_is_the_run_of_its_document() -> None:
    runs = RecentRuns()
    written = run_with({"deep": [1, 2.5, None, True, "ü"]})
    document = runs.write("", EXECUTION, written)
    assert runs.read("", EXECUTION, document) is written
    assert Run.model_validate_json(document) == written


def test_the_ledger_s_word_counts_and_not_the_memory_s() -> None:
    runs = RecentRuns()
    runs.write("", EXECUTION, run_with("what was rolled back"))
    other = run_with("what somebody else wrote").model_dump_json().encode()
    assert runs.read("", EXECUTION, other).outputs == {"only": {"said": "what somebody else wrote"}}
    with pytest.raises(ValidationError):
        runs.read("", EXECUTION, b"{}")


def test_memory_is_bounded_and_holds_what_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(run_with().model_dump_json())
    monkeypatch.setattr(recent, "MOST_BYTES", 2 * size + 1)
    runs = RecentRuns()
    names = [test_id(str(number)) for number in range(3)]
    documents = [runs.write("", name, run_with()) for name in names]
    # Each is read as a new value once it has been forgotten.
    first, *newest = zip(names, documents, strict=True)
    assert runs.read("", *first) is not runs.read("", *first)
    assert all(runs.read("", *each) is runs.read("", *each) for each in newest)

    ended = runs.write("", names[2], run_with(status=ExecutionStatus.SUCCESS))
    assert runs.read("", names[2], ended) is not runs.read("", names[2], ended)
    again = runs.write("", names[0], run_with())
    assert runs.read("", names[0], again) is runs.read("", names[0], again), "there is room again"
    large = runs.write("", names[1], run_with("x" * 3 * size))
    assert runs.read("", names[1], large) is not runs.read("", names[1], large)

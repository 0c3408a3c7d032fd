"""How an execution reads on a terminal."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from agents.sink.queries import Event, Execution, StepOfExecution
from ops.render import as_text, duration, render_causes, render_timeline, values
from ops.timeline import Timeline, make_timeline

T0 = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
EXECUTION = UUID("7f000001-0000-4000-8000-000000000001")


def after(milliseconds: int) -> datetime:
    return T0 + timedelta(milliseconds=milliseconds)


def execution(**changes: Any) -> Execution:
    fields: dict[str, Any] = dict.fromkeys(Execution.__dataclass_fields__)
    fields |= {
        "correlation_id": EXECUTION,
        "tenant": "shop",
        "title": "restart web in staging",
        "status": "success",
        "run_no": 1,
        "version": 5,
        "received_at": T0,
        "finished_at": after(900),
        "duration_seconds": 0.9,
    }
    return Execution(**(fields | changes))


def step(step_id: str, **changes: Any) -> StepOfExecution:
    fields: dict[str, Any] = dict.fromkeys(StepOfExecution.__dataclass_fields__)
    fields |= {
        "run_no": 1,
        "step_id": step_id,
        "action": "service.restart",
        "status": "success",
        "attempt": 1,
    }
    return StepOfExecution(**(fields | changes))


def event(message_type: str, at: int, cause: UUID | None = None, **payload: Any) -> Event:
    fields: dict[str, Any] = dict.fromkeys(Event.__dataclass_fields__)
    fields |= {
        "message_id": uuid4(),
        "causation_id": cause,
        "message_type": message_type,
        "from_agent": "somebody",
        "timestamp": after(at),
        "attempt": 1,
        "payload": payload,
    }
    return Event(**fields)


def result(attempt: int, status: str, at: int, reason: str | None = None) -> Event:
    return event(
        "StepResult",
        at,
        step_id="restart",
        run_no=1,
        attempt=attempt,
        status=status,
        started_at=after(at - 10).isoformat(),
        finished_at=after(at).isoformat(),
        failure=None if reason is None else {"code": "unexpected_status", "reason": reason},
    )


def shown(timeline: Timeline) -> list[str]:
    return [" ".join(line.split()) for line in as_text(render_timeline(timeline)).splitlines()]


def test_every_attempt_that_failed_is_told_with_its_reason() -> None:
    lines = shown(
        make_timeline(
            execution(),
            [step("restart", attempt=3, started_at=after(100), finished_at=after(800))],
            [
                result(1, "failed", 110, "answered with 503"),
                result(3, "success", 800),
                result(2, "failed", 400, "answered with 502"),
            ],
        )
    )
    assert "+110 ms attempt 1: answered with 503" in lines
    assert "+400 ms attempt 2: answered with 502" in lines
    assert any(line.endswith("700 ms attempt 3") for line in lines)


def test_steps_stand_in_the_order_in_which_they_began_and_then_as_planned() -> None:
    plan = event(
        "Plan",
        5,
        steps=[{"step_id": each, "depends_on": []} for each in ("one", "two", "three", "four")],
        cost={},
        plan_hash="0" * 64,
    )
    timeline = make_timeline(
        execution(),
        [
            step("four", status="skipped", attempt=0),
            step("two", started_at=after(10)),
            step("three", status="skipped", attempt=0),
            step("one", started_at=after(20)),
        ],
        [plan],
    )
    assert [each.step_id for each in timeline.steps] == ["two", "one", "three", "four"]
    assert "three - service.restart not run" in shown(timeline)


def test_bars_show_which_steps_ran_at_the_same_time() -> None:
    timeline = make_timeline(
        execution(),
        [
            step("one", started_at=after(0), finished_at=after(400)),
            step("two", started_at=after(0), finished_at=after(200)),
            step("three", started_at=after(400), finished_at=after(800)),
        ],
        [],
    )
    bars = [
        line[line.index("restart") + 7 :][2:18]
        for line in as_text(render_timeline(timeline)).splitlines()
        if "service.restart" in line
    ]
    assert bars == ["━" * 8 + " " * 8, "━" * 4 + " " * 12, " " * 8 + "━" * 8]


def test_only_the_newest_run_is_told() -> None:
    old = event("ExecutionReport", 900, run_no=1, summary="Failed.")
    timeline = make_timeline(
        execution(run_no=2, status="running", finished_at=None, duration_seconds=None),
        [step("restart", status="failed"), step("restart", run_no=2, status="running")],
        [result(1, "failed", 50, "no"), old],
    )
    assert [(each.status, each.tries) for each in timeline.steps] == [("running", ())]
    assert timeline.report is None
    assert not timeline.has_ended


def test_an_execution_has_ended_when_its_report_is_there() -> None:
    report = event("ExecutionReport", 900, run_no=1, summary="Success: 1 of 1 step done.")
    assert not make_timeline(execution(), [], []).has_ended
    finished = make_timeline(execution(), [], [report])
    assert finished.has_ended
    assert shown(finished)[-1] == "+900 ms report Success: 1 of 1 step done."


def test_a_refusal_says_which_rule_spoke() -> None:
    verdict = event(
        "Verdict",
        30,
        decision="denied",
        reasons=[{"policy": "catalogue.max_risk", "code": "policy_denied", "text": "Too risky."}],
    )
    lines = shown(make_timeline(execution(status="denied"), [], [verdict]))
    assert "+30 ms verdict denied" in lines
    assert "Too risky. catalogue.max_risk" in lines


def test_a_verdict_says_what_it_holds_back() -> None:
    held = event("Verdict", 30, decision="approved", reasons=[], reserved="0.080400")
    free = event("Verdict", 40, decision="approved", reasons=[], reserved=None)
    lines = shown(make_timeline(execution(), [], [held, free]))
    assert "+30 ms verdict approved $0.0804 of the budget held back" in lines
    assert "+40 ms verdict approved" in lines


def test_a_request_says_who_asks_and_what_was_ignored() -> None:
    request = event(
        "ExecutionRequest", 0, requester={"user": "kim"}, unknown_fields=["urgency", "[red]x[/red]"]
    )
    lines = shown(make_timeline(execution(external_id="ticket 17"), [], [request]))
    assert "+0 ms request from kim, tenant shop, as ticket 17" in lines
    assert "has fields that mean nothing: urgency, [red]x[/red]" in lines


def test_causes_form_a_tree_whatever_the_order() -> None:
    request = event("ExecutionRequest", 0)
    intent = event("Intent", 1, request.message_id)
    stranger = event("Step", 2, uuid4(), step_id="restart")
    timeline = make_timeline(execution(), [], [stranger, intent, request])
    text = as_text(render_causes(timeline.events))
    assert "├── Step restart" in text
    assert "└── ExecutionRequest" in text
    assert "    └── Intent" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0004, "0 ms"),
        (0.048, "48 ms"),
        (1.25, "1.25 s"),
        (185, "3 min 5 s"),
        (7_500, "2 h 5 min"),
    ],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_values_stand_on_one_short_line() -> None:
    assert values({"a": "x", "n": 2, "ok": True, "none": None}) == "a x, n 2, ok true, none null"
    assert values({"at": "2026-01-02T03:04:05.123456+00:00"}) == "at 03:04:05"
    assert len(values({"text": "word " * 100})) <= 160

"""What becomes of a dead letter's record when it is redriven, without broker or database."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from rich.console import Console
from support.clocks import RecordingClock
from support.sample_history import history_of, topic_of

from agents.runtime import dead_letters as names
from agents.runtime.delays import delayed
from agents.runtime.errors import DeliveryError, ErrorCode, InvalidMessageError, PermanentError
from agents.runtime.intake import read_request
from agents.runtime.kafka import MessageTooLargeError
from agents.runtime.records import Headers, Outgoing, Record
from agents.runtime.settings import ROOT
from agents.runtime.testing import EPOCH
from agents.runtime.topology import load_topology
from agents.sink.dead_letters import read_dead_letter
from ops.dead_letter_rows import Contents, Letter, RunStatus
from ops.editing import json_patch
from ops.redrive import Redrive, Redriver
from ops.redrive_records import Edit, RefusedRedriveError
from ops.redriving import Answer, Refusal, Requester, send_all, telling

LANE = "test."
REQUESTS = f"{LANE}millstream.requests.v1"
TOPOLOGY = load_topology(ROOT / "topics.yaml")
HISTORY = {type(each.payload).__name__: each for each in history_of("one", lane=LANE)}
VERDICT, INTENT, STATE = HISTORY["Verdict"], HISTORY["Intent"], HISTORY["ExecutionState"]


def request(body: Any, headers: Headers = (), key: bytes | None = None) -> Record:
    value = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Record(REQUESTS, 3, 41, int(EPOCH.timestamp() * 1000), key, value, headers)


def dead(
    record: Record, *, code: ErrorCode = "invalid_message", field: str | None = None
) -> tuple[Letter, Contents]:
    """The dead letter of a record, as the sink stores it and the CLI reads it."""
    error = InvalidMessageError("no good", field=field, code=code)
    out = names.dead_letter(
        record, error, code=code, role="planner", attempt=1, lane=LANE, topic_id="abc"
    )
    row = read_dead_letter(
        Record(out.topic, 0, 0, 5000, out.key, out.value, out.headers), lane=LANE
    )
    letter = Letter(
        id="0123456789abcdef",
        size=None if row.value is None else len(row.value),
        redriven_at=None,
        purged_at=None,
        **{
            name: getattr(row, name)
            for name in Letter.__dataclass_fields__
            if name not in ("id", "size", "redriven_at", "purged_at")
        },
    )
    return letter, Contents(out.key, out.value, out.headers)


def redriver(
    *,
    edit: Edit | None = None,
    cap: int = 3,
    run_status: Callable[[UUID], RunStatus | None] = lambda _: None,
) -> Redriver:
    return Redriver(lane=LANE, topology=TOPOLOGY, run_status=run_status, cap=cap, edit=edit)


def prepared(record: Record, **options: Any) -> Redrive:
    return redriver(**options).prepare(*dead(record))


def read_again(redrive: Redrive) -> Any:
    """What the pipeline reads when the record is there again, at another place and time."""
    out = redrive.outgoing
    later = int((EPOCH + timedelta(days=2)).timestamp() * 1000)
    record = Record(out.topic, 0, 999, later, out.key, out.value, out.headers)
    return read_request(record, lane=LANE)


def test_a_record_goes_back_as_it_came() -> None:
    headers = (("who", b"\xff"), ("who", None), ("traceparent", b"00-1"))
    record = request({"text": "restart web"}, headers, key=b"\x00key")
    out = prepared(record).outgoing
    assert (out.topic, out.key, out.value) == (record.topic, record.key, record.value)
    assert out.headers[:3] == headers
    assert {name for name, _ in out.headers[3:]} == {
        "message-id",
        "correlation-id",
        "received-at",
        names.HEADER_REDRIVES,
    }


def test_a_redriven_request_is_the_same_message_of_the_same_execution() -> None:
    record = request({"text": "restart web", "tenant": "shop"})
    before, after = read_request(record, lane=LANE), read_again(prepared(record))
    assert after == before, "down to the day it is filed under"


def test_ids_that_the_requester_gave_stay_theirs() -> None:
    record = request({"text": "restart web", "correlation_id": "JIRA 1"})
    before, after = read_request(record, lane=LANE), read_again(prepared(record))
    assert (after.correlation_id, after.external_id) == (before.correlation_id, "JIRA 1")


def test_delays_begin_anew() -> None:
    record = request({"text": "restart web"}, (("delivery-attempt", b"4"),))
    assert "delivery-attempt" not in dict(prepared(record).outgoing.headers)


def test_each_redrive_counts_and_the_count_survives_a_dead_letter() -> None:
    record = request({"text": "restart web"})
    for number in (1, 2, 3):
        out = prepared(record).outgoing
        assert dict(out.headers)[names.HEADER_REDRIVES] == str(number).encode()
        record = Record(out.topic, 0, number, 1, out.key, out.value, out.headers)
    with pytest.raises(RefusedRedriveError, match="redriven 3 times already"):
        prepared(record)
    assert prepared(record, cap=4).letter.redrives == 3


def test_the_count_survives_a_delay_topic() -> None:
    out = prepared(request({"text": "restart web"})).outgoing
    record = Record(out.topic, 0, 1, 1, out.key, out.value, out.headers)
    later = delayed(record, read_request(record, lane=LANE), lane=LANE)
    assert later is not None
    assert dict(later.headers)[names.HEADER_REDRIVES] == b"1"


def test_what_cannot_be_read_is_refused_with_the_reason() -> None:
    with pytest.raises(RefusedRedriveError, match=r"dead letter again: text: .* edit it with"):
        prepared(request({"text": 7}))


def test_a_request_is_lost_whose_time_nobody_knows() -> None:
    letter, contents = dead(request({"text": "restart web"}))
    kept = tuple(each for each in contents.headers if each[0] != names.HEADER_TIMESTAMP)
    with pytest.raises(RefusedRedriveError, match="ids are lost"):
        redriver().prepare(letter, replace(contents, headers=kept))


@pytest.mark.parametrize(
    "topic",
    [
        "millstream.requests.v1",
        "other.millstream.requests.v1",
        f"{LANE}payroll",
        f"{LANE}millstream.dead-letters.v1",
    ],
)
def test_a_record_of_no_topic_of_this_lane_is_refused(topic: str) -> None:
    record = request({"text": "restart web"})._replace(topic=topic)
    with pytest.raises(RefusedRedriveError, match="no topic of this lane"):
        prepared(record)


def test_a_record_of_a_delay_topic_goes_to_its_own_topic() -> None:
    first = request({"text": "restart web"})
    later = delayed(first, read_request(first, lane=LANE), lane=LANE)
    assert later is not None
    record = Record(later.topic, 0, 5, 9, later.key, later.value, later.headers)
    redrive = prepared(record)
    assert redrive.outgoing.topic == REQUESTS
    assert redrive.message.message_id == read_request(first, lane=LANE).message_id


def test_an_execution_that_has_ended_would_need_a_retry() -> None:
    with pytest.raises(
        RefusedRedriveError, match=r"has ended \(failed\); run it again with `millstream retry`"
    ):
        prepared(request({"text": "go"}), run_status=lambda _: RunStatus("failed", is_open=False))


def test_a_state_is_redriven_after_the_end_too() -> None:
    record = Record(topic_of(STATE), 0, 0, 0, STATE.key(), STATE.to_bytes(), STATE.headers())
    ended = RunStatus("success", is_open=False)
    assert prepared(record, run_status=lambda _: ended).outgoing.value == record.value


def _with(letter: Letter, mark: str) -> Letter:
    now = datetime.now(UTC)
    if mark == "redriven_at":
        return replace(letter, redriven_at=now)
    return replace(letter, purged_at=now)


@pytest.mark.parametrize("mark", ["redriven_at", "purged_at"])
def test_what_was_handled_is_not_handled_twice(mark: str) -> None:
    letter, contents = dead(request({"text": "go"}))
    with pytest.raises(RefusedRedriveError, match=mark.removesuffix("_at")):
        redriver().prepare(_with(letter, mark), contents)


TO_TEXT = json_patch('[{"op": "replace", "path": "/text", "value": "restart web"}]')


def test_an_edited_request_is_another_message_of_the_same_execution() -> None:
    record = request({"text": 7, "note": "ü"})
    redrive = prepared(record, edit=TO_TEXT)
    assert redrive.edited
    after = read_again(redrive)
    unedited = read_request(record._replace(value=b'{"text": "x"}'), lane=LANE)
    assert after.payload.text == "restart web"
    assert after.message_id == redrive.message.message_id != unedited.message_id
    assert json.loads(redrive.outgoing.value or b"")["note"] == "ü"
    again = prepared(record, edit=TO_TEXT)
    assert again.outgoing == redrive.outgoing, "the same edit twice is one message"


def test_an_edited_request_keeps_the_execution_that_its_place_gave_it() -> None:
    original = read_request(request({"text": "restart web"}), lane=LANE)
    longer = json_patch('[{"op": "replace", "path": "/text", "value": "restart web now"}]')
    redrive = prepared(request({"text": "restart web"}), edit=longer)
    assert read_again(redrive).correlation_id == original.correlation_id
    assert read_again(redrive).message_id != original.message_id


def test_ids_in_the_body_of_an_edited_request_are_renewed_there() -> None:
    given = uuid4()
    record = request({"text": 7, "message_id": str(given), "correlation_id": "mine"})
    after = read_again(prepared(record, edit=TO_TEXT))
    assert after.message_id != given
    assert after.external_id == "mine"


def test_an_edit_is_checked_before_it_is_sent() -> None:
    blank = json_patch('[{"op": "replace", "path": "/text", "value": " "}]')
    with pytest.raises(RefusedRedriveError, match="edited record could not be read: text"):
        prepared(request({"text": 7}), edit=blank)


def test_a_patch_that_does_not_fit_is_refused() -> None:
    lost = json_patch('[{"op": "remove", "path": "/nothing"}]')
    with pytest.raises(RefusedRedriveError, match="patch does not fit"):
        prepared(request({"text": 7}), edit=lost)


def test_an_edited_request_needs_an_execution_that_does_not_run_yet() -> None:
    with pytest.raises(RefusedRedriveError, match="runs already"):
        prepared(
            request({"text": 7}),
            edit=TO_TEXT,
            run_status=lambda _: RunStatus("running", is_open=True),
        )


def test_an_edited_message_gets_key_and_headers_that_agree_with_it() -> None:
    record = Record(topic_of(INTENT), 0, 0, 0, b"wrong", INTENT.to_bytes(), (("who", b"me"),))
    edit = json_patch('[{"op": "replace", "path": "/payload/title", "value": "better"}]')
    redrive = prepared(record, edit=edit)
    assert redrive.message.payload.title == "better"
    assert redrive.message.message_id != INTENT.message_id
    assert redrive.outgoing.key == INTENT.key()
    headers = dict(redrive.outgoing.headers)
    assert headers["message-id"] == str(redrive.message.message_id).encode()
    assert headers["who"] == b"me"


def test_nobody_edits_what_was_judged() -> None:
    record = Record(topic_of(VERDICT), 0, 0, 0, VERDICT.key(), VERDICT.to_bytes(), ())
    edit = json_patch(
        '[{"op": "replace", "path": "/payload/decision", "value": "approved"},'
        ' {"op": "replace", "path": "/payload/plan/title", "value": "mine"}]'
    )
    with pytest.raises(RefusedRedriveError, match="Verdict may not be edited"):
        prepared(record, edit=edit)


def test_an_empty_patch_gives_a_record_its_key_and_changes_nothing_else() -> None:
    record = Record(topic_of(VERDICT), 0, 0, 0, b"wrong", VERDICT.to_bytes(), ())
    with pytest.raises(RefusedRedriveError, match=r"--patch '\[\]' gives it the key"):
        prepared(record)
    redrive = prepared(record, edit=json_patch("[]"))
    assert redrive.outgoing.key == VERDICT.key()
    assert redrive.outgoing.value == record.value
    assert redrive.message.message_id == VERDICT.message_id
    assert not redrive.edited


def test_an_edit_that_changes_nothing_is_refused() -> None:
    with pytest.raises(RefusedRedriveError, match="changes nothing"):
        prepared(request({"text": "go"}), edit=json_patch("[]"))


class Audit:
    """What would be written down."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[int] = []

    def begin_redrive(self, *_: object, requested_by: str, **_about: object) -> int:
        self.begun.append(requested_by)
        return len(self.begun)

    def end_redrive(self, _: Letter, number: int) -> None:
        self.ended.append(number)


async def send(
    answers: list[Answer], sender: Any, audit: Audit, rate: float = 10
) -> RecordingClock:
    clock = RecordingClock()
    await send_all(
        audit,  # type: ignore[arg-type]  # all that is asked of it
        answers,
        sender,
        requester=Requester("kim"),
        rate=rate,
        clock=clock,
    )
    return clock


async def test_records_are_sent_no_faster_than_asked_for() -> None:
    async def take(_: Outgoing) -> None:
        pass

    answers: list[Answer] = [prepared(request({"text": f"go {n}"})) for n in range(4)]
    clock = await send(answers, take, Audit(), rate=2)
    assert (clock.now() - EPOCH).total_seconds() == pytest.approx(1.5)


async def test_it_is_written_down_before_it_is_sent_and_again_afterwards() -> None:
    audit = Audit()

    async def away(_: Outgoing) -> None:
        assert audit.begun == ["kim"]
        raise DeliveryError("the broker is away")

    with pytest.raises(DeliveryError):
        await send([prepared(request({"text": "go"}))], away, audit)
    assert audit.ended == []


async def test_a_record_that_its_topic_does_not_take_is_refused_and_the_next_is_sent() -> None:
    audit = Audit()
    sent: list[Outgoing] = []

    async def small(out: Outgoing) -> None:
        if not sent:
            sent.append(out)
            raise MessageTooLargeError("too large")
        sent.append(out)

    letter, _ = dead(request({"text": "go"}))
    answers: list[Answer] = [
        Refusal(letter, "because"),
        *(prepared(request({"text": f"go {n}"})) for n in range(2)),
    ]
    await send(answers, small, audit)
    assert (len(sent), audit.ended) == (2, [2])


async def test_a_terminal_shows_a_bar_and_what_is_refused() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100)
    letter, _ = dead(request({"text": "go"}))
    with telling(console, 2) as tell:
        tell(prepared(request({"text": "go"})))
        tell(Refusal(letter, "because \x1b[2J"))
    shown = screen.getvalue()
    assert "2/2" in shown
    assert "because \\x1b[2J" in shown
    assert "sent to" not in shown


def test_a_refusal_is_a_permanent_error() -> None:
    assert issubclass(RefusedRedriveError, PermanentError)

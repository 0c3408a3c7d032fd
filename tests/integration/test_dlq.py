"""``millstream dlq`` on a real broker and a real database, and in a running pipeline."""

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import confluent_kafka
import psycopg
import pytest
from psycopg.rows import DictRow, dict_row
from support.command_line import Answer
from support.kafka_servers import KafkaServer
from support.sink_log import Log

from agents.runtime import dead_letters as names
from agents.runtime.errors import ErrorCode, InvalidMessageError
from agents.runtime.intake import read_request
from agents.runtime.records import Headers, Record
from agents.sink.batch import Sorter
from agents.sink.store import Store
from ops.cli import main
from ops.stack import Stack, StackOptions

pytestmark = pytest.mark.integration

REQUESTS = "millstream.requests.v1"
_PATIENCE = 60.0


@dataclass
class Desk:
    """Where somebody looks after the dead letters of a lane."""

    database_url: str
    lane: str
    bootstrap: str = "127.0.0.1:1"
    buried: int = field(default=0, init=False)

    def bury(
        self,
        body: Any,
        *,
        topic: str = REQUESTS,
        role: str = "intent_parser",
        code: ErrorCode = "invalid_message",
        reason: str = "no good",
        offending: str | None = None,
        key: bytes | None = None,
        headers: Headers = (),
        at_ms: int = 1_700_000_000_000,
    ) -> Record:
        """Have the sink store a dead letter; returns the record that it is of."""
        self.buried += 1
        value = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        record = Record(self.lane + topic, 1, self.buried, at_ms, key, value, headers)
        out = names.dead_letter(
            record,
            InvalidMessageError(reason, field=offending, code=code),
            code=code,
            role=role,
            attempt=1,
            lane=self.lane,
            topic_id="the-topic",
        )
        letter = Record(out.topic, 0, self.buried, at_ms, out.key, out.value, out.headers)
        sorter = Sorter(lane=self.lane, decode=_never, dead_letter_topic=out.topic)
        with Store(self.database_url, lane=self.lane) as store:
            batch = sorter.sort([letter], {})
            store.write(batch, store.claim(batch.positions, {}))
        return record

    def dlq(self, *arguments: str) -> Answer:
        """What a person would see."""
        return in_process(
            "dlq",
            *arguments,
            MILLSTREAM_DATABASE_URL=self.database_url,
            MILLSTREAM_KAFKA_BOOTSTRAP=self.bootstrap,
            MILLSTREAM_LANE=self.lane,
        )

    def ids(self, *filters: str) -> list[str]:
        """The ids of the dead letters that are open, the newest first."""
        answer = self.dlq("ls", "--flat", "--json", *filters)
        return [letter["id"] for letter in answer.json]

    def rows(self, query: str, **parameters: Any) -> list[DictRow]:
        with psycopg.connect(self.database_url, row_factory=dict_row) as connection:
            return connection.execute(query.encode(), {"lane": self.lane, **parameters}).fetchall()

    def await_rows(
        self, query: str, enough: Callable[[list[DictRow]], bool] = bool, **parameters: Any
    ) -> list[DictRow]:
        """The rows of ``query``, as soon as they are enough."""
        deadline = time.monotonic() + _PATIENCE
        while not enough(rows := self.rows(query, **parameters)):
            assert time.monotonic() < deadline, (
                query,
                parameters,
                self.rows("SELECT correlation_id, status, reason FROM history.executions"),
                self.rows("SELECT role, code, reason FROM history.dead_letters"),
            )
            time.sleep(0.05)
        return rows


def in_process(*arguments: str, **variables: str) -> Answer:
    """The command line without a process of its own, which would take a second each time."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        patch.dict(os.environ, variables),
        patch.object(sys, "argv", ["millstream", "--state", "/nonexistent", *arguments]),
        patch.object(sys, "stdin", io.StringIO()),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
    done = subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())
    return Answer(done)


def _never(record: Record) -> Any:
    raise AssertionError(record)


@pytest.fixture
def desk(database_url: str, lane: str) -> Desk:
    """A desk without a broker."""
    return Desk(database_url, lane)


@pytest.fixture
def connected(desk: Desk, broker: KafkaServer) -> Desk:
    """A desk with each kind of broker in turn."""
    Log(broker.bootstrap_servers, desk.lane).create()
    desk.bootstrap = broker.bootstrap_servers
    return desk


def read_back(desk: Desk, topic: str, number: int) -> list[Record]:
    """The records of a topic, once there are so many."""
    consumer = confluent_kafka.Consumer(
        {
            "bootstrap.servers": desk.bootstrap,
            "group.id": f"{desk.lane}reader",
            "auto.offset.reset": "earliest",
        }
    )
    name = desk.lane + topic
    partitions = consumer.list_topics(name, timeout=10).topics[name].partitions
    consumer.assign([confluent_kafka.TopicPartition(name, each, 0) for each in partitions])
    records: list[Record] = []
    deadline = time.monotonic() + _PATIENCE
    while len(records) < number:
        assert time.monotonic() < deadline, records
        for message in consumer.consume(100, 0.5):
            assert message.error() is None, message.error()
            headers = tuple(message.headers() or ())
            _, moment = message.timestamp()
            where = (message.topic(), message.partition(), message.offset(), moment)
            records.append(Record(*where, message.key(), message.value(), headers))
    consumer.close()
    return records


# Looking


def test_dead_letters_are_listed_by_cause(desk: Desk) -> None:
    for number in range(3):
        desk.bury({"n": number}, reason=f"nothing asked for\nline {number}", at_ms=1000 + number)
    desk.bury(b"\xff", topic="millstream.verdicts.v1", role="router", reason="not JSON")
    groups = desk.dlq("ls", "--json").json
    assert [(group["count"], group["role"], group["cause"]) for group in groups] == [
        (3, "intent_parser", "nothing asked for"),
        (1, "router", "not JSON"),
    ]
    newest = desk.ids("--role", "intent_parser")[0]
    assert groups[0]["example"] == newest
    answer = desk.dlq("ls")
    assert answer.code == 0, answer
    assert "nothing asked for" in answer.out
    assert newest[:10] in answer.out
    assert "\x1b" not in answer.out


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        (("--role", "router"), ["old"]),
        (("--code", "wrong_key"), ["old"]),
        (("--topic", REQUESTS), ["young", "own"]),
        (("--since", "1h"), ["young"]),
        (("--before", "1h"), ["own", "old"]),
        (("--correlation-id", "5f0c2a1e-33c3-4f0e-9d4e-0d8a0d3c1a11"), ["own"]),
        (("--limit", "1"), ["young"]),
        (("--role", "nobody"), []),
    ],
)
def test_filters_narrow_the_list(desk: Desk, filters: Sequence[str], found: list[str]) -> None:
    execution = "5f0c2a1e-33c3-4f0e-9d4e-0d8a0d3c1a11"
    desk.bury(
        {"text": "old"},
        topic="millstream.plans.v1",
        role="router",
        code="wrong_key",
        reason="old",
        at_ms=1000,
    )
    desk.bury({"text": "own", "correlation_id": execution}, reason="own", at_ms=2000)
    desk.bury({"text": "young"}, reason="young", at_ms=int(time.time() * 1000))
    answer = desk.dlq("ls", "--flat", "--json", *filters)
    assert [letter["reason"] for letter in answer.json] == found
    assert answer.code == (0 if found else 1)


def test_an_execution_is_found_by_key_header_body_and_place(desk: Desk) -> None:
    place = desk.bury({"text": "restart web"}, reason="place")
    execution = str(read_request(place, lane=desk.lane).correlation_id)
    desk.bury(b"?", topic="millstream.plans.v1", key=execution.encode(), reason="key")
    desk.bury(b"?", headers=(("correlation-id", execution.encode()),), reason="header")
    desk.bury({"text": "other"}, reason="other")
    desk.bury(b"?", reason="no id at all")
    found = desk.dlq("ls", "--flat", "--json", "--correlation-id", execution).json
    assert {letter["reason"] for letter in found} == {"place", "key", "header"}


def test_one_is_shown_with_its_offending_line(desk: Desk) -> None:
    body = {"text": "x", "plan": [{"step_id": "NO", "action": "service.status"}]}
    desk.bury(
        body,
        reason="plan.0.step_id: bad",
        offending="plan.0.step_id",
        key=b"\xff\x00",
        headers=(("odd", b"\xfe"),),
    )
    answer = desk.dlq("show", desk.ids()[0][:6])
    assert answer.code == 0, answer
    lines = answer.out.splitlines()
    [mark] = [line for line in lines if line.startswith("▶ ")]
    assert '"step_id": "NO",' in mark
    assert any("key" in line and "0xff00" in line for line in lines)
    assert any("odd" in line and "0xfe" in line for line in lines)
    assert "plan.0.step_id: bad" in answer.out
    shown = desk.dlq("show", desk.ids()[0], "--json").json
    assert shown["document"] == body
    assert shown["key"]["base64"] == "/wA="


def test_what_is_no_text_is_shown_as_bytes(desk: Desk) -> None:
    desk.bury(b"\x00\xffgarbage")
    answer = desk.dlq("show", desk.ids()[0])
    assert "00000000  00 ff 67 61 72 62 61 67 65" in answer.out
    desk.bury(None, at_ms=9)
    assert "tombstone" in desk.dlq("show", desk.ids()[-1]).out


@pytest.mark.parametrize("given", ["ffff0000", "abc", "%%%%", "not-hex"])
def test_an_id_that_fits_nothing_is_said_to(desk: Desk, given: str) -> None:
    answer = desk.dlq("show", given)
    assert answer.code == 1, answer
    assert given in answer.err
    assert "Traceback" not in answer.err


def test_nothing_there_is_a_no(desk: Desk) -> None:
    assert desk.dlq("ls").code == 1
    assert desk.dlq("redrive", "--all", "--yes").code == 1


def test_a_database_that_is_away_is_named(desk: Desk, unused_tcp_port: int) -> None:
    desk.database_url = f"postgresql://me:hidden@127.0.0.1:{unused_tcp_port}/none"
    answer = desk.dlq("ls")
    assert answer.code == 2, answer
    assert "hidden" not in answer.err
    assert "millstream up" in answer.err


def test_a_database_that_lags_behind_is_named(
    blank_database_url: str, lane: str, tmp_path: Path
) -> None:
    answer = Desk(blank_database_url, lane).dlq("ls")
    assert answer.code == 2, answer
    assert "millstream migrate" in answer.err


# Being done with them


def test_purged_letters_are_out_of_sight_and_still_in_history(desk: Desk) -> None:
    desk.bury({}, reason="one")
    desk.bury({}, reason="two", role="router")
    answer = desk.dlq("purge", "--role", "router", "--yes", "--user", "kim", "--reason", "noise")
    assert answer.code == 0, answer
    assert "1 dead letter purged" in answer.out
    assert len(desk.ids()) == 1
    assert len(desk.ids("--handled")) == 2
    assert len(desk.rows("SELECT FROM history.dead_letters")) == 2
    [mark] = desk.rows("SELECT * FROM ledger.purges")
    assert (mark["lane"], mark["role"], mark["purged_by"], mark["reason"]) == (
        desk.lane,
        "router",
        "kim",
        "noise",
    )


def test_nothing_is_purged_without_being_told_which_or_without_a_yes(desk: Desk) -> None:
    desk.bury({})
    unsure = desk.dlq("purge")
    assert (unsure.code, "--all" in unsure.err) == (2, True), unsure
    unanswered = desk.dlq("purge", "--all")
    assert unanswered.code == 1, unanswered
    assert len(desk.ids()) == 1


# Sending again


def test_a_record_goes_back_to_its_topic_byte_for_byte(connected: Desk) -> None:
    desk = connected
    headers = (("who", b"\xff"), ("nul", None))
    record = desk.bury({"text": "restart web", "x": 1.0}, key=b"\x00k", headers=headers)
    [letter] = desk.ids()
    answer = desk.dlq("redrive", letter, "--yes", "--user", "kim", "--reason", "mended")
    assert answer.code == 0, answer
    assert "1 record sent, 0 refused." in answer.out
    [again] = read_back(desk, REQUESTS, 1)
    assert (again.key, again.value) == (record.key, record.value)
    assert again.headers[:2] == headers
    assert not [name for name, _ in again.headers if name.startswith("__connect")]
    before, after = (read_request(each, lane=desk.lane) for each in (record, again))
    assert (after.message_id, after.correlation_id) == (before.message_id, before.correlation_id)
    [audit] = desk.rows("SELECT * FROM ledger.redrives WHERE lane = %(lane)s")
    assert audit["sent_at"] is not None
    assert (audit["message_id"], audit["requested_by"], audit["reason"], audit["edited"]) == (
        before.message_id,
        "kim",
        "mended",
        False,
    )
    assert desk.ids() == []
    refused = desk.dlq("redrive", letter, "--yes")
    assert (refused.code, "already" in refused.out) == (1, True), refused
    assert "by kim" in desk.dlq("show", letter).out


def test_a_dry_run_says_what_would_be_sent_where_and_sends_nothing(desk: Desk) -> None:
    desk.bury({"text": "restart web"}, at_ms=1)
    desk.bury({"text": 7}, at_ms=2)
    answer = desk.dlq("redrive", "--all", "--dry-run", "--json")  # there is no broker
    assert answer.code == 1, answer
    good, bad = answer.json
    assert (good["topic"], good["sent"], good["refused"]) == (desk.lane + REQUESTS, False, None)
    assert "dead letter again" in bad["refused"]
    told = desk.dlq("redrive", "--all", "--dry-run")
    assert "1 record would be sent, 1 refused." in told.out
    assert desk.rows("SELECT FROM ledger.redrives") == []
    assert len(desk.ids()) == 2


def test_a_broker_that_is_away_is_named_and_nothing_is_written_down(desk: Desk) -> None:
    desk.bury({"text": "restart web"})
    answer = desk.dlq("redrive", "--all", "--yes")
    assert answer.code == 2, answer
    assert "does not answer" in answer.err
    assert desk.rows("SELECT FROM ledger.redrives") == []


def test_an_edit_by_patch_is_sent_as_another_message(connected: Desk) -> None:
    desk = connected
    desk.bury({"text": 7}, at_ms=1)
    desk.bury({"text": 8}, at_ms=2)
    fix = json.dumps([{"op": "replace", "path": "/text", "value": "restart web"}])
    answer = desk.dlq("redrive", "--code", "invalid_message", "--patch", fix, "--yes", "--json")
    assert answer.code == 0, answer
    assert [each["sent"] for each in answer.json] == [True, True]
    records = read_back(desk, REQUESTS, 2)
    requests = [read_request(each, lane=desk.lane) for each in records]
    assert {each.payload.text for each in requests} == {"restart web"}
    assert {str(each.message_id) for each in requests} == {
        each["message_id"] for each in answer.json
    }
    assert all(row["edited"] for row in desk.rows("SELECT edited FROM ledger.redrives"))


def test_a_value_is_edited_in_the_editor_and_sent(
    connected: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = connected
    desk.bury({"text": 7})
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setenv("EDITOR", "sed -i s/7/true/")
    refused = desk.dlq("redrive", "--all", "--edit", "--yes")
    assert (refused.code, "edited record could not be read" in refused.out) == (1, True), refused
    count = tmp_path / "count"
    monkeypatch.setenv("EDITOR", f"""sh -c 'echo >> {count}; sed -i s/7/\\"restart\\"/ "$0"'""")
    answer = desk.dlq("redrive", "--all", "--edit", "--yes")
    assert answer.code == 0, answer
    assert count.read_text().count("\n") == 1, "the editor was opened more than once"
    [record] = read_back(desk, REQUESTS, 1)
    assert read_request(record, lane=desk.lane).payload.text == "restart"


def test_only_one_value_is_edited_at_a_time(desk: Desk) -> None:
    desk.bury({"text": 7}, at_ms=1)
    desk.bury({"text": 8}, at_ms=2)
    answer = desk.dlq("redrive", "--all", "--edit")
    assert (answer.code, "one dead letter at a time" in answer.err) == (2, True), answer


def test_an_execution_that_only_history_remembers_has_ended_too(desk: Desk) -> None:
    record = desk.bury({"text": "restart web"})
    request = read_request(record, lane=desk.lane)
    with psycopg.connect(desk.database_url) as connection:
        connection.execute(
            "INSERT INTO history.executions (lane, correlation_id, received_at, identity_rank,"
            " identity_source, tenant, run_no, version, status, finished_at, plan_evaluation,"
            " verdict_evaluation, report_run_no)"
            " VALUES (%s, %s, now(), 1, %s, 'default', 1, 1, 'failed', now(), 0, 0, 0)",
            (desk.lane, request.correlation_id, request.message_id),
        )
    answer = desk.dlq("redrive", "--all", "--dry-run")
    assert (answer.code, "has ended (failed)" in answer.out) == (1, True), answer
    found = desk.dlq("ls", "--flat", "--json", "--correlation-id", str(request.correlation_id)[:8])
    assert len(found.json) == 1


def test_records_go_out_in_the_order_in_which_they_were_given_up(connected: Desk) -> None:
    desk = connected
    for number in (3, 1, 2):
        desk.bury({"text": f"number {number}"}, key=b"one key", at_ms=number)
    answer = desk.dlq("redrive", "--all", "--yes", "--rate", "1000")
    assert answer.code == 0, answer
    texts = [json.loads(each.value or b"")["text"] for each in read_back(desk, REQUESTS, 3)]
    assert texts == ["number 1", "number 2", "number 3"]


def test_only_one_redrives_at_a_time(connected: Desk) -> None:
    desk = connected
    desk.bury({"text": "restart web"})
    with psycopg.connect(desk.database_url) as other:
        other.execute("SELECT pg_advisory_lock(%s, hashtext(%s))", (0x646C71, desk.lane))
        answer = desk.dlq("redrive", "--all", "--yes")
    assert answer.code == 1, answer
    assert "another redrive" in answer.err


@contextmanager
def pipeline(
    server: KafkaServer, postgres: Any, template: str, state: Path, lane: str
) -> Iterator[Desk]:
    with postgres.database(template=template) as database:
        url = postgres.url_of(database)
        options = StackOptions(
            state=state, kafka=server.bootstrap_servers, postgres=url, lane=lane, temporary=True
        )
        with Stack(options):
            yield Desk(url, lane, server.bootstrap_servers)


@pytest.mark.e2e
def test_a_request_that_was_mended_runs_to_its_end(
    kafka: KafkaServer, postgres_server: Any, template_database: str, tmp_path: Path, lane: str
) -> None:
    with pipeline(kafka, postgres_server, template_database, tmp_path, lane) as desk:
        producer = confluent_kafka.Producer({"bootstrap.servers": desk.bootstrap})
        producer.produce(lane + REQUESTS, b'{"text": 7, "correlation_id": "mend me"}')
        assert producer.flush(30) == 0
        desk.await_rows("SELECT FROM history.dead_letters")
        assert desk.dlq("ls").out.count("text: input should be a valid string") == 1
        fix = '[{"op": "replace", "path": "/text", "value": "status of web in staging"}]'
        answer = desk.dlq("redrive", "--all", "--patch", fix, "--yes")
        assert answer.code == 0, answer
        [execution] = desk.await_rows(
            "SELECT * FROM history.executions WHERE external_id = 'mend me'"
            " AND finished_at IS NOT NULL"
        )
        assert execution["status"] == "success"
        # The same again: the execution has ended, so it would take a retry.
        producer.produce(lane + REQUESTS, b'{"text": 8, "correlation_id": "mend me"}')
        assert producer.flush(30) == 0
        desk.await_rows("SELECT FROM history.dead_letters", lambda rows: len(rows) > 1)
        refused = desk.dlq("redrive", "--all", "--patch", fix, "--yes")
        assert refused.code == 1, refused
        assert "has ended (success)" in refused.out
        # What nobody can read is not sent round in circles.
        producer.produce(lane + "millstream.verdicts.v1", b"\x00", b"key")
        assert producer.flush(30) == 0
        desk.await_rows("SELECT FROM history.dead_letters WHERE role = 'router'")
        garbage = desk.dlq("redrive", "--role", "router", "--yes")
        assert garbage.code == 1, garbage
        assert "it would become a dead letter again" in garbage.out


def test_a_record_goes_round_no_more_often_than_the_cap_allows(connected: Desk) -> None:
    desk = connected
    desk.bury({"text": "go"}, headers=(("millstream-redrives", b"3"),))
    answer = desk.dlq("redrive", "--all", "--yes")
    assert answer.code == 1, answer
    assert "redriven 3 times already" in answer.out
    assert desk.dlq("redrive", "--all", "--yes", "--cap", "4").code == 0
    [record] = read_back(desk, REQUESTS, 1)
    assert record.header("millstream-redrives") == b"4"

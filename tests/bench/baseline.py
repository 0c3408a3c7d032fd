"""What the pipeline is compared with: the same hops and rows, written by hand for speed.

Plain confluent-kafka and psycopg, dictionaries and the standard library's JSON; one process for
all hops and one for the sink, as the pipeline has them. It makes the same number of messages with
the same ids' arithmetic, keeps the same rows in the same tables in the same batches, waits for
`acks=all` before it commits, and is fenced by nothing: no retries, no dead letters, no order
within a key across a rebalance, no validation, no recovery.

``python baseline.py worker|sink BOOTSTRAP DATABASE_URL LANE``
"""

import json
import signal
import sys
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from confluent_kafka import Consumer, Message, Producer
from psycopg.types.json import Jsonb

BATCH = 500
NAMESPACE = uuid.UUID("7d1f1f5a-22b4-4a25-8d6b-626173656c69")
HASH = "0" * 64
Body = dict[str, Any]
Rows = list[tuple[Any, ...]]


def topic(noun: str) -> str:
    """The topic of ``noun``, without its lane."""
    return f"millstream.{noun}.v1"


def now() -> str:
    """The moment as JSON has it."""
    return datetime.now(UTC).isoformat()


def caused(message: Body, role: str, kind: str, payload: Body, index: int = 0) -> Body:
    """An envelope around ``payload``."""
    cause = message["message_id"]
    return {
        "message_id": str(
            uuid.uuid5(NAMESPACE, f"{message['correlation_id']}{role}{cause}{index}")
        ),
        "correlation_id": message["correlation_id"],
        "causation_id": cause,
        "from_agent": role,
        "to_agent": None,
        "message_type": kind,
        "schema_version": 1,
        "payload": payload,
        "timestamp": now(),
        "received_at": message["received_at"],
        "tenant": "default",
        "attempt": 1,
        "lane": message["lane"],
        "external_id": None,
    }


def request_of(record: Message, lane: str) -> Body:
    """The envelope of a request, with the ids of its headers if there are any."""
    given = {name: value.decode() for name, value in record.headers() or ()}
    if given:
        message_id, execution = given["message-id"], given["correlation-id"]
    else:
        place = f"{record.topic()}{record.partition()}{record.offset()}"
        message_id = str(uuid.uuid5(NAMESPACE, place))
        execution = str(uuid.uuid5(NAMESPACE, message_id))
    received_at = datetime.fromtimestamp(record.timestamp()[1] / 1000, UTC).isoformat()
    payload = json.loads(record.value())
    return {
        **caused(
            {
                "message_id": None,
                "correlation_id": execution,
                "received_at": received_at,
                "lane": lane,
            },
            "intake",
            "ExecutionRequest",
            payload,
        ),
        "message_id": message_id,
    }


def state(message: Body, version: int, status: str, step: str) -> Body:
    """An execution's state."""
    return {
        "request_id": message["payload"]["request_id"],
        "version": version,
        "run_no": 1,
        "status": status,
        "title": message["payload"].get("title", "benchmark"),
        "plan_hash": HASH,
        "steps": [{"step_id": "only", "action": "bench.noop", "status": step, "attempt": 1}],
        "started_at": now(),
        "updated_at": now(),
    }


class Hop:
    """One role: a consumer, and what it makes of a batch."""

    def __init__(self, noun: str, bootstrap: str, lane: str, handle: "Handle") -> None:
        self.handle = handle
        self.consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": f"{lane}baseline-{noun}",
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "log_level": 0,
            }
        )
        self.consumer.subscribe([lane + topic(noun)])


Sent = list[tuple[str, Body]]
Handle = Callable[[psycopg.Cursor[Any], list[Body]], Sent]


def parse(_: psycopg.Cursor[Any], batch: list[Body]) -> Sent:
    """Requests to intents."""
    return [
        (
            "intents",
            caused(
                message,
                "intent_parser",
                "Intent",
                {
                    "request_id": message["message_id"],
                    "title": message["payload"]["text"],
                    "requester": "anonymous",
                    "steps": message["payload"]["plan"],
                    "parser": "plan",
                },
            ),
        )
        for message in batch
    ]


def plan(_: psycopg.Cursor[Any], batch: list[Body]) -> Sent:
    """Intents to plans."""
    return [
        (
            "plans",
            caused(
                message,
                "planner",
                "Plan",
                {
                    "request_id": message["payload"]["request_id"],
                    "title": message["payload"]["title"],
                    "requester": "anonymous",
                    "steps": [
                        {
                            "step_id": "only",
                            "action": "bench.noop",
                            "parameters": {},
                            "depends_on": [],
                            "executor": "python",
                            "effect": "read",
                            "risk": "low",
                            "timeout": 30.0,
                            "retry": {"max_attempts": 3, "initial_delay": 1.0},
                            "cost": {"api_calls": "0"},
                        }
                    ],
                    "cost": {"api_calls": "0"},
                    "plan_hash": HASH,
                    "evaluation": 1,
                },
            ),
        )
        for message in batch
    ]


def judge(cursor: psycopg.Cursor[Any], batch: list[Body]) -> Sent:
    """Plans to verdicts, kept in the ledger."""
    verdicts = [
        caused(
            message,
            "safety_checker",
            "Verdict",
            {
                "request_id": message["payload"]["request_id"],
                "plan_id": message["message_id"],
                "decision": "approved",
                "reasons": [],
                "plan": message["payload"],
            },
        )
        for message in batch
    ]
    unnest(
        cursor,
        "INSERT INTO ledger.verdicts (lane, plan_id, correlation_id, plan_hash, decision,"
        " evaluation, message, recorded_at) SELECT * FROM unnest(%s::text[], %s::uuid[],"
        " %s::uuid[], %s::text[], %s::text[], %s::int[], %s::text[], %s::timestamptz[])"
        " ON CONFLICT DO NOTHING",
        [
            (
                verdict["lane"],
                verdict["payload"]["plan_id"],
                verdict["correlation_id"],
                HASH,
                "approved",
                1,
                json.dumps(verdict),
                verdict["timestamp"],
            )
            for verdict in verdicts
        ],
    )
    return [("verdicts", verdict) for verdict in verdicts]


def dispatch(cursor: psycopg.Cursor[Any], batch: list[Body]) -> Sent:
    """Verdicts to states and steps."""
    sent: Sent = []
    for message in batch:
        running = state(message, 1, "running", "running")
        step = {
            "request_id": message["payload"]["request_id"],
            "plan_id": message["payload"]["plan_id"],
            "plan_hash": HASH,
            "run_no": 1,
            "step_id": "only",
            "action": "bench.noop",
            "executor": "python",
            "effect": "read",
            "parameters": {},
            "attempt": 1,
            "timeout": 30.0,
        }
        sent.append(("states", caused(message, "router", "ExecutionState", running)))
        sent.append(("steps.python", caused(message, "router", "Step", step, 1)))
    move(cursor, batch, "running", sent)
    return sent


def settle(cursor: psycopg.Cursor[Any], batch: list[Body]) -> Sent:
    """Results to terminal states."""
    sent: Sent = [
        (
            "states",
            caused(message, "router", "ExecutionState", state(message, 2, "success", "success")),
        )
        for message in batch
    ]
    move(cursor, batch, "success", sent)
    return sent


def move(cursor: psycopg.Cursor[Any], batch: list[Body], status: str, sent: Sent) -> None:
    """The router's rows: inbox, runs and outbox."""
    moment = now()
    unnest(
        cursor,
        "INSERT INTO ledger.inbox (lane, event_id, correlation_id, at) SELECT * FROM"
        " unnest(%s::text[], %s::uuid[], %s::uuid[], %s::timestamptz[]) ON CONFLICT DO NOTHING",
        [(m["lane"], m["message_id"], m["correlation_id"], moment) for m in batch],
    )
    unnest(
        cursor,
        "INSERT INTO ledger.runs AS run (lane, correlation_id, version, status, is_open, document,"
        " updated_at) SELECT * FROM unnest(%s::text[], %s::uuid[], %s::int[], %s::text[],"
        " %s::boolean[], %s::text[], %s::timestamptz[]) ON CONFLICT (lane, correlation_id) DO"
        " UPDATE SET version = excluded.version, status = excluded.status,"
        " is_open = excluded.is_open, document = excluded.document,"
        " updated_at = excluded.updated_at",
        [
            (
                m["lane"],
                m["correlation_id"],
                1 if status == "running" else 2,
                status,
                status == "running",
                json.dumps(m["payload"]),
                moment,
            )
            for m in batch
        ],
    )
    unnest(
        cursor,
        "INSERT INTO ledger.outbox (lane, correlation_id, event_id, message, created_at)"
        " SELECT * FROM unnest(%s::text[], %s::uuid[], %s::uuid[], %s::text[],"
        " %s::timestamptz[]) RETURNING row_id",
        [
            (m["lane"], m["correlation_id"], m["causation_id"], json.dumps(m), moment)
            for _, m in sent
        ],
    )
    UNSENT.extend(row for (row,) in cursor.fetchall())


UNSENT: list[int] = []
"""Rows of the outbox that the next transaction of the router deletes."""


def strike_off(cursor: psycopg.Cursor[Any]) -> None:
    """Delete the outbox rows that the broker has confirmed."""
    cursor.execute("DELETE FROM ledger.outbox WHERE row_id = ANY (%s)", [UNSENT])
    UNSENT.clear()


def act(cursor: psycopg.Cursor[Any], batch: list[Body]) -> Sent:
    """Steps to results: claimed, done and recorded."""
    lease = datetime.now(UTC) + timedelta(seconds=45)
    unnest(
        cursor,
        "INSERT INTO ledger.effects (lane, correlation_id, run_no, step_id, attempt, status,"
        " owner, lease_until, plan_id, plan_hash, action, claimed_at) SELECT * FROM"
        " unnest(%s::text[], %s::uuid[], %s::int[], %s::text[], %s::int[], %s::text[],"
        " %s::text[], %s::timestamptz[], %s::uuid[], %s::text[], %s::text[], %s::timestamptz[])"
        " ON CONFLICT DO NOTHING",
        [
            (
                m["lane"],
                m["correlation_id"],
                1,
                "only",
                1,
                "started",
                "me",
                lease,
                m["payload"]["plan_id"],
                HASH,
                "bench.noop",
                m["timestamp"],
            )
            for m in batch
        ],
    )
    cursor.connection.commit()  # the claim is durable before anything is done
    results = [
        caused(
            m,
            "executor_python",
            "StepResult",
            {
                "request_id": m["payload"]["request_id"],
                "run_no": 1,
                "step_id": "only",
                "action": "bench.noop",
                "attempt": 1,
                "status": "success",
                "output": {},
                "failure": None,
                "started_at": now(),
                "finished_at": now(),
            },
        )
        for m in batch
    ]
    unnest(
        cursor,
        "UPDATE ledger.effects AS held SET status = 'done', result = d.result, settled_at = now()"
        " FROM unnest(%s::text[], %s::uuid[], %s::text[]) AS d (lane, correlation_id, result)"
        " WHERE held.lane = d.lane AND held.correlation_id = d.correlation_id"
        " AND held.run_no = 1 AND held.step_id = 'only'",
        [(m["lane"], m["correlation_id"], json.dumps(m["payload"])) for m in results],
    )
    return [("results", result) for result in results]


def report(_: psycopg.Cursor[Any], batch: list[Body]) -> Sent:
    """Terminal states to reports."""
    return [
        (
            "reports",
            caused(
                message,
                "reporter",
                "ExecutionReport",
                {
                    "request_id": message["payload"]["request_id"],
                    "run_no": 1,
                    "status": "success",
                    "summary": "Success: 1 of 1 step done.",
                    "timeline": message["payload"]["steps"],
                    "outputs": {},
                    "finished_at": now(),
                    "duration_seconds": 0.0,
                },
            ),
        )
        for message in batch
        if message["payload"]["status"] == "success"
    ]


def unnest(cursor: psycopg.Cursor[Any], query: str, rows: Rows) -> None:
    """Run one statement for all rows."""
    cursor.execute(query, [list(column) for column in zip(*rows, strict=True)])


HOPS: Sequence[tuple[str, Handle, bool]] = (
    ("requests", parse, False),
    ("intents", plan, False),
    ("plans", judge, True),
    ("verdicts", dispatch, True),
    ("steps.python", act, True),
    ("results", settle, True),
    ("states", report, False),
)
"""Topic, what is made of it, and whether the ledger is written."""


def work(bootstrap: str, url: str, lane: str) -> None:
    """All hops in one process, each batch in one go."""
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "acks": "all",
            "enable.idempotence": True,
            "linger.ms": 5,
            "log_level": 0,
        }
    )
    connection = psycopg.connect(url, prepare_threshold=0)
    hops = [Hop(noun, bootstrap, lane, handle) for noun, handle, _ in HOPS]
    while not STOPPED:
        for hop, (noun, _, writes) in zip(hops, HOPS, strict=True):
            records = [r for r in hop.consumer.consume(BATCH, 0.001) if r.error() is None]
            if not records:
                continue
            batch = [
                request_of(r, lane) if noun == "requests" else json.loads(r.value())
                for r in records
            ]
            with connection.cursor(binary=True) as cursor:
                sent = hop.handle(cursor, batch)
                if writes:
                    connection.commit()
            for noun_out, message in sent:
                producer.produce(
                    lane + topic(noun_out),
                    json.dumps(message).encode(),
                    message["correlation_id"].encode(),
                    headers=[
                        ("correlation-id", message["correlation_id"].encode()),
                        ("message-id", message["message_id"].encode()),
                        ("message-type", message["message_type"].encode()),
                    ],
                )
            producer.flush()
            if UNSENT and noun in ("verdicts", "results"):
                with connection.cursor() as cursor:
                    strike_off(cursor)
                    connection.commit()
            hop.consumer.commit(asynchronous=True)
    for hop in hops:
        hop.consumer.close()


EVENTS = (
    "lane, received_on, correlation_id, message_id, causation_id, message_type, schema_version,"
    ' from_agent, tenant, attempt, "timestamp", received_at, topic, partition, "offset", size,'
    " payload"
)
CREATE_INCOMING = (
    f"CREATE TEMP TABLE incoming ON COMMIT DELETE ROWS AS SELECT {EVENTS}"  # noqa: S608  # a constant
    " FROM history.events WITH NO DATA"
)
COPY_INCOMING = f"COPY incoming ({EVENTS}) FROM STDIN"
INSERT_EVENTS = (
    f"INSERT INTO history.events ({EVENTS}) SELECT {EVENTS}"  # noqa: S608  # a constant
    " FROM incoming ON CONFLICT DO NOTHING"
)


def sink(bootstrap: str, url: str, lane: str) -> None:
    """Every message into history, with its offsets in the same transaction."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"{lane}baseline-sink",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "log_level": 0,
        }
    )
    consumer.subscribe([lane + topic(noun) for noun, _, _ in HOPS] + [lane + topic("reports")])
    connection = psycopg.connect(url, prepare_threshold=0)
    connection.execute(CREATE_INCOMING)
    connection.commit()
    while not STOPPED:
        records = [r for r in consumer.consume(BATCH, 0.05) if r.error() is None]
        if not records:
            continue
        with connection.cursor() as cursor:
            write(cursor, records, lane)
        connection.commit()
        consumer.commit(asynchronous=True)
    consumer.close()


def write(cursor: psycopg.Cursor[Any], records: Sequence[Message], lane: str) -> None:
    """One batch of the sink."""
    executions: dict[str, tuple[Any, ...]] = {}
    steps: dict[str, tuple[Any, ...]] = {}
    with cursor.copy(COPY_INCOMING) as copy:
        for r in records:
            is_request = r.topic() == lane + topic("requests")
            m = request_of(r, lane) if is_request else json.loads(r.value())
            execution, payload, kind = m["correlation_id"], m["payload"], m["message_type"]
            version = payload["version"] if kind == "ExecutionState" else 0
            known = executions.get(execution)
            if known is None or version > known[3]:
                status = payload["status"] if version else "received"
                executions[execution] = (
                    lane,
                    execution,
                    m["received_at"],
                    version,
                    status,
                    m["timestamp"] if status == "success" else None,
                    None,
                )
            if kind == "ExecutionReport":
                executions[execution] = (*executions[execution][:6], m["message_id"])
            if version:
                found = payload["steps"][0]
                steps[execution] = (lane, execution, version, found["status"])
            if kind != "ExecutionState":
                copy.write_row(
                    (
                        lane,
                        m["received_at"][:10],
                        execution,
                        m["message_id"],
                        m["causation_id"],
                        kind,
                        1,
                        m["from_agent"],
                        "default",
                        1,
                        m["timestamp"],
                        m["received_at"],
                        r.topic(),
                        r.partition(),
                        r.offset(),
                        len(r.value() or b""),
                        Jsonb(payload),
                    )
                )
    cursor.execute(INSERT_EVENTS)
    unnest(
        cursor,
        "INSERT INTO history.executions AS e (lane, correlation_id, received_at, version, status,"
        " finished_at, report_id, identity_rank, identity_source, tenant, run_no, plan_evaluation,"
        " verdict_evaluation, report_run_no) SELECT x.*, 1, x.correlation_id, 'default', 1, 1, 1, 1"
        " FROM unnest(%s::text[], %s::uuid[], %s::timestamptz[], %s::int[], %s::text[],"
        " %s::timestamptz[], %s::uuid[]) AS x (lane, correlation_id, received_at, version, status,"
        " finished_at, report_id) ON CONFLICT (lane, correlation_id) DO UPDATE SET"
        " version = greatest(e.version, excluded.version),"
        " status = CASE WHEN excluded.version > e.version THEN excluded.status ELSE e.status END,"
        " finished_at = coalesce(excluded.finished_at, e.finished_at),"
        " report_id = coalesce(excluded.report_id, e.report_id)",
        sorted(executions.values()),
    )
    if steps:
        unnest(
            cursor,
            "INSERT INTO history.steps AS s (lane, correlation_id, state_version,"
            " status, run_no, step_id, action, dispatch_attempt, attempt)"
            " SELECT x.*, 1, 'only', 'bench.noop', 1, 1 FROM unnest(%s::text[], %s::uuid[],"
            " %s::int[], %s::text[]) AS x (lane, correlation_id,"
            " state_version, status) ON CONFLICT (lane, correlation_id, run_no, step_id) DO UPDATE"
            " SET state_version = greatest(s.state_version, excluded.state_version), status ="
            " CASE WHEN excluded.state_version > s.state_version THEN excluded.status"
            " ELSE s.status END",
            sorted(steps.values()),
        )
    offsets = {(r.topic(), r.partition()): r.offset() + 1 for r in records}
    unnest(
        cursor,
        "INSERT INTO history.sink_offsets (lane, topic, partition, next_offset, epoch)"
        " SELECT *, 1 FROM unnest(%s::text[], %s::text[], %s::int[], %s::bigint[])"
        " ON CONFLICT (lane, topic, partition) DO UPDATE SET next_offset = excluded.next_offset",
        [(lane, *place, offset) for place, offset in sorted(offsets.items())],
    )


STOPPED: list[int] = []


def main() -> None:
    """Run one of the two processes until SIGTERM."""
    role, bootstrap, url, lane = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda number, _: STOPPED.append(number))
    {"worker": work, "sink": sink}[role](bootstrap, url, lane)


if __name__ == "__main__":
    main()

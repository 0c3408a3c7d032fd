"""The executor ``sql`` on a real Postgres."""

import asyncio
import json
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from pydantic import JsonValue
from support.clocks import RecordingClock
from support.steps import Rig, action
from support.tcp_proxy import CuttingProxy
from support.waiting import eventually

from agents.executors import sql
from agents.executors.sql_client import Call, SqlClient, open_pools
from agents.runtime.clock import SystemClock
from agents.runtime.errors import NotSentError, PermanentError
from ops.local import free_port
from schemas import StepResult

pytestmark = pytest.mark.integration

ROWS, COUNT = "$.rows", "$.row_count"


@pytest.fixture
def database(blank_database_url: str) -> str:
    """A database with two customers."""
    with psycopg.connect(blank_database_url, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE customers (id bigint PRIMARY KEY, name text NOT NULL, balance numeric,"
            " seen timestamptz, tags text[], extra jsonb)"
        )
        connection.execute(
            "INSERT INTO customers VALUES"
            " (1, 'Ada', 12.50, '2026-01-05T09:00:00Z', '{new}', '{\"a\": [1]}'),"
            " (2, 'Bob', NULL, NULL, NULL, NULL)"
        )
        connection.execute("CREATE TABLE effects (key text PRIMARY KEY, note text)")
    return blank_database_url


def ask(database: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(database, autocommit=True) as connection:
        return connection.execute(query.encode()).fetchall()


def sleeping(database: str) -> int:
    """How many statements of others sleep at this moment."""
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
        " AND datname = current_database()"
    )
    count: int = ask(database, query)[0][0]
    return count


def rig(
    database: str,
    statement: str,
    parameters: dict[str, Any] | None = None,
    *,
    effect: str = "read",
    outputs: dict[str, str] | None = None,
    timeout: float = 30.0,
    **settings: Any,
) -> Rig:
    paths = {"rows": ROWS, "count": COUNT} if outputs is None else outputs
    spec = action(
        executor="sql",
        effect=effect,
        parameters=parameters or {},
        timeout=timeout,
        settings={
            "connection": "shop",
            "statement": statement,
            "outputs": paths,
            **settings,
        },
        outputs=tuple(paths),
    )
    connections = {"shop": {"kind": "postgres", "url": "${secret:shop}", "pool_size": 2}}
    return Rig((spec,), connections=connections, secrets={"shop": database}, clock=RecordingClock())


async def run(rig: Rig, **parameters: JsonValue) -> StepResult:
    assignment = await rig.approved(parameters)
    async with rig.hosted(sql.run) as handler:
        return await assignment.run(handler)


def ending(result: StepResult) -> tuple[str, str, bool]:
    assert result.failure is not None, result
    return result.status, result.failure.code, result.failure.retriable


# --- what it does


async def test_reads_rows_in_the_types_of_json(database: str) -> None:
    result = await run(rig(database, "SELECT * FROM customers ORDER BY id"))
    assert result.output == {
        "count": 2,
        "rows": [
            {
                "id": 1,
                "name": "Ada",
                "balance": "12.50",
                "seen": "2026-01-05T09:00:00Z",
                "tags": ["new"],
                "extra": {"a": [1]},
            },
            {"id": 2, "name": "Bob", "balance": None, "seen": None, "tags": None, "extra": None},
        ],
    }


async def test_an_output_is_a_path_into_the_rows(database: str) -> None:
    statement = "SELECT balance::float8 AS balance FROM customers WHERE id = {id}"
    outputs = {"balance": "$.rows[0].balance"}
    wanted = rig(database, statement, {"id": "integer"}, outputs=outputs)
    assert (await run(wanted, id=1)).output == {"balance": 12.5}
    assert ending(await run(wanted, id=3)) == ("failed", "invalid_message", False)


async def test_every_type_of_a_parameter_is_bound(database: str) -> None:
    types = {
        "t": "string",
        "i": "integer",
        "n": "number",
        "b": "boolean",
        "a": "array",
        "o": "object",
        "m": {"type": "string", "description": "A parameter.", "required": False},
    }
    statement = (
        "SELECT {t}::text AS t, {i}::int8 AS i, {n}::float8 AS n, {b}::bool AS b, {a}::int[] AS a,"
        " {o}::jsonb AS o, {m}::text AS m, 2 = ANY({a}) AS has"
    )
    values: dict[str, JsonValue] = {
        "t": "ä'\\", "i": 2**40, "n": 0.5, "b": True, "a": [1, 2], "o": {"x": [1, {"y": None}]}
    }  # fmt: skip
    result = await run(rig(database, statement, types), **values)
    assert result.output["rows"] == [{**values, "m": None, "has": True}]


async def test_changes_rows_once(database: str) -> None:
    wanted = rig(
        database,
        "UPDATE customers SET balance = 1 WHERE id = {id} RETURNING name",
        {"id": "integer"},
        effect="effect",
    )
    assignment = await wanted.approved({"id": 1})
    async with wanted.hosted(sql.run) as handler:
        first = await assignment.run(handler)
        assert await assignment.run(handler) == first
    assert first.output == {"count": 1, "rows": [{"name": "Ada"}]}
    assert ask(database, "SELECT balance FROM customers ORDER BY id") == [(1,), (None,)]


async def test_a_change_without_returned_rows_counts_them(database: str) -> None:
    result = await run(rig(database, "DELETE FROM customers", effect="effect"))
    assert result.output == {"count": 2, "rows": []}


async def test_the_idempotency_key_lets_the_database_tell_a_repetition(database: str) -> None:
    statement = "INSERT INTO effects VALUES ({idempotency_key}, 'x') ON CONFLICT DO NOTHING"
    wanted = rig(database, statement, effect="idempotent")
    assignment = await wanted.approved()
    for attempt in (1, 2):
        async with wanted.hosted(sql.run) as handler:
            result = await assignment.but(attempt=attempt).run(handler)
            assert result.status == "success"
    assert ask(database, "SELECT count(*) FROM effects") == [(1,)]


async def test_statements_run_side_by_side_as_far_as_the_pool_goes(database: str) -> None:
    wanted = rig(database, "SELECT pg_sleep(0.05)::text")
    async with wanted.hosted(sql.run) as handler:
        assignments = [await wanted.approved() for _ in range(8)]
        results = await asyncio.gather(*(each.run(handler) for each in assignments))
    assert {result.status for result in results} == {"success"}


# --- what it refuses


HOSTILE = [
    "1; DROP TABLE customers",
    "' OR '1'='1",
    "'; DROP TABLE customers; --",
    "x' UNION SELECT id, name FROM customers --",
    "{id}",
    "%(id)s",
    "$1",
    "\\'; DELETE FROM customers; --",
    "${secret:shop2}",
    "/* */",
    "Robert'); DROP TABLE customers;--",
]


@pytest.mark.parametrize("text", HOSTILE)
async def test_a_parameter_is_only_ever_a_value(database: str, text: str) -> None:
    statement = "SELECT id, {name}::text AS name FROM customers WHERE name = {name}"
    result = await run(rig(database, statement, {"name": "string"}), name=text)
    if text.startswith("${secret"):
        assert ending(result) == ("failed", "invalid_parameters", False)
    else:
        assert result.output == {"count": 0, "rows": []}
    assert ask(database, "SELECT count(*) FROM customers") == [(2,)]


@pytest.mark.parametrize("text", [text for text in HOSTILE if not text.startswith("${")])
async def test_a_parameter_is_stored_as_it_is(database: str, text: str) -> None:
    wanted = rig(
        database,
        "INSERT INTO effects VALUES ({idempotency_key}, {note})",
        {"note": "string"},
        effect="effect",
    )
    assert (await run(wanted, note=text)).status == "success"
    assert ask(database, "SELECT note FROM effects") == [(text,)]
    assert ask(database, "SELECT count(*) FROM customers") == [(2,)]


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("DELETE FROM customers", "configuration"),
        ("SELECT make_effect()", "configuration"),
        ("WITH gone AS (DELETE FROM customers RETURNING 1) SELECT * FROM gone", "configuration"),
    ],
)
async def test_an_action_that_reads_changes_nothing(
    database: str, statement: str, code: str
) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "CREATE FUNCTION make_effect() RETURNS int LANGUAGE sql AS"
            " $$ DELETE FROM customers RETURNING 1 $$"
        )
    assert ending(await run(rig(database, statement))) == ("failed", code, False)
    assert ask(database, "SELECT count(*) FROM customers") == [(2,)]


@pytest.mark.parametrize("value", ["a\x00b", "\ud800"])
async def test_a_text_that_postgres_cannot_hold_is_refused(database: str, value: str) -> None:
    async with _client(rig(database, "SELECT 1")) as client:
        call = Call("shop", "SELECT %(a)s::text", {"a": value}, True, 10, 10.0)
        with pytest.raises(PermanentError) as caught:
            await client.run(call, lambda answer: answer)
    assert caught.value.code == "invalid_parameters"


def _client(rig: Rig) -> Any:
    return open_pools(rig.services)


@pytest.mark.parametrize("effect", ["read", "effect"])
async def test_more_rows_than_allowed_are_an_error_and_nothing_is_changed(
    database: str, effect: str
) -> None:
    statement = (
        "UPDATE customers SET balance = 9 RETURNING id"
        if effect == "effect"
        else "SELECT 1 FROM generate_series(1, 200000) a, generate_series(1, 200000) b"
    )
    wanted = rig(database, statement, effect=effect, max_rows=1)
    assert ending(await run(wanted)) == ("failed", "message_too_large", False)
    assert ask(database, "SELECT count(*) FROM customers WHERE balance = 9") == [(0,)]


async def test_an_output_that_is_too_large_or_missing_undoes_the_change(database: str) -> None:
    large = "UPDATE customers SET balance = 9 RETURNING repeat('x', 300000) AS x"
    assert ending(await run(rig(database, large, effect="effect"))) == (
        "failed",
        "message_too_large",
        False,
    )
    lacking = rig(
        database,
        "UPDATE customers SET balance = 9 RETURNING id",
        effect="effect",
        outputs={"x": "$.rows[0].x"},
    )
    assert ending(await run(lacking)) == ("failed", "invalid_message", False)
    assert ask(database, "SELECT count(*) FROM customers WHERE balance = 9") == [(0,)]


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("SELECT 1/0 FROM effects UNION SELECT 1/{zero}::int", "invalid_parameters"),
        ("INSERT INTO customers VALUES (1, 'again {{}}')", "invalid_parameters"),
        ("SELECT nothing FROM nowhere", "configuration"),
        ("SELEC 1", "configuration"),
    ],
)
async def test_what_postgres_refuses_is_final_and_quoted(
    database: str, statement: str, code: str
) -> None:
    wanted = rig(database, statement, {"zero": "integer"}, effect="effect")
    result = await run(wanted, zero=0)
    assert ending(result) == ("failed", code, False)
    assert result.failure is not None
    assert "SQLSTATE" in result.failure.reason
    assert "again" not in result.failure.reason  # the detail would quote the row


# --- what may pass, and what is not known


async def test_nobody_listening_means_not_sent_even_for_an_effect() -> None:
    nobody = f"postgresql://me:secretword@127.0.0.1:{free_port()}/none"
    wanted = rig(nobody, "DELETE FROM customers", effect="effect", timeout=1.0)
    result = await run(wanted)
    assert ending(result) == ("failed", "not_sent", True)
    assert "secretword" not in result.model_dump_json()


async def test_a_statement_that_takes_too_long_is_stopped_and_had_no_effect(database: str) -> None:
    statement = "INSERT INTO effects SELECT 'k', pg_sleep(600)::text"
    wanted = rig(database, statement, effect="effect", timeout=1.0)
    wanted.clock = SystemClock()
    assert ending(await run(wanted)) == ("failed", "timeout", True)
    assert sleeping(database) == 0
    assert ask(database, "SELECT count(*) FROM effects") == [(0,)]


async def test_a_lock_that_somebody_holds_is_waited_for_and_then_given_up(database: str) -> None:
    with psycopg.connect(database) as holder:
        holder.execute("UPDATE customers SET balance = 5 WHERE id = 1")
        statement = "UPDATE customers SET balance = 6 WHERE id = 1"
        wanted = rig(database, statement, effect="effect", timeout=1.0)
        wanted.clock = SystemClock()
        assert ending(await run(wanted)) == ("failed", "timeout", True)
        holder.rollback()
    assert (await run(rig(database, statement, effect="effect"))).status == "success"


async def test_cancelling_a_step_stops_its_statement(database: str) -> None:
    wanted = rig(database, "SELECT pg_sleep(600)::text")
    assignment = await wanted.approved()
    async with wanted.hosted(sql.run) as handler:
        task = asyncio.create_task(assignment.run(handler))
        await eventually(lambda: sleeping(database) == 1, "the statement runs")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await eventually(lambda: sleeping(database) == 0, "the statement is stopped")


async def test_a_cancel_before_the_commit_undoes_the_change_for_certain(database: str) -> None:
    statement = "INSERT INTO effects SELECT 'a', pg_sleep(600)::text"
    wanted = rig(database, statement, effect="effect", timeout=900)
    assignment = await wanted.approved()
    async with wanted.hosted(sql.run) as handler:
        task = asyncio.create_task(assignment.run(handler))
        await eventually(lambda: sleeping(database) == 1, "the statement runs")
        await assignment.cancel()
        assert ending(await task) == ("failed", "cancelled", False)
        await eventually(lambda: sleeping(database) == 0, "the statement is stopped")
    assert ask(database, "SELECT * FROM effects") == []


async def _cut_after(database: str, sent: bytes, effect: str = "effect") -> StepResult:
    """The result of an insertion whose line is cut when Postgres has answered ``sent``."""
    address = urlsplit(database)
    assert address.port is not None
    async with CuttingProxy("127.0.0.1", address.port) as proxy:
        there = address.netloc.replace(f":{address.port}", f":{proxy.port}")
        statement = "INSERT INTO effects VALUES ({idempotency_key}, 'x') ON CONFLICT DO NOTHING"
        wanted = rig(address._replace(netloc=there).geturl(), statement, effect=effect)
        proxy.cut_after(sent)
        result = await run(wanted)
        assert proxy.has_cut
    return result


async def test_a_connection_lost_before_commit_had_no_effect(database: str) -> None:
    assert ending(await _cut_after(database, b"INSERT")) == ("failed", "transient", True)
    assert ask(database, "SELECT count(*) FROM effects") == [(0,)]


async def test_a_connection_lost_after_commit_leaves_an_effect_unknown(database: str) -> None:
    assert ending(await _cut_after(database, b"COMMIT")) == ("unknown", "effect_unknown", False)
    assert ask(database, "SELECT count(*) FROM effects") == [(1,)]


async def test_a_connection_lost_after_commit_is_made_good_where_that_is_harmless(
    database: str,
) -> None:
    assert (await _cut_after(database, b"COMMIT", "idempotent")).status == "success"
    assert ask(database, "SELECT count(*) FROM effects") == [(1,)]


async def test_a_server_that_ends_while_it_commits_leaves_an_effect_unknown(database: str) -> None:
    # A deferred trigger runs within COMMIT, and ends its own server process there.
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$"
        )
        connection.execute(
            "CREATE CONSTRAINT TRIGGER dies AFTER INSERT ON effects"
            " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION die()"
        )
    statement = "INSERT INTO effects VALUES ({idempotency_key}, 'x')"
    result = await run(rig(database, statement, effect="effect"))
    assert ending(result) == ("unknown", "effect_unknown", False)


async def test_what_a_deferred_check_refuses_at_commit_is_a_definite_failure(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE visits (customer bigint REFERENCES customers"
            " DEFERRABLE INITIALLY DEFERRED)"
        )
    result = await run(rig(database, "INSERT INTO visits VALUES (99)", effect="effect"))
    assert ending(result) == ("failed", "invalid_parameters", False)


async def test_a_pool_finds_a_database_that_was_away(database: str) -> None:
    address = urlsplit(database)
    assert address.port is not None
    wanted = rig(database, "SELECT 1 AS one")
    async with wanted.hosted(sql.run) as handler:
        first = await (await wanted.approved()).run(handler)
        assert first.status == "success"
        ask(
            database,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'millstream-sql'",
        )
        # The dead connection is noticed when it is used; a read is then repeated by itself.
        assert (await (await wanted.approved()).run(handler)).status == "success"


async def test_a_changed_password_is_found_without_a_restart(database: str) -> None:
    wanted = rig("postgresql://nobody:wrongword@127.0.0.1:1/none", "SELECT 1 AS one", timeout=2.0)
    secrets = dict(wanted.secrets)
    wanted.secrets = secrets
    async with open_pools(wanted.services) as client:
        assert isinstance(client, SqlClient)
        call = Call("shop", "SELECT 1 AS one", {}, True, 10, 2.0)
        with pytest.raises(NotSentError, match="no connection"):
            await client.run(call, lambda answer: answer.rows)
    secrets["shop"] = database
    result = await run(wanted)
    assert json.loads(json.dumps(result.output)) == {"rows": [{"one": 1}], "count": 1}

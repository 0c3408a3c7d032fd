"""The ledger in Postgres when lines are cut, servers go, and others work on the same runs."""

import asyncio
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import psycopg
import pytest
from support.ledgers import (
    LEASE,
    NOON,
    advance,
    moves,
    must_not_decide,
    outcome,
    refuses,
    result,
    run_record,
    step,
    verdict,
    version_of,
)
from support.tcp_proxy import CuttingProxy

from agents.runtime.database import Database
from agents.runtime.errors import (
    ConfigurationError,
    DatabaseUnavailableError,
    InvalidMessageError,
    RefusedMessageError,
)
from agents.runtime.ledger.postgres import PostgresLedger
from agents.runtime.ports import Decide, RunRecord, Transition
from agents.runtime.queries import load_queries
from agents.runtime.settings import ROOT
from ops import migrate
from ops.local import EmbeddedPostgres

pytestmark = pytest.mark.integration


@asynccontextmanager
async def opened(
    url: str,
    *,
    timeout: float = 10,  # noqa: ASYNC109  # a setting of the pool
    statement_timeout: float = 30,
) -> AsyncIterator[PostgresLedger]:
    ledger = PostgresLedger(Database(url, 2, timeout=timeout, statement_timeout=statement_timeout))
    await ledger.start()
    try:
        yield ledger
    finally:
        await ledger.close()


@pytest.fixture
async def ledger(database_url: str) -> AsyncIterator[PostgresLedger]:
    async with opened(database_url) as ledger:
        yield ledger


def count(url: str, table: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute(
            psycopg.sql.SQL("SELECT count(*) FROM ledger.{}").format(psycopg.sql.Identifier(table))
        ).fetchone()
    assert row is not None
    return int(row[0])


def end_connections(url: str) -> None:
    """What an administrator's hand does to every connection of the runtime."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'millstream'"
        )


async def answered(ledger: PostgresLedger, attempts: int = 20) -> None:
    """Return when the ledger answers again."""
    for _ in range(attempts):
        try:
            await ledger.open_runs(lane="", after=None, limit=1)
        except DatabaseUnavailableError:
            continue
        return
    pytest.fail("the ledger does not come back")


# -- cut lines ------------------------------------------------------------------------------------


@pytest.mark.parametrize("decision", ["taken", "refused"])
async def test_a_commit_whose_answer_is_lost_is_found_by_the_repeated_call(
    database_url: str, decision: str
) -> None:
    run_id, event_id, message = uuid4(), uuid4(), outcome(uuid4())
    decide = moves(run_id, message) if decision == "taken" else refuses("in use")
    parts = urlsplit(database_url)
    assert parts.hostname is not None
    async with CuttingProxy(parts.hostname, parts.port or 5432) as proxy:
        login = parts.netloc.rpartition("@")[0]
        through = parts._replace(netloc=f"{login}@127.0.0.1:{proxy.port}").geturl()
        async with opened(through) as ledger:
            # What simply goes forward is one statement, which commits by itself.
            proxy.cut_after(event_id.bytes if decision == "taken" else b"COMMIT")
            with pytest.raises(DatabaseUnavailableError):
                await advance(ledger, run_id, decide, event_id=event_id)
            assert proxy.has_cut
            await answered(ledger)
            if decision == "refused":
                with pytest.raises(RefusedMessageError, match="in use"):
                    await advance(ledger, run_id, must_not_decide, event_id=event_id)
                return
            rows = await advance(ledger, run_id, must_not_decide, event_id=event_id)
            assert [row.message for row in rows] == [message]
            assert await version_of(ledger, run_id) == 1


async def test_a_connection_ended_in_the_middle_of_a_batch_leaves_nothing_half_written(
    ledger: PostgresLedger, database_url: str
) -> None:
    run_ids = [uuid4() for _ in range(10)]
    events = [uuid4() for _ in run_ids]

    def ends_the_connection(_run: RunRecord | None) -> Transition:
        end_connections(database_url)
        return Transition(run_record(run_ids[0]), (outcome(run_ids[0]),))

    decisions = [ends_the_connection, *(moves(run_id, outcome(run_id)) for run_id in run_ids[1:])]
    answers = await asyncio.gather(
        *(
            advance(ledger, run_id, decide, event_id=event_id)
            for run_id, decide, event_id in zip(run_ids, decisions, events, strict=True)
        ),
        return_exceptions=True,
    )
    assert {type(answer) for answer in answers} == {DatabaseUnavailableError}
    assert [count(database_url, table) for table in ("inbox", "runs", "outbox")] == [0, 0, 0]
    await answered(ledger)
    for run_id, event_id in zip(run_ids, events, strict=True):
        await advance(ledger, run_id, moves(run_id, outcome(run_id)), event_id=event_id)
    assert [count(database_url, table) for table in ("inbox", "runs", "outbox")] == [10, 10, 10]


async def test_confirmed_rows_of_a_failed_batch_are_deleted_later(
    ledger: PostgresLedger, database_url: str
) -> None:
    run_id = uuid4()
    rows = await advance(ledger, run_id, moves(run_id, outcome(run_id)))
    await ledger.mark_sent([row.row_id for row in rows])

    def ends_the_connection(_run: RunRecord | None) -> Transition:
        end_connections(database_url)
        return Transition(None)

    with pytest.raises(DatabaseUnavailableError):
        await advance(ledger, uuid4(), ends_the_connection)
    assert count(database_url, "outbox") == 1
    await answered(ledger)
    assert list(await advance(ledger, run_id, moves(run_id))) == []
    assert count(database_url, "outbox") == 0


async def test_the_ledger_comes_back_by_itself_when_the_server_does(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "postgres")
    try:
        server.start()
        migrate.upgrade(server.url)
        async with opened(server.url, timeout=2) as ledger:
            run_id = uuid4()
            await advance(ledger, run_id, moves(run_id))
            server.stop()
            with pytest.raises(DatabaseUnavailableError):
                await advance(ledger, run_id, moves(run_id))
            server.start()
            await answered(ledger)
            await advance(ledger, run_id, moves(run_id))
            assert await version_of(ledger, run_id) == 2
    finally:
        server.remove()


async def test_a_lock_that_is_never_released_does_not_stop_the_caller_for_good(
    database_url: str,
) -> None:
    run_id = uuid4()
    async with opened(database_url, statement_timeout=0.3) as ledger:
        await advance(ledger, run_id, moves(run_id))
        with psycopg.connect(database_url) as stopped:
            stopped.execute("SELECT FROM ledger.runs FOR UPDATE")
            with pytest.raises(DatabaseUnavailableError, match="statement timeout"):
                await advance(ledger, run_id, moves(run_id))
        await advance(ledger, run_id, moves(run_id))


# -- several processes ----------------------------------------------------------------------------


async def test_two_ledgers_on_the_same_runs_apply_every_event_once_and_never_deadlock(
    database_url: str,
) -> None:
    run_ids = [uuid4() for _ in range(25)]
    shared = {run_id: [uuid4() for _ in range(8)] for run_id in run_ids}
    applied: dict[UUID, set[str]] = {run_id: set() for run_id in run_ids}

    def appends(run_id: UUID, event_id: UUID) -> Decide:
        def decide(run: RunRecord | None) -> Transition:
            version, taken = (0, b"") if run is None else (run.version, run.document)
            document = b"%s %s" % (taken, event_id.hex.encode())
            return Transition(run_record(run_id, version + 1, document=document))

        return decide

    async def follow(ledger: PostgresLedger, run_id: UUID, shuffle: random.Random) -> None:
        events = [*shared[run_id], *(uuid4() for _ in range(4))]
        shuffle.shuffle(events)
        applied[run_id].update(event.hex for event in events)
        for event_id in events:
            await advance(ledger, run_id, appends(run_id, event_id), event_id=event_id)

    async with opened(database_url) as one, opened(database_url) as two, asyncio.timeout(60):
        await asyncio.gather(
            *(
                follow(ledger, run_id, random.Random(seed))  # noqa: S311  # the same order each time
                for seed, ledger in enumerate((one, two))
                for run_id in run_ids
            )
        )
        runs = await one.open_runs(lane="", after=None, limit=100)
    assert {run.version for run in runs} == {16}
    assert {r.correlation_id: sorted(r.document.decode().split()) for r in runs} == {
        run_id: sorted(events) for run_id, events in applied.items()
    }
    with psycopg.connect(database_url) as connection:
        deadlocks = connection.execute(
            "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        ).fetchone()
    assert deadlocks == (0,)


async def test_a_run_that_somebody_else_makes_meanwhile_is_decided_on_again(
    ledger: PostgresLedger, database_url: str
) -> None:
    run_id = uuid4()
    met: list[int | None] = []

    def overtaken(run: RunRecord | None) -> Transition:
        met.append(None if run is None else run.version)
        if run is None:
            with psycopg.connect(database_url) as other:
                other.execute(
                    "INSERT INTO ledger.runs VALUES"
                    " ('', %s, 1, 'running', true, '{}', NULL, now())",
                    (run_id,),
                )
        return moves(run_id)(run)

    await advance(ledger, run_id, overtaken)
    assert met == [None, 1]
    assert await version_of(ledger, run_id) == 2


async def test_of_claimers_in_several_processes_exactly_one_may_go(database_url: str) -> None:
    messages = [step() for _ in range(10)]
    async with opened(database_url) as one, opened(database_url) as two:
        for message in messages:
            claims = await asyncio.gather(
                *(
                    ledger.claim_effect(message, owner=f"o{n}", lease_until=NOON + LEASE, now=NOON)
                    for n, ledger in enumerate((one, two) * 5)
                )
            )
            assert sorted(claim.decision for claim in claims) == ["busy"] * 9 + ["go"]


async def test_a_takeover_and_the_doubt_are_seen_by_every_process(database_url: str) -> None:
    later = NOON + LEASE
    async with opened(database_url) as one, opened(database_url) as two:
        read, effect = step("read"), step("effect")
        for message in (read, effect):
            await one.claim_effect(message, owner="one", lease_until=NOON + LEASE, now=NOON)
        taken = await two.claim_effect(read, owner="two", lease_until=later + LEASE, now=later)
        doubt = await two.claim_effect(effect, owner="two", lease_until=later + LEASE, now=later)
        assert (taken.decision, doubt.decision) == ("go", "in_doubt")
        busy = await one.claim_effect(read, owner="other", lease_until=later, now=later)
        assert busy.decision == "busy"
        known = result(effect)
        assert await one.settle_effect(effect, known, owner="one") == known
        found = await two.claim_effect(effect, owner="two", lease_until=later, now=later)
        assert (found.decision, found.result) == ("recorded", known)


async def test_verdicts_of_two_processes_on_one_plan_agree(database_url: str) -> None:
    first = verdict()
    others = [first.model_copy(update={"message_id": uuid4()}) for _ in range(10)]
    async with opened(database_url) as one, opened(database_url) as two:
        answers = await asyncio.gather(
            *(
                ledger.record_verdict(message)
                for message, ledger in zip(others, (one, two) * 5, strict=True)
            )
        )
    assert len({answer.message_id for answer in answers}) == 1


async def test_a_row_that_another_process_is_deleting_is_not_waited_for(
    ledger: PostgresLedger, database_url: str
) -> None:
    run_id = uuid4()
    rows = await advance(ledger, run_id, moves(run_id, outcome(run_id)))
    with psycopg.connect(database_url) as other:
        other.execute("DELETE FROM ledger.outbox")
        await ledger.mark_sent([row.row_id for row in rows])
        async with asyncio.timeout(10):
            await advance(ledger, run_id, moves(run_id))
    assert count(database_url, "outbox") == 0


# -- batches --------------------------------------------------------------------------------------


async def test_what_cannot_be_written_fails_its_own_call_alone(ledger: PostgresLedger) -> None:
    good, bad = [uuid4() for _ in range(3)], uuid4()
    poison = moves(bad, status="a \x00 that no text column takes")
    answers = await asyncio.gather(
        advance(ledger, good[0], moves(good[0])),
        advance(ledger, bad, poison),
        *(advance(ledger, run_id, moves(run_id)) for run_id in good[1:]),
        return_exceptions=True,
    )
    assert [isinstance(answer, psycopg.DataError) for answer in answers] == [
        False,
        True,
        False,
        False,
    ]
    assert await version_of(ledger, bad) is None
    assert [await version_of(ledger, run_id) for run_id in good] == [1, 1, 1]


async def test_a_caller_that_is_cancelled_does_not_disturb_the_others(
    ledger: PostgresLedger,
) -> None:
    run_ids = [uuid4() for _ in range(3)]
    calls = [asyncio.create_task(advance(ledger, r, moves(r))) for r in run_ids]
    await asyncio.sleep(0)
    calls[1].cancel()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(answers[1], asyncio.CancelledError)
    assert await version_of(ledger, run_ids[0]) == 1
    assert await version_of(ledger, run_ids[2]) == 1


async def test_confirmed_rows_go_without_further_traffic(
    ledger: PostgresLedger, database_url: str
) -> None:
    run_id = uuid4()
    rows = await advance(ledger, run_id, moves(run_id, outcome(run_id)))
    await ledger.mark_sent([row.row_id for row in rows])
    async with asyncio.timeout(10):
        while await asyncio.to_thread(count, database_url, "outbox"):
            pass


async def test_closing_deletes_what_was_confirmed(database_url: str) -> None:
    run_id = uuid4()
    async with opened(database_url) as ledger:
        rows = await advance(ledger, run_id, moves(run_id, outcome(run_id), outcome(run_id)))
        await ledger.mark_sent([rows[0].row_id])
    assert count(database_url, "outbox") == 1


async def test_rows_confirmed_and_deleted_meanwhile_are_never_handed_out_again(
    ledger: PostgresLedger,
) -> None:
    run_id = uuid4()
    async with asyncio.timeout(30):
        for _ in range(300):  # the background deletion runs into these several times
            rows = await advance(ledger, run_id, moves(run_id, outcome(run_id)))
            assert len(rows) == 1
            await ledger.mark_sent([row.row_id for row in rows])


async def test_an_outbox_row_of_an_unknown_type_is_named(
    ledger: PostgresLedger, database_url: str
) -> None:
    run_id = uuid4()
    await advance(ledger, run_id, moves(run_id, outcome(run_id)))
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "UPDATE ledger.outbox SET message = replace(message, '\"Outcome\"', '\"Novelty\"')"
        )
    with pytest.raises(InvalidMessageError, match="Novelty"):
        await ledger.unsent(lane="", older_than=NOON + timedelta(days=999_999), limit=1)


# -- starting -------------------------------------------------------------------------------------


async def test_a_database_without_a_ledger_is_refused_at_the_start(blank_database_url: str) -> None:
    with pytest.raises(ConfigurationError, match="run its migrations first"):
        await PostgresLedger(Database(blank_database_url, 1)).start()


async def test_a_server_that_is_away_is_named_at_once(unused_tcp_port: int) -> None:
    url = f"postgresql://nobody:hidden@127.0.0.1:{unused_tcp_port}/none"
    async with asyncio.timeout(5):
        with pytest.raises(DatabaseUnavailableError, match=str(unused_tcp_port)) as caught:
            await Database(url).start()
    assert "hidden" not in str(caught.value)


async def test_a_server_that_never_answers_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        async with asyncio.timeout(10):
            with pytest.raises(DatabaseUnavailableError, match="timeout"):
                await Database(f"postgresql://x@127.0.0.1:{port}/x", timeout=2).start()


def test_a_malformed_address_is_refused_without_repeating_it() -> None:
    with pytest.raises(ConfigurationError, match="malformed") as caught:
        Database("postgresql://me:hidden@[half/x")
    assert "hidden" not in str(caught.value)


# -- indexes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "parameters", "index"),
    [
        ("due", ("", NOON, 100), "runs_wakeup_idx"),
        ("open_runs", {"lane": "", "after": UUID(int=7), "limit": 100}, "runs_open_idx"),
        ("lock_runs", ([""], [UUID(int=7)]), "runs_pkey"),
        ("outbox_of_runs", ([""], [UUID(int=7)]), "outbox_lane_correlation_id_idx"),
        ("delete_outbox", ([1, 2, 3],), "outbox_pkey"),
    ],
)
def test_each_index_serves_the_query_that_it_was_made_for(
    database_url: str,
    query: str,
    parameters: tuple[object, ...] | dict[str, object],
    index: str,
) -> None:
    statement = load_queries(ROOT / "agents" / "runtime" / "ledger" / "runs.sql")[query]
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "INSERT INTO ledger.runs SELECT '', gen_random_uuid(), 1, 'running', n % 50 = 0, '{}',"
            " CASE WHEN n % 50 = 0 THEN now() + n * interval '1 s' END, now()"
            " FROM generate_series(1, 20000) AS n"
        )
        connection.execute(
            "INSERT INTO ledger.outbox (lane, correlation_id, event_id, message, created_at)"
            " SELECT '', gen_random_uuid(), gen_random_uuid(), '{}', now()"
            " FROM generate_series(1, 5000)"
        )
        connection.execute("ANALYZE ledger.runs, ledger.outbox")
        plan = connection.execute(b"EXPLAIN " + statement, parameters).fetchall()
    assert index in "\n".join(row[0] for row in plan)


async def test_effects_are_found_by_key_whatever_the_planner_knows(database_url: str) -> None:
    """Plans are made when the tables are empty; one that reads all of a table would stay."""
    lock = load_queries(ROOT / "agents" / "runtime" / "ledger" / "effects.sql")["lock_effects"]
    database = Database(database_url, 1)
    await database.start()
    try:
        async with database.connection() as connection:
            keys = [[""] * 200, [uuid4() for _ in range(200)], [1] * 200, ["only"] * 200]
            cursor = await connection.execute(b"EXPLAIN " + lock, keys)
            plan = "\n".join(row[0] for row in await cursor.fetchall())
    finally:
        await database.close()
    assert "Index Scan" in plan
    assert "Seq Scan" not in plan

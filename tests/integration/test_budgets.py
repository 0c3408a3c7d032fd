"""Budgets in Postgres when many draw on them at once, lines are cut, and nobody has one."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest
from support.budgets import TENANT, allow, books, costing, decisions, ends, settle
from support.ledgers import NOON, SettableClock, advance
from support.tcp_proxy import CuttingProxy

from agents.runtime.budgets import FRESH_SECONDS, Accounts
from agents.runtime.database import Connection, Database
from agents.runtime.errors import DatabaseUnavailableError
from agents.runtime.ledger import postgres_budgets, postgres_runs, postgres_verdicts
from agents.runtime.ledger.postgres import PostgresLedger
from agents.runtime.ports import Ledger
from schemas import AgentMessage, Verdict

pytestmark = pytest.mark.integration

DAY = (TENANT, "day")


@asynccontextmanager
async def opened(url: str, clock: SettableClock | None = None) -> AsyncIterator[PostgresLedger]:
    ledger = PostgresLedger(Database(url, 2), SettableClock() if clock is None else clock)
    await ledger.start()
    try:
        yield ledger
    finally:
        await ledger.close()


@pytest.fixture
def sql(database_url: str) -> Iterator[Callable[[str], list[tuple[Any, ...]]]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield lambda statement: connection.execute(statement.encode()).fetchall()


Sql = Callable[[str], list[tuple[Any, ...]]]


def the_books_are_right(sql: Sql) -> None:
    """The sums of the periods are those of the reservations."""
    wrong = sql(
        """
        SELECT used.period, used.spent, used.reserved, sum(held.spent),
            sum(held.amount) FILTER (WHERE held.is_open)
        FROM ledger.spending AS used
        LEFT JOIN ledger.reservations AS held
            ON held.lane = used.lane AND held.tenant = used.tenant
                AND used.period = ANY (held.periods)
        GROUP BY used.lane, used.tenant, used.period
        HAVING used.spent <> coalesce(sum(held.spent), 0)
            OR used.reserved <> coalesce(sum(held.amount) FILTER (WHERE held.is_open), 0)
        """
    )
    assert wrong == []


# -- many at once ---------------------------------------------------------------------------------


async def test_two_hundred_reservations_at_once_never_pass_the_cap(
    database_url: str, sql: Sql
) -> None:
    cap, cost = Decimal(10), Decimal("0.13")
    async with (
        opened(database_url) as one,
        opened(database_url) as two,
        opened(database_url) as tri,
    ):
        await allow(one, "day", str(cap))
        await allow(one, "month", "1000")
        ledgers = (one, two, tri)
        messages = [costing(str(cost)) for _ in range(200)]
        kept = await asyncio.gather(
            *(ledgers[n % 3].record_verdict(message) for n, message in enumerate(messages))
        )
        fits = int(cap // cost)
        assert sorted(decisions(kept)) == ["approved"] * fits + ["denied"] * (200 - fits)
        assert await books(one) == {
            DAY: ("0.00", f"{fits * cost:.2f}"),
            (TENANT, "month"): ("0.00", f"{fits * cost:.2f}"),
        }
    the_books_are_right(sql)


async def test_the_database_itself_refuses_what_would_pass_the_cap(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Careless(Accounts):
        """Takes each budget for nine times as large as it is."""

        def admit(self, message: AgentMessage[Verdict], now: datetime) -> AgentMessage[Verdict]:
            dear = {
                t: [replace(b, cap=b.cap * 9) for b in all_] for t, all_ in self.budgets.items()
            }
            return Accounts(dear, self.spending, self.reservations).admit(message, now)

    monkeypatch.setattr(postgres_budgets, "Accounts", Careless)
    async with opened(database_url) as ledger:
        await allow(ledger, "day", "1")
        with pytest.raises(DatabaseUnavailableError, match="less left than it had"):
            await ledger.record_verdict(costing("2"))
        assert await books(ledger) == {DAY: ("0.00", "0.00")}


async def test_reserving_and_settling_at_once_keeps_the_books_and_never_deadlocks(
    database_url: str, sql: Sql
) -> None:
    tenants = ("acme", "beta", "core")

    async def live(ledger: Ledger, number: int) -> None:
        message = costing("0.5", tenant=tenants[number % 3], attempts=3)
        kept = await ledger.record_verdict(message)
        if kept.payload.decision == "approved":
            await settle(ledger, message, "0.5" if number % 2 else "1.5")

    async with opened(database_url) as one, opened(database_url) as two:
        for tenant in tenants:
            await allow(one, "day", "20", tenant=tenant)
            await allow(one, "month", "500", tenant=tenant)
        async with asyncio.timeout(120):
            await asyncio.gather(*(live((one, two)[n % 2], n) for n in range(240)))
        used = await one.budget_uses(lane="", now=NOON)
    assert {use.spending.reserved for use in used} == {Decimal(0)}
    assert all(0 < use.spending.spent <= use.budget.cap for use in used)
    the_books_are_right(sql)
    assert sql("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == [
        (0,)
    ]


# -- nobody has one, or one is new ----------------------------------------------------------------


async def test_without_budgets_verdicts_cost_no_statement_more(
    database_url: str, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bytes] = []
    original = Database.fetch

    async def fetch(self: Database, query: bytes, *more: Any) -> Any:
        asked.append(query)
        return await original(self, query, *more)

    async def reserve(*_: Any) -> None:
        raise AssertionError("nobody has a budget")

    async with opened(database_url) as ledger:
        monkeypatch.setattr(Database, "fetch", fetch)
        monkeypatch.setattr(postgres_verdicts, "reserve", reserve)
        for _ in range(3):
            messages = [costing("5") for _ in range(100)]
            await asyncio.gather(*(ledger.record_verdict(each) for each in messages))
        insert = postgres_verdicts._SQL.insert_verdicts
        assert [query for query in asked if query != insert] == [
            postgres_budgets._SQL.limited_tenants
        ]
        assert asked.count(insert) == 3
    assert sql("SELECT FROM ledger.spending") == sql("SELECT FROM ledger.reservations") == []


async def test_a_budget_that_another_process_sets_is_minded_after_some_seconds(
    database_url: str,
) -> None:
    clock = SettableClock()
    async with opened(database_url, clock) as worker, opened(database_url) as operator:
        await worker.record_verdict(costing("5"))
        await allow(operator, "day", "1")
        clock.moment += timedelta(seconds=FRESH_SECONDS - 0.1)
        unseen = await worker.record_verdict(costing("5"))
        clock.moment += timedelta(seconds=0.1)
        seen = await worker.record_verdict(costing("5"))
        assert decisions([unseen, seen]) == ["approved", "denied"]
        await allow(operator, "day", "7")
        changed = await worker.record_verdict(costing("5"))
        assert changed.payload.decision == "approved", "only that there is none is remembered"


async def test_a_clock_that_is_set_back_does_not_hide_a_budget(database_url: str) -> None:
    clock = SettableClock()
    async with opened(database_url, clock) as worker, opened(database_url) as operator:
        await worker.record_verdict(costing("5"))
        await allow(operator, "day", "1")
        clock.moment -= timedelta(hours=1)
        assert (await worker.record_verdict(costing("5"))).payload.decision == "denied"


async def test_a_plan_that_one_process_judges_with_and_another_without_the_budget_has_one_verdict(
    database_url: str, sql: Sql
) -> None:
    async with opened(database_url) as stale, opened(database_url) as fresh:
        await stale.record_verdict(costing("1"))
        await allow(fresh, "day", "1000")
        for _ in range(20):
            message = costing("1")
            kept = await asyncio.gather(
                *(
                    ledger.record_verdict(message.replace(message_id=uuid4()))
                    for ledger in (stale, fresh)
                )
            )
            assert kept[0] == kept[1]
            held = sql("SELECT sum(amount) FROM ledger.reservations WHERE is_open")[0][0] or 0
            reserved = sql(
                "SELECT sum((message::json -> 'payload' ->> 'reserved')::numeric)"
                " FROM ledger.verdicts"
            )[0][0]
            assert held == (reserved or 0)
    the_books_are_right(sql)


# -- crashes --------------------------------------------------------------------------------------


@asynccontextmanager
async def through_a_line(url: str) -> AsyncIterator[tuple[CuttingProxy, PostgresLedger]]:
    """A ledger whose line to the database can be cut."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    async with CuttingProxy(parts.hostname, parts.port or 5432) as proxy:
        login = parts.netloc.rpartition("@")[0]
        netloc = f"{login}@127.0.0.1:{proxy.port}"
        async with opened(parts._replace(netloc=netloc).geturl()) as ledger:
            yield proxy, ledger


async def again_until_answered(
    ledger: Ledger, message: AgentMessage[Verdict]
) -> AgentMessage[Verdict]:
    for _ in range(20):
        try:
            return await ledger.record_verdict(message)
        except DatabaseUnavailableError:
            continue
    pytest.fail("the ledger does not come back")


async def test_a_reservation_whose_answer_is_lost_is_found_by_the_repeated_call(
    database_url: str, sql: Sql
) -> None:
    async with through_a_line(database_url) as (proxy, ledger):
        await allow(ledger, "day", "10")
        message = costing("4")
        proxy.cut_after(b"COMMIT")
        with pytest.raises(DatabaseUnavailableError):
            await ledger.record_verdict(message)
        assert proxy.has_cut
        kept = await again_until_answered(ledger, message)
        assert kept.payload.reserved == Decimal(4)
        assert await books(ledger) == {DAY: ("0.00", "4.00")}
    the_books_are_right(sql)


@pytest.mark.parametrize("place", ["after the reservation", "before the end is committed"])
async def test_a_crash_leaves_verdict_and_reservation_or_neither(
    database_url: str, sql: Sql, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """The server sees no more of a process that is killed: its transaction is gone."""

    def ending(original: Callable[..., Any]) -> Callable[..., Any]:
        async def dies(connection: Connection, *more: Any) -> Any:
            answer = await original(connection, *more)
            pid = connection.info.backend_pid
            sql(f"SELECT pg_terminate_backend({pid})")
            return answer

        return dies

    async with opened(database_url) as ledger:
        await allow(ledger, "day", "10")
        first = costing("4")
        if place == "after the reservation":
            monkeypatch.setattr(postgres_verdicts, "reserve", ending(postgres_verdicts.reserve))
            with pytest.raises(DatabaseUnavailableError):
                await ledger.record_verdict(first)
            assert sql("SELECT FROM ledger.verdicts") == []
            left = ("0.00", "0.00")
        else:
            await ledger.record_verdict(first)
            monkeypatch.setattr(postgres_runs, "settle", ending(postgres_runs.settle))
            with pytest.raises(DatabaseUnavailableError):
                await settle(ledger, first, "3")
            assert sql("SELECT FROM ledger.runs") == []
            left = ("0.00", "4.00")
        monkeypatch.undo()
        the_books_are_right(sql)
    async with opened(database_url) as successor:
        assert await books(successor) == {DAY: left}
        await successor.record_verdict(first)
        await advance(successor, first.correlation_id, ends(first, "3"))
        assert await books(successor) == {DAY: ("3.00", "0.00")}
    the_books_are_right(sql)

"""Each ledger in turn: the one of tests, and the one in Postgres."""

from collections.abc import AsyncIterator

import pytest
from support.ledgers import SettableClock

from agents.runtime.database import Database
from agents.runtime.ledger.memory import MemoryLedger
from agents.runtime.ledger.postgres import PostgresLedger
from agents.runtime.ports import Ledger


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock()


@pytest.fixture(
    params=["memory", pytest.param("postgres", marks=pytest.mark.integration)],
)
async def ledger(request: pytest.FixtureRequest, clock: SettableClock) -> AsyncIterator[Ledger]:
    if request.param == "memory":
        yield MemoryLedger(clock)
        return
    postgres = PostgresLedger(Database(request.getfixturevalue("database_url"), 3), clock)
    await postgres.start()
    yield postgres
    await postgres.close()

"""How long the ledger remembers, and how the router makes it forget."""

from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from support.ledgers import advance, moves, version_of

from agents.router import tick
from agents.runtime.errors import ConfigurationError
from agents.runtime.ledger.memory import MemoryLedger
from agents.runtime.ledger.retention import SWEEP_LIMIT, HourlySweep, check_retention
from agents.runtime.ports import Ledger
from agents.runtime.settings import ROOT, load_settings
from agents.runtime.testing import ManualClock, fake_services
from agents.runtime.topology import Topology, load_topology
from ops.worker import load_declarations

DAY = timedelta(days=1)


@pytest.fixture
def topology() -> Topology:
    return load_topology(ROOT / "topics.yaml")


def test_the_shipped_default_outlives_the_shipped_topics(topology: Topology) -> None:
    settings = load_settings({})
    assert settings.ledger_retention == 45 * DAY
    check_retention(settings.ledger_retention, topology)


def test_a_retention_in_which_a_dead_letter_can_come_back_is_refused(topology: Topology) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_retention(37 * DAY, topology)
    assert "MILLSTREAM_LEDGER_RETENTION is 37d, and must be longer than 37d" in caught.value.reason
    assert "millstream.dead-letters.v1 keeps records for 30d" in caught.value.reason
    assert "topics.yaml:" in caught.value.reason
    check_retention(38 * DAY, topology)


def test_it_counts_what_a_topology_declares(tmp_path: Path) -> None:
    file = tmp_path / "topics.yaml"
    file.write_text(
        "defaults: {owner: us, partitions: 1, retention: 2d}\n"
        "topics:\n"
        "  millstream.reports.v1: {schema: ExecutionReport, producers: [a], consumers: [sink]}\n"
    )
    check_retention(timedelta(days=2, seconds=1), load_topology(file))
    with pytest.raises(ConfigurationError, match="longer than 2d"):
        check_retention(2 * DAY, load_topology(file))


def test_a_worker_does_not_start_with_a_retention_that_is_too_short() -> None:
    settings = load_settings({"MILLSTREAM_LEDGER_RETENTION": "10d"})
    with pytest.raises(ConfigurationError, match="LEDGER_RETENTION is 10d"):
        load_declarations(settings)


def test_a_retention_without_a_unit_is_a_wrong_setting() -> None:
    with pytest.raises(ConfigurationError, match=r"MILLSTREAM_LEDGER_RETENTION: .*no duration"):
        load_settings({"MILLSTREAM_LEDGER_RETENTION": "45"})


class CountingLedger(MemoryLedger):
    """Counts how often it is swept."""

    sweeps = 0

    async def sweep(self, *, lane: str, before: datetime, limit: int) -> int:
        self.sweeps += 1
        return await super().sweep(lane=lane, before=before, limit=limit)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def ledger(clock: ManualClock) -> CountingLedger:
    return CountingLedger(clock)


async def end_runs(ledger: Ledger, count: int) -> UUID:
    """Executions that have ended; returns the id of the last one."""
    run_id = uuid4()
    for _ in range(count):
        run_id = uuid4()
        await advance(ledger, run_id, moves(run_id, status="success", is_open=False))
    return run_id


async def test_the_router_forgets_by_itself_what_is_older_than_the_retention(
    ledger: CountingLedger, clock: ManualClock
) -> None:
    services = fake_services(ledger=ledger, clock=clock)
    run_id = await end_runs(ledger, 1)
    clock.advance((44 * DAY).total_seconds())
    await tick(services, 0)
    assert await version_of(ledger, run_id) == 1
    clock.advance((2 * DAY).total_seconds())
    await tick(services, 1)
    assert await version_of(ledger, run_id) is None


async def test_the_router_sweeps_once_an_hour(ledger: CountingLedger, clock: ManualClock) -> None:
    services = fake_services(ledger=ledger, clock=clock)
    for number in range(2 * 3600):
        await tick(services, number)
        clock.advance(1)
    assert ledger.sweeps == 2


async def test_a_router_that_has_just_started_sweeps(
    ledger: CountingLedger, clock: ManualClock
) -> None:
    services = fake_services(ledger=ledger, clock=clock)
    for _ in range(3):
        await tick(services, 0)
    assert ledger.sweeps == 3


async def test_while_there_is_more_each_turn_deletes_a_batch(
    ledger: CountingLedger, clock: ManualClock
) -> None:
    last = await end_runs(ledger, 2 * SWEEP_LIMIT + 1)
    clock.advance((46 * DAY).total_seconds())
    sweep = HourlySweep()
    for _ in range(10):
        await sweep.turn(ledger, lane="", now=clock.now(), retention=45 * DAY)
    assert ledger.sweeps == 4  # three with something to delete, and one that found nothing
    assert await version_of(ledger, last) is None

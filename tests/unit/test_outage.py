"""An outage is said once for the process, and its end once."""

import asyncio
import logging

import pytest
from structlog.testing import capture_logs

from agents.runtime.errors import DatabaseUnavailableError, DeliveryError, FatalInfrastructureError
from agents.runtime.kafka_config import SaidBefore
from agents.runtime.metrics import Metrics
from agents.runtime.outage import START, Outage, Outages, patiently
from agents.runtime.testing import ManualClock

AWAY = DatabaseUnavailableError("away")
NO_KAFKA = DeliveryError("no confirmation")


class Process:
    """Two roles that stand on the same things."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.metrics = Metrics()
        self.planner, self.router = (self.metrics.role(name) for name in ("planner", "router"))
        self.outages = Outages(self.clock, self.metrics)

    def outage(self, name: str) -> Outage:
        return Outage(name, self.outages, self.metrics.role(name))


def test_many_failures_of_many_roles_are_said_once() -> None:
    process = Process()
    one, other = process.outage("planner"), process.outage("router")
    with capture_logs() as lines:
        for _ in range(3):
            one.begins(AWAY)
            other.begins(AWAY)
        one.ends(failures_before=3)
        assert process.outages.reason("postgres") == "away"
        other.ends(failures_before=3)
        other.ends(failures_before=3)
    assert [(line["event"], line["dependency"]) for line in lines] == [
        ("infrastructure_away", "postgres"),
        ("infrastructure_back", "postgres"),
    ]
    assert process.outages.reason("postgres") is None


def test_kafka_and_postgres_are_outages_of_their_own() -> None:
    process = Process()
    outage = process.outage("planner")
    with capture_logs() as lines:
        outage.begins(AWAY)
        outage.begins(NO_KAFKA)
        outage.ends(failures_before=2)
    assert [line["dependency"] for line in lines] == ["postgres", "kafka", "kafka", "postgres"]


def test_a_success_that_began_before_the_last_failure_ends_nothing() -> None:
    outage = Process().outage("planner")
    before = outage.failures
    outage.begins(AWAY)
    outage.ends(failures_before=before)
    assert outage.is_on
    outage.ends(failures_before=outage.failures)
    assert not outage.is_on


async def test_metrics_show_an_outage_while_it_lasts() -> None:
    process = Process()
    seen: list[tuple[bool, bool]] = []

    async def work() -> str:
        seen.append((process.planner.is_away, process.router.is_away))
        if len(seen) < 4:
            raise AWAY
        return "done"

    outage = process.outage("planner")
    assert await patiently(work, clock=process.clock, outage=outage) == "done"
    assert seen == [(False, False), (True, False), (True, False), (True, False)]
    assert not process.planner.is_away


@pytest.mark.parametrize(("dependency", "who"), [("kafka", "kafka_watch"), ("postgres", START)])
def test_every_role_waits_for_what_the_process_waits_for(dependency: str, who: str) -> None:
    process = Process()
    assert dependency in {"kafka", "postgres"}
    process.outages.begins(dependency, who, "away")  # type: ignore[arg-type] # checked above
    assert process.planner.is_away
    assert process.router.is_away
    process.outages.ends(dependency, who)  # type: ignore[arg-type] # as above
    assert not process.planner.is_away


async def test_work_whose_partition_is_gone_waits_no_more() -> None:
    process = Process()
    outage = process.outage("planner")
    waiting = asyncio.Event()

    async def work() -> None:
        waiting.set()
        raise AWAY

    class Patient(ManualClock):
        async def sleep(self, seconds: float) -> None:  # noqa: ARG002 - the clock's signature
            await asyncio.Event().wait()

    task = asyncio.create_task(patiently(work, clock=Patient(), outage=outage))
    await waiting.wait()
    await asyncio.sleep(0)
    assert process.outages.reason("postgres") == "away"
    with capture_logs() as lines:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert [line["event"] for line in lines] == ["infrastructure_not_needed"], "who knows"
    assert process.outages.reason("postgres") is None
    assert not process.planner.is_away


async def test_what_waiting_does_not_mend_is_raised_at_once() -> None:
    process = Process()

    async def work() -> None:
        raise FatalInfrastructureError("no rights")

    with pytest.raises(FatalInfrastructureError):
        await patiently(work, clock=process.clock, outage=process.outage("planner"))
    assert process.outages.reason("kafka") is None


def test_what_each_client_says_again_and_again_is_logged_once() -> None:
    said = SaidBefore()

    def passes(text: str) -> bool:
        return said.filter(logging.makeLogRecord({"msg": text}))

    refused = "Connect to ipv4#127.0.0.1:9092 failed: Connection refused"
    first = f"FAIL [me#producer-1] [thrd:kafka:9092/bootstrap]: kafka:9092/bootstrap: {refused}"
    assert passes(f"{first} (after 0ms in state CONNECT)")
    assert not passes(f"{first} (after 7ms in state CONNECT)")
    assert not passes(f"FAIL [me#consumer-7] [thrd:kafka:9092/1]: kafka:9092/1: {refused} (after)")
    assert passes("FAIL [me#consumer-7] [thrd:kafka:9092/1]: kafka:9092/1: Disconnected")
    assert passes("SESSTMOUT [me#consumer-7] [thrd:main]: Consumer group session timed out")

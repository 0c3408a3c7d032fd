"""An outage is said once for each role, and its end once."""

from structlog.testing import capture_logs

from agents.runtime.delivery import Outage, patiently
from agents.runtime.errors import DatabaseUnavailableError
from agents.runtime.metrics import RoleMetrics
from agents.runtime.records import Record
from agents.runtime.testing import EPOCH, ManualClock

AWAY = DatabaseUnavailableError("away")
RECORD = Record("topic", 0, 0, 0, None, None)


def test_many_failures_are_said_once() -> None:
    outage = Outage("planner")
    with capture_logs() as lines:
        for _ in range(3):
            outage.begins(AWAY, EPOCH)
        outage.ends(EPOCH, failures_before=3)
        outage.ends(EPOCH, failures_before=3)
    assert [line["event"] for line in lines] == ["infrastructure_away", "infrastructure_back"]


def test_a_success_that_began_before_the_last_failure_ends_nothing() -> None:
    outage = Outage("planner")
    before = outage.failures
    outage.begins(AWAY, EPOCH)
    outage.ends(EPOCH, failures_before=before)
    assert outage.is_on
    outage.ends(EPOCH, failures_before=outage.failures)
    assert not outage.is_on


async def test_metrics_show_an_outage_while_it_lasts() -> None:
    metrics = RoleMetrics()
    outage = Outage("planner", metrics)
    seen: list[bool] = []

    async def deliver(_record: Record) -> None:
        seen.append(metrics.is_away)
        if len(seen) < 4:
            raise AWAY

    await patiently(deliver, RECORD, clock=ManualClock(), outage=outage)
    assert seen == [False, True, True, True]
    assert not metrics.is_away

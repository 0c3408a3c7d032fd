"""Wherever a worker dies, no money stays held back, and none is spent beyond the budget."""

from decimal import Decimal

import psycopg
import pytest
from faults.checker import check, described
from faults.collecting import Observer
from faults.harness import Pipeline
from faults.load import Load
from support.waiting import wait_until

pytestmark = [
    pytest.mark.integration,
    pytest.mark.faults,
    pytest.mark.real_kafka,
    pytest.mark.timeout(400),
]

REST_SECONDS = 90.0
CAP = Decimal("0.40")
"""Less than what all requests together would cost, and than what they reserve at once."""
EACH = 12
PLACES = (
    ("after-effect-before-record", 1),
    ("after-verdict-before-produce", 7),
    ("after-ledger-commit-before-publish", 7),
    ("after-publish-before-mark-sent", 7),
)
"""Where a worker dies, and the how manieth time it comes there."""


def test_workers_that_die_at_every_point_leave_no_money_behind(pipeline: Pipeline) -> None:
    url = pipeline.place.database_url
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE ledger.budgets SET cap = %s WHERE per = 'day'", (CAP,))
    load = Load(pipeline.servers.kafka.bootstrap_servers, pipeline.lane, seed=1)
    pipeline.start_sink()
    for place, hit in PLACES:
        worker = pipeline.start_worker("--barrier", place, "--hit", str(hit))
        load.ask_for(EACH)
        wait_until(lambda each=worker: not each.is_running, f"a worker is {place}")  # type: ignore[misc] # binds the loop variable
        pipeline.bury(worker)
    pipeline.start_worker()
    observer = Observer(pipeline.place)
    at_rest = observer.wait_until_at_rest(REST_SECONDS)
    evidence = observer.collect(load.submitted)
    faults = check(evidence)
    assert at_rest, f"{described(faults)}\n{pipeline.tails()}"
    assert not faults, f"{described(faults)}\n{pipeline.tails()}"
    days = [row for row in evidence.spending if len(row["period"]) == len("2026-01-01")]
    assert days, "something was spent"
    assert all(0 < row["spent"] <= CAP for row in days), days
    statuses = {row["status"] for row in evidence.executions}
    assert {"success", "denied"} <= statuses, statuses

"""Wherever a worker dies, no money stays held back, and none is spent beyond the budget."""

from decimal import Decimal

import psycopg
import pytest
from faults.checker import check, described
from faults.collecting import Observer
from faults.evidence import Evidence
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
    limit(pipeline, CAP)
    load = Load(pipeline.servers.kafka.bootstrap_servers, pipeline.lane, seed=1)
    pipeline.start_sink()
    for place, hit in PLACES:
        worker = pipeline.start_worker("--barrier", place, "--hit", str(hit))
        load.ask_for(EACH)
        wait_until(lambda each=worker: not each.is_running, f"a worker is {place}")  # type: ignore[misc] # binds the loop variable
        pipeline.bury(worker)
    pipeline.start_worker()
    evidence = at_rest(pipeline, load)
    days = [row for row in evidence.spending if len(row["period"]) == len("2026-01-01")]
    assert days, "something was spent"
    assert all(0 < row["spent"] <= CAP for row in days), days
    assert "denied" in {row["status"] for row in evidence.executions}

    # Which of them were quick enough to have the money is chance; that it can be had again is not.
    limit(pipeline, 2 * CAP)
    load.ask_for(1)
    [last] = load.submitted - evidence.submitted
    ends = {row["correlation_id"]: row["status"] for row in at_rest(pipeline, load).executions}
    assert ends[last] == "success"


def limit(pipeline: Pipeline, cap: Decimal) -> None:
    """Say what may be spent in a day."""
    with psycopg.connect(pipeline.place.database_url) as connection:
        connection.execute("UPDATE ledger.budgets SET cap = %s WHERE per = 'day'", (cap,))


def at_rest(pipeline: Pipeline, load: Load) -> Evidence:
    """What is there when all has ended, nothing of it wrong."""
    observer = Observer(pipeline.place)
    is_at_rest = observer.wait_until_at_rest(REST_SECONDS)
    evidence = observer.collect(load.submitted)
    faults = check(evidence)
    assert is_at_rest, f"{described(faults)}\n{pipeline.tails()}"
    assert not faults, f"{described(faults)}\n{pipeline.tails()}"
    return evidence

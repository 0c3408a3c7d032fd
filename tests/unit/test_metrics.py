"""What is exposed, and that counting costs next to nothing."""

import re
from collections.abc import Iterable
from datetime import timedelta

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from agents.runtime import metrics as names
from agents.runtime.breaker import Breakers
from agents.runtime.errors import TransientError
from agents.runtime.exposition import exposition
from agents.runtime.ledger.coalesce import Coalescer
from agents.runtime.metrics import ALL, Histogram, Load, Metrics
from agents.runtime.testing import ManualClock

Sample = tuple[str, dict[str, str]]


def families(metrics: Metrics) -> dict[str, Metric]:
    return {
        each.name: each for each in text_string_to_metric_families(exposition(metrics).decode())
    }


def value(metrics: Metrics, sample: str, **labels: str) -> float:
    found = [
        each.value
        for family in families(metrics).values()
        for each in family.samples
        if each.name == sample and labels.items() <= each.labels.items()
    ]
    assert len(found) == 1, f"{sample}{labels}: {found}"
    return float(found[0])


def used() -> Metrics:
    """Metrics of which every one has a series."""
    metrics = Metrics()
    role = metrics.role("planner")
    role.consumed["millstream.intents.v1"] += 3
    role.attempt_ended(0.02)
    role.ended("dead_letter", "bug")
    metrics.ledger("advance").ended(7, 0.003)
    metrics.breakers = lambda: {"api.example": "open"}
    metrics.sink_batches.ended(500, 0.05)
    metrics.sink_rows["events"] += 500
    metrics.stalled = lambda: {"planner": 2.0}
    return metrics


def test_exactly_the_declared_metrics_are_exposed() -> None:
    exposed = {name for name in families(used()) if name.startswith("millstream_")}
    assert exposed == {each.name.removesuffix("_total") for each in ALL}


def test_every_series_has_the_declared_labels() -> None:
    exposed = families(used())
    for spec in ALL:
        samples = exposed[spec.name.removesuffix("_total")].samples
        assert samples, spec.name
        assert {frozenset(each.labels) - {"le"} for each in samples} == {frozenset(spec.labels)}


def test_names_follow_one_pattern_and_labels_hold_no_ids() -> None:
    units = "records|seconds|total|handlers|calls|away|state"
    assert len({each.name for each in ALL}) == len(ALL)
    for spec in ALL:
        assert re.fullmatch(rf"millstream(_[a-z]+)+_({units})", spec.name), spec.name
        assert set(spec.labels) <= {
            *("role", "topic", "outcome", "code"),
            *("dependency", "state", "operation", "table"),
        }
        assert spec.meaning.endswith(".")


def test_the_list_of_metrics_is_complete() -> None:
    declared: Iterable[object] = vars(names).values()
    assert {each for each in declared if isinstance(each, names.MetricSpec)} == set(ALL)


def test_the_process_itself_is_measured() -> None:
    assert value(Metrics(), "process_resident_memory_bytes") > 1_000_000


def test_a_histogram_counts_what_is_up_to_each_bound() -> None:
    metrics = Metrics()
    for seconds in (0.001, 0.0011, 4.0, 1000.0):
        metrics.role("planner").attempt_ended(seconds)
    bucket = "millstream_handler_duration_seconds_bucket"
    assert value(metrics, bucket, le="0.001") == 1
    assert value(metrics, bucket, le="0.0025") == 2
    assert value(metrics, bucket, le="5.0") == 3
    assert value(metrics, bucket, le="+Inf") == 4
    assert value(metrics, "millstream_handler_duration_seconds_sum") == pytest.approx(1004.0021)
    assert metrics.role("planner").durations.count == 4


def test_gauges_are_asked_at_each_scrape() -> None:
    metrics = Metrics()
    age = 1.0
    metrics.role("router").load = lambda: Load(2, 5, 9, age)
    assert value(metrics, "millstream_oldest_unfinished_seconds", role="router") == 1.0
    age = 2.0
    assert value(metrics, "millstream_oldest_unfinished_seconds", role="router") == 2.0
    assert value(metrics, "millstream_unfinished_records", role="router") == 5
    assert value(metrics, "millstream_uncommitted_records", role="router") == 9


async def test_a_breaker_shows_the_one_state_that_it_is_in() -> None:
    metrics, clock = Metrics(), ManualClock()
    breakers = Breakers(clock)
    metrics.breakers = breakers.states
    breaker = breakers.of("api.example")

    async def fail() -> None:
        raise TransientError("down")

    for _ in range(5):
        with pytest.raises(TransientError):
            await breaker.call(fail)
    name = "millstream_breaker_state"
    assert value(metrics, name, dependency="api.example", state="open") == 1
    assert value(metrics, name, dependency="api.example", state="closed") == 0
    clock.advance(timedelta(seconds=61).total_seconds())
    # Nobody has asked the dependency since, and still its time is over.
    assert value(metrics, name, dependency="api.example", state="half_open") == 1
    assert value(metrics, name, dependency="api.example", state="open") == 0


async def test_batches_of_the_ledger_are_counted_failed_ones_included() -> None:
    metrics = Metrics()

    async def handle(items: object) -> list[int]:
        raise TransientError("lost")

    coalescer: Coalescer[int, int] = Coalescer(handle, metrics=metrics.ledger("effect"))
    with pytest.raises(TransientError):
        await coalescer.submit(1)
    assert value(metrics, "millstream_ledger_batch_calls_count", operation="effect") == 1


def test_two_processes_in_one_do_not_share_their_numbers() -> None:
    one, other = Metrics(), Metrics()
    one.role("planner").ok += 1
    assert value(one, "millstream_handled_records_total", outcome="ok") == 1
    assert value(other, "millstream_sink_batch_records_count") == 0
    assert families(other)["millstream_handled_records"].samples == []


def test_a_histogram_of_many_values_stays_small() -> None:
    histogram = Histogram((1.0, 2.0))
    for number in range(1000):
        histogram.observe(float(number))
    assert histogram.count == 1000
    assert len(histogram._counts) == 3

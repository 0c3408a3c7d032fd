"""Metrics in Prometheus' text format, with memory, CPU time and open files of the process.

The only module that imports prometheus-client, which takes a while to load: a process without a
health port does without it.
"""

from collections.abc import Iterator
from math import inf
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.registry import Collector

from agents.runtime import metrics as names
from agents.runtime.metrics import Histogram, Metrics, MetricSpec

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
"""The media type of what :func:`exposition` returns."""

Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


def exposition(metrics: Metrics) -> bytes:
    """Everything that is counted, now."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_MetricsCollector(metrics))
    ProcessCollector(registry=registry)
    return generate_latest(registry)


class _MetricsCollector(Collector):
    """Metrics as prometheus-client asks for them."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Family]:
        yield from self._counters()
        yield from self._gauges()
        yield from self._histograms()

    def _counters(self) -> Iterator[Family]:
        consumed, handled, retries, rows = map(
            _counter, (names.CONSUMED, names.HANDLED, names.RETRIES, names.SINK_ROWS)
        )
        for name, role in self._metrics.roles.items():
            for topic, records in role.consumed.copy().items():
                consumed.add_metric((name, topic), records)
            handled.add_metric((name, "ok", ""), role.ok)
            for (ending, code), records in role.endings.copy().items():
                handled.add_metric((name, ending, code), records)
            retries.add_metric((name,), role.retries)
        for table, number in self._metrics.sink_rows.copy().items():
            rows.add_metric((table,), number)
        yield from (consumed, handled, retries, rows)

    def _gauges(self) -> Iterator[Family]:
        running, unfinished, uncommitted, oldest = map(
            _gauge,
            (names.RUNNING, names.UNFINISHED, names.UNCOMMITTED, names.OLDEST_UNFINISHED),
        )
        away, stalled, breakers = map(_gauge, (names.AWAY, names.STALLED, names.BREAKER))
        for name, role in self._metrics.roles.items():
            load = role.load()
            running.add_metric((name,), load.running)
            unfinished.add_metric((name,), load.unfinished)
            uncommitted.add_metric((name,), load.uncommitted)
            oldest.add_metric((name,), load.oldest_seconds)
            away.add_metric((name,), role.is_away)
        for name, seconds in self._metrics.stalled().items():
            stalled.add_metric((name,), seconds)
        for dependency, current in self._metrics.breakers().items():
            for state in ("closed", "open", "half_open"):
                breakers.add_metric((dependency, state), state == current)
        yield from (running, unfinished, uncommitted, oldest, away, stalled, breakers)

    def _histograms(self) -> Iterator[Family]:
        handlers, calls, transactions, records, writes = map(
            _histogram,
            (
                names.HANDLER_DURATION,
                names.LEDGER_CALLS,
                names.LEDGER_DURATION,
                names.SINK_RECORDS,
                names.SINK_DURATION,
            ),
        )
        for name, role in self._metrics.roles.items():
            _add(handlers, role.durations, name)
        for operation, batches in self._metrics.ledger_batches.items():
            _add(calls, batches.sizes, operation)
            _add(transactions, batches.durations, operation)
        _add(records, self._metrics.sink_batches.sizes)
        _add(writes, self._metrics.sink_batches.durations)
        yield from (handlers, calls, transactions, records, writes)


def _add(family: HistogramMetricFamily, histogram: Histogram, *labels: str) -> None:
    buckets = [
        ("+Inf" if bound == inf else str(bound), count) for bound, count in histogram.cumulative()
    ]
    family.add_metric(labels, buckets, histogram.total)


def _counter(spec: MetricSpec) -> CounterMetricFamily:
    return CounterMetricFamily(spec.name, spec.meaning, labels=spec.labels)


def _gauge(spec: MetricSpec) -> GaugeMetricFamily:
    return GaugeMetricFamily(spec.name, spec.meaning, labels=spec.labels)


def _histogram(spec: MetricSpec) -> HistogramMetricFamily:
    return HistogramMetricFamily(spec.name, spec.meaning, labels=spec.labels)

"""What a process tells Prometheus of itself: every name, its labels and what it means.

Names are ``millstream_<what>_<unit>[_total]`` in base units (Prometheus, "Metric and label
naming"). No label holds an id: each has as many values as there are roles, topics, codes or
dependencies.

What is counted for each message is a plain number that only the event loop writes (a pre-bound
counter of prometheus-client takes five times as long, a histogram seventeen times); gauges are
asked when somebody looks.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Final, Literal

from agents.runtime.breaker import BreakerState

Ending = Literal["ok", "failed", "delayed", "dead_letter"]
"""What became of a record: handled; the execution ended as failed; waits on a delay topic; could
not be handled."""
LedgerCall = Literal["advance", "verdict", "approval", "effect"]
"""What calls on the ledger that share a transaction are about."""

_SECONDS: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0),
)
_SIZES: Final = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric.

    Attributes:
        name: As a scrape shows it; of a histogram, without ``_bucket``.
        labels: What tells its series apart.
        meaning: Its help text.
    """

    name: str
    labels: tuple[str, ...]
    meaning: str


# Records and their handlers, by role.
CONSUMED: Final = MetricSpec(
    "millstream_consumed_records_total",
    ("role", "topic"),
    "Records that a role has taken from a topic, repeated ones included.",
)
HANDLER_DURATION: Final = MetricSpec(
    "millstream_handler_duration_seconds",
    ("role",),
    "How long one attempt to handle a record took, however it ended.",
)
HANDLED: Final = MetricSpec(
    "millstream_handled_records_total",
    ("role", "outcome", "code"),
    "Records by what became of them: ok, failed, delayed, dead_letter; code says why not ok.",
)
RETRIES: Final = MetricSpec(
    "millstream_handler_retries_total",
    ("role",),
    "Attempts that failed for a passing reason and were made again in place.",
)
RUNNING: Final = MetricSpec(
    "millstream_running_handlers", ("role",), "Handlers that run now, those that wait included."
)
UNFINISHED: Final = MetricSpec(
    "millstream_unfinished_records",
    ("role",),
    "Records that a role has taken and that it, or an earlier one, has not finished.",
)
UNCOMMITTED: Final = MetricSpec(
    "millstream_uncommitted_records",
    ("role",),
    "Records that a crash would repeat: handed over and not covered by a committed offset.",
)
OLDEST_UNFINISHED: Final = MetricSpec(
    "millstream_oldest_unfinished_seconds",
    ("role",),
    "How long ago the oldest unfinished record was taken: high where one key is slow.",
)
STALLED: Final = MetricSpec(
    "millstream_stalled_seconds",
    ("role",),
    "For how long a role has had work without an attempt ending; the watchdog ends the process "
    "when it is too long.",
)
AWAY: Final = MetricSpec(
    "millstream_infrastructure_away",
    ("role",),
    "1 while a role waits for Kafka or Postgres, else 0.",
)

# What handlers stand on.
BREAKER: Final = MetricSpec(
    "millstream_breaker_state",
    ("dependency", "state"),
    "1 for the state that the circuit breaker of a dependency is in: closed, open or half_open.",
)
LEDGER_CALLS: Final = MetricSpec(
    "millstream_ledger_batch_calls",
    ("operation",),
    "Calls on the ledger that shared one transaction.",
)
LEDGER_DURATION: Final = MetricSpec(
    "millstream_ledger_batch_duration_seconds",
    ("operation",),
    "How long such a transaction took, until it was committed or had failed.",
)

# The sink.
SINK_RECORDS: Final = MetricSpec(
    "millstream_sink_batch_records", (), "Records that the sink wrote in one transaction."
)
SINK_DURATION: Final = MetricSpec(
    "millstream_sink_batch_duration_seconds",
    (),
    "How long it took to sort and write them, until the commit.",
)
SINK_ROWS: Final = MetricSpec(
    "millstream_sink_rows_total", ("table",), "Rows that the sink has sent to a table of history."
)

ALL: Final = (
    CONSUMED,
    HANDLER_DURATION,
    HANDLED,
    RETRIES,
    RUNNING,
    UNFINISHED,
    UNCOMMITTED,
    OLDEST_UNFINISHED,
    STALLED,
    AWAY,
    BREAKER,
    LEDGER_CALLS,
    LEDGER_DURATION,
    SINK_RECORDS,
    SINK_DURATION,
    SINK_ROWS,
)
"""Every metric of ours; a test keeps what is exposed and this list the same."""


class Histogram:
    """Observations, counted in buckets. Written by one thread."""

    __slots__ = ("_bounds", "_counts", "_total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def observe(self, value: float) -> None:
        """Count ``value``."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value

    @property
    def count(self) -> int:
        """How many values were observed."""
        return sum(self._counts)

    @property
    def total(self) -> float:
        """The sum of these values."""
        return self._total

    def cumulative(self) -> Iterator[tuple[float, int]]:
        """Each bound, infinity at last, and how many values are not above it."""
        so_far = 0
        for bound, count in zip((*self._bounds, inf), self._counts, strict=True):
            so_far += count
            yield bound, so_far


@dataclass(frozen=True, slots=True)
class Load:
    """What a role has in hand at one moment."""

    running: int = 0
    unfinished: int = 0
    uncommitted: int = 0
    oldest_seconds: float = 0.0


class RoleMetrics:
    """What one role counts. Whoever holds it writes to it directly, without any look-up."""

    __slots__ = (
        "attempts",
        "consumed",
        "durations",
        "endings",
        "handlers_wait",
        "load",
        "ok",
        "process_waits",
        "retries",
    )

    def __init__(self) -> None:
        self.attempts = 0
        """Attempts that have ended, however they did: the watchdog wants this to rise."""
        self.durations = Histogram(_SECONDS)
        self.ok = 0
        self.retries = 0
        self.endings: Counter[tuple[Ending, str]] = Counter()
        self.consumed: Counter[str] = Counter()
        self.handlers_wait = False
        """Whether its handlers wait for Kafka or Postgres."""
        self.process_waits = False
        """Whether the whole process does, be there records or not."""
        self.load: Callable[[], Load] = Load
        """Asked for each scrape."""

    @property
    def is_away(self) -> bool:
        """Whether the role waits for Kafka or Postgres."""
        return self.handlers_wait or self.process_waits

    def attempt_ended(self, seconds: float) -> None:
        """Count an attempt that took ``seconds``."""
        self.attempts += 1
        self.durations.observe(seconds)

    def ended(self, ending: Ending, code: str) -> None:
        """Count a record that was not simply handled."""
        self.endings[ending, code] += 1


class BatchMetrics:
    """Sizes and durations of batches of one kind."""

    __slots__ = ("durations", "sizes")

    def __init__(self) -> None:
        self.sizes = Histogram(_SIZES)
        self.durations = Histogram(_SECONDS)

    def ended(self, size: int, seconds: float) -> None:
        """Count a batch of ``size`` that took ``seconds``."""
        self.sizes.observe(size)
        self.durations.observe(seconds)


class Metrics:
    """The metrics of one process; :mod:`agents.runtime.exposition` writes them down."""

    def __init__(self) -> None:
        self.roles: dict[str, RoleMetrics] = {}
        self.ledger_batches: dict[LedgerCall, BatchMetrics] = {}
        self.breakers: Callable[[], Mapping[str, BreakerState]] = dict
        """Asks the circuit breakers for :data:`BREAKER`, by dependency."""
        self.sink_batches = BatchMetrics()
        self.sink_rows: Counter[str] = Counter()
        self.stalled: Callable[[], Mapping[str, float]] = dict
        """Asks the watchdog for :data:`STALLED`."""

    def role(self, name: str) -> RoleMetrics:
        """What the role ``name`` counts; the same object each time."""
        return self.roles.setdefault(name, RoleMetrics())

    def ledger(self, operation: LedgerCall) -> BatchMetrics:
        """What batches of ``operation`` count; the same object each time."""
        return self.ledger_batches.setdefault(operation, BatchMetrics())

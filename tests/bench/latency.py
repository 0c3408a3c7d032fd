"""How long one execution takes at a steady, open load: 20 and 100 a second.

From the moment in which a client hands the request to its producer until (a) a consumer has the
report, and (b) another session of Postgres sees that the report is there. Both are watched from
outside, in the same way for both chains, and with the clock of this process.
"""

import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Final

import confluent_kafka
import psycopg
from bench.figures import Detail, Figure, Goal, Result
from bench.load import REPORTS, REQUESTS, arrive, await_records
from bench.scenario import Bench, reported, warm_up
from bench.servers import Servers
from confluent_kafka import Message

from ops.load_summary import Latency

_LOOK_SECONDS: Final = 0.005
"""Between looks into Postgres: what is measured there may be late by so much."""
_PATIENCE: Final = 60.0
Place = tuple[int, int]
"""Partition and offset."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Executions per second, and how long each rate is held, in seconds."""

    rates: Sequence[float] = (20.0, 100.0)
    seconds: float = 60.0
    warm_up: int = 1_000
    settling: float = 5.0
    """How long a rate has been held before executions are counted."""


@dataclass(slots=True)
class _Watch:
    """What was seen of the reports: when each was read, and how far Postgres was when."""

    read: dict[str, tuple[Place, float]] = field(default_factory=dict)
    """By execution: where its report is on the topic, and when a consumer had it."""
    stored: dict[int, list[tuple[int, float]]] = field(default_factory=dict)
    """By partition: next offset in Postgres, and when that was seen; both rise."""
    failures: list[Exception] = field(default_factory=list)
    """What ended one of those who watch."""

    def stored_at(self, place: Place) -> float:
        """When Postgres was first seen to be beyond ``place``."""
        partition, offset = place
        seen = self.stored[partition]
        return seen[bisect_right(seen, offset, key=lambda each: each[0])][1]


def run(bench: Bench) -> Result:
    """Measure both chains at each rate."""
    settings = bench.choose(Settings, seconds=5.0, warm_up=100, settling=1.0)
    ours = _measure(bench, settings, by_hand=False)
    theirs = _measure(bench, settings, by_hand=True)
    figures: list[Figure] = []
    rows: list[list[str | float | None]] = []
    for rate in settings.rates:
        for where in ("topic", "Postgres"):
            mine, other = ours[rate][where], theirs[rate][where]
            name = "on its topic" if where == "topic" else "in Postgres"
            figures += [
                Figure(
                    f"ms until the report is {name}, {rate:g}/s, {share}",
                    getattr(mine, share) * 1000,
                    getattr(other, share) * 1000,
                    goal=Goal("ratio", most=2),
                )
                for share in ("p50", "p99")
            ]
            rows += [
                [
                    f"{rate:g}/s, {name}, {who}",
                    each.count,
                    *(1000 * seconds for seconds in (each.p50, each.p90, each.p99, each.max)),
                ]
                for who, each in (("Millstream", mine), ("by hand", other))
            ]
    return Result(
        title="Latency at a steady rate",
        figures=figures,
        settings=asdict(settings),
        details=[
            Detail("Milliseconds", ("", "executions", "p50", "p90", "p99", "max"), rows),
        ],
        notes=[
            (
                "Open load with exponential gaps, the same ones for both. Both sinks gather a batch"
                " for up to 50 ms; what is in Postgres is looked at every"
                f" {_LOOK_SECONDS * 1000:g} ms."
            ),
        ],
        raw={
            who: {f"{rate:g}/s": {at: asdict(each) for at, each in by.items()}}
            for who, chain in (("millstream", ours), ("by_hand", theirs))
            for rate, by in chain.items()
        },
    )


def _measure(bench: Bench, settings: Settings, *, by_hand: bool) -> dict[float, dict[str, Latency]]:
    who = "by hand" if by_hand else "Millstream"
    found = {}
    with bench.servers(f"latency, {who}") as servers:
        chain = servers.chain(by_hand=by_hand)
        warm_up(servers, chain, settings.warm_up, bench.voice)
        for rate in settings.rates:
            count = round(rate * (settings.settling + settings.seconds))
            wanted = reported(servers.url) + count
            sent: dict[Place, float] = {}

            def note(moment: float, message: Message, sent: dict[Place, float] = sent) -> None:
                sent[_place(message)] = moment

            with (
                _watching(servers) as watch,
                bench.voice.counting(f"sent at {rate:g}/s", count) as show,
            ):
                arrive(servers.bootstrap, count, rate, note, show=show)
                await_records(servers.url, REPORTS, wanted, bench.voice, [*chain.values()])
                _catch_up(watch, count)
            found[rate] = _latencies(servers.url, sent, watch, settings.settling)
            for where, each in found[rate].items():
                bench.voice.tell(
                    f"{rate:g}/s, {where}: p50 {each.p50 * 1000:.0f}, p99 {each.p99 * 1000:.0f} ms"
                )
    return found


def _latencies(
    url: str, sent: Mapping[Place, float], watch: _Watch, settling: float
) -> dict[str, Latency]:
    """Latency until the report was read, and until it was in Postgres."""
    counted_from = min(sent.values()) + settling
    on_topic, in_postgres = [], []
    with psycopg.connect(url) as connection:
        requests = connection.execute(
            'SELECT correlation_id::text, partition, "offset" FROM history.events WHERE topic = %s',
            (REQUESTS,),
        )
        for execution, *place in requests:
            moment = sent.get(tuple(place))
            if moment is None or moment < counted_from:
                continue
            where, read_at = watch.read[execution]
            on_topic.append(read_at - moment)
            in_postgres.append(watch.stored_at(where) - moment)
    return {"topic": Latency.of(on_topic), "Postgres": Latency.of(in_postgres)}


def _catch_up(watch: _Watch, count: int) -> None:
    """Wait until those who watch have seen ``count`` reports: they may be a look behind."""
    deadline = time.monotonic() + _PATIENCE
    while len(watch.read) < count or not _has_all(watch):
        if watch.failures or time.monotonic() > deadline:
            raise RuntimeError("the reports were not seen") from next(iter(watch.failures), None)
        time.sleep(_LOOK_SECONDS)


def _has_all(watch: _Watch) -> bool:
    """Whether Postgres was seen to be beyond every report that was read."""
    return all(
        watch.stored.get(partition, [(0, 0.0)])[-1][0] > offset
        for (partition, offset), _ in watch.read.values()
    )


Look = Callable[[Servers, _Watch, threading.Barrier, threading.Event], None]
"""Watches until told to stop, and says at the barrier when it begins."""


@contextmanager
def _watching(servers: Servers) -> Iterator[_Watch]:
    """Watch reports that come from now on, on their topic and in Postgres."""
    watch, stop = _Watch(), threading.Event()
    ready = threading.Barrier(3)

    def guarded(look: Look) -> None:
        try:
            look(servers, watch, ready, stop)
        except Exception as error:  # noqa: BLE001  # raised in the main thread
            watch.failures.append(error)
            ready.abort()

    threads = [
        threading.Thread(target=guarded, args=(look,), daemon=True)
        for look in (_read_reports, _follow_positions)
    ]
    for thread in threads:
        thread.start()
    try:
        try:
            ready.wait(_PATIENCE)
        except threading.BrokenBarrierError:
            cause = next(iter(watch.failures), None)
            raise RuntimeError("the reports cannot be watched") from cause
        yield watch
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)


def _read_reports(
    servers: Servers, watch: _Watch, ready: threading.Barrier, stop: threading.Event
) -> None:
    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": servers.bootstrap, "group.id": "bench-watch", "log_level": 0}
    )
    partitions = consumer.list_topics(REPORTS, timeout=30).topics[REPORTS].partitions
    ends = [
        confluent_kafka.TopicPartition(
            REPORTS,
            number,
            consumer.get_watermark_offsets(
                confluent_kafka.TopicPartition(REPORTS, number), timeout=30
            )[1],
        )
        for number in partitions
    ]
    consumer.assign(ends)
    ready.wait(_PATIENCE)
    while not stop.is_set():
        message = consumer.poll(0.1)
        if message is not None and message.error() is None:
            watch.read[(message.key() or b"").decode()] = _place(message), time.time()
    consumer.close()


def _follow_positions(
    servers: Servers, watch: _Watch, ready: threading.Barrier, stop: threading.Event
) -> None:
    with psycopg.connect(servers.url, autocommit=True, prepare_threshold=0) as connection:
        ready.wait(_PATIENCE)
        while not stop.wait(_LOOK_SECONDS):
            rows = connection.execute(
                "SELECT partition, next_offset FROM history.sink_offsets WHERE topic = %s",
                (REPORTS,),
            ).fetchall()
            moment = time.time()
            for partition, position in rows:
                seen = watch.stored.setdefault(partition, [])
                if not seen or seen[-1][0] < position:
                    seen.append((position, moment))


def _place(message: Message) -> Place:
    partition, offset = message.partition(), message.offset()
    if partition is None or offset is None:
        raise RuntimeError("a record without a place")
    return partition, offset

"""The sink alone: how many records a second one connection writes, with all indexes.

A worker has real executions done while no sink runs. Then our sink reads the log, and after it the
hand-written one, each into a database of its own on the same server. What counts is the time from
the first records that are in Postgres to the last ones, so that neither start nor group matter.
"""

import time
from dataclasses import asdict, dataclass
from typing import Final

import confluent_kafka
import psycopg
from bench.figures import Detail, Figure, Goal, Result, quotient
from bench.filling import settle
from bench.load import EVERY_TOPIC, REPORTS, await_records, submit
from bench.scenario import Bench
from bench.servers import Servers, cpu_seconds

from ops.local import LocalProcess

_LOOK_SECONDS: Final = 0.05
_PATIENCE: Final = 180.0
_INTERNAL: Final = "__"


@dataclass(frozen=True, slots=True)
class Settings:
    """Executions whose records are in the log."""

    executions: int = 20_000


@dataclass(frozen=True, slots=True)
class _Written:
    """What one sink wrote, between two looks.

    Attributes:
        records: Records of all topics.
        events: Rows of ``history.events``: every record but the states.
        seconds: How long that took.
        cpu_us: CPU microseconds per record, by process.
    """

    records: int
    events: int
    seconds: float
    cpu_us: dict[str, float]


def run(bench: Bench) -> Result:
    """Fill a log, and have it read by both sinks."""
    settings = bench.choose(Settings, executions=1_000)
    with bench.servers("sink") as servers:
        total = _fill(bench, servers, settings.executions)
        other_url = servers.other_database("by_hand")
        both = (
            (servers.sink(), servers.url),
            (servers.by_hand("sink", other_url), other_url),
        )
        ours, theirs = (
            _measure(bench, servers, sink, url, total, settings.executions) for sink, url in both
        )
    return Result(
        title="The sink alone, one connection, all indexes",
        figures=[
            Figure(
                "sink alone, records/s",
                ours.records / ours.seconds,
                theirs.records / theirs.seconds,
                goal=Goal("value", least=15_000),
            ),
            Figure(
                "sink alone, rows of events/s",
                ours.events / ours.seconds,
                theirs.events / theirs.seconds,
            ),
            Figure(
                "sink alone, CPU-µs per record, Postgres included",
                sum(ours.cpu_us.values()),
                sum(theirs.cpu_us.values()),
            ),
        ],
        settings=asdict(settings),
        details=[
            Detail(
                "CPU-µs per record",
                ("", "Millstream", "by hand", "ratio"),
                [
                    [name, mine, theirs.cpu_us[name], quotient(mine, theirs.cpu_us[name])]
                    for name, mine in ours.cpu_us.items()
                ],
            )
        ],
        notes=[
            (
                f"{total:,} records of {settings.executions:,} executions. States are folded into"
                " executions and steps; every other record is a row of events as well."
            )
        ],
        raw={"millstream": asdict(ours), "by_hand": asdict(theirs)},
    )


def _fill(bench: Bench, servers: Servers, executions: int) -> int:
    """Have executions done while nobody writes history; returns how many records they made."""
    worker = servers.worker()
    servers.start(worker)
    submit(servers.bootstrap, executions, with_ids=True)
    moved_at, done = time.monotonic(), 0
    with bench.voice.counting("executions for the log", executions) as update:
        while done < executions:
            now_done = _end_of(servers.bootstrap, REPORTS)
            if now_done != done:
                done, moved_at = now_done, time.monotonic()
            if not worker.is_running or time.monotonic() - moved_at > _PATIENCE:
                raise RuntimeError(f"only {done} of {executions} executions were reported")
            update(done)
            time.sleep(0.5)
    worker.stop()
    return _end_of(servers.bootstrap)


def _end_of(bootstrap: str, *topics: str) -> int:
    """How many records there are in topics; in all of ours if none are named."""
    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "bench-count", "log_level": 0}
    )
    try:
        known = consumer.list_topics(timeout=30).topics
        return sum(
            consumer.get_watermark_offsets(
                confluent_kafka.TopicPartition(topic, partition), timeout=30
            )[1]
            for topic in (topics or known)
            if not topic.startswith(_INTERNAL)
            for partition in known[topic].partitions
        )
    finally:
        consumer.close()


def _measure(
    bench: Bench, servers: Servers, sink: LocalProcess, url: str, total: int, executions: int
) -> _Written:
    settle(url)
    servers.start(sink)
    pids = {"sink": sink.pid} | {
        name: pid for name, pid in servers.pids().items() if name in ("postgres", "broker")
    }
    first: list[tuple[int, float, dict[str, float]]] = []

    def look(done: int) -> None:
        if done and not first:
            first.append((done, time.perf_counter(), cpu_seconds(pids)))

    await_records(url, EVERY_TOPIC, total, bench.voice, [sink], each=look, pause=_LOOK_SECONDS)
    ended, cpu = time.perf_counter(), cpu_seconds(pids)
    sink.stop()
    at_first, began, cpu_before = first[0]
    records, seconds = total - at_first, ended - began
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT (SELECT count(*) FROM history.events), count(*), count(report_id)"
            " FROM history.executions"
        ).fetchone()
    written = row or (0, 0, 0)
    if written[1:] != (executions, executions):
        raise RuntimeError(f"{written[1:]} executions and reports in Postgres, not {executions}")
    # The share of events is the same everywhere in the log.
    events = round(written[0] * records / total)
    bench.voice.tell(f"{records / seconds:,.0f} records/s")
    cpu_us = {name: (cpu[name] - cpu_before[name]) / records * 1e6 for name in cpu}
    return _Written(records, events, seconds, cpu_us)

"""How soon a worker goes on after kill -9 and a new start, under load.

Without a name in its groups, a worker that comes back must wait until the group has given the dead
one up: the session timeout. With ``MILLSTREAM_GROUP_INSTANCE_ID`` it takes its partitions back as
soon as it is there. Whoever reads the topics sees when the first record comes that the new process
has made, and when the first report.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Final

import confluent_kafka
from bench.figures import Detail, Figure, Goal, Result
from bench.load import REPORTS, arrive
from bench.scenario import Bench, warm_up
from bench.servers import Servers

from agents.runtime.settings import load_settings
from agents.runtime.topology import load_topology
from ops.local import LocalProcess

_PATIENCE: Final = 180.0
_LOOK_SECONDS: Final = 0.02
_CLIENTS: Final = ("intake", "operator")
_FOREVER: Final = 10**9


@dataclass(frozen=True, slots=True)
class Settings:
    """How often, under how many executions a second; timeouts are in seconds."""

    rounds: int = 7
    rate: float = 50.0
    session_timeout: int = 6
    """Of the worker without a name: that of local runs."""
    static_session_timeout: int = 30
    """Of the worker with a name: the product's default."""
    calm: float = 5.0
    """How many seconds' worth of reports must have come before the next kill."""


@dataclass(frozen=True, slots=True)
class _Round:
    """Seconds from the kill to each thing."""

    ready: float
    """The new process has all its partitions."""
    progress: float
    """Its first record, on any topic."""
    report: float
    """Its first report."""


@dataclass(slots=True)
class _Seen:
    """What a reader of the roles' topics has seen."""

    reports: int = 0
    after: float = float("inf")
    """Only records that were made later than this (seconds since 1970) are looked at."""
    first: dict[bool, float] = field(default_factory=dict)
    """When the first one of these came, reports (``True``) apart."""


def run(bench: Bench) -> Result:
    """Kill and start again, without and with a name."""
    settings = bench.choose(Settings, rounds=2, rate=20.0, calm=1.0)
    with bench.servers("resume") as servers:
        sink = servers.sink()
        servers.start(sink)
        dynamic = _rounds(bench, servers, settings, sink, settings.session_timeout)
        static = _rounds(
            bench, servers, settings, sink, settings.static_session_timeout, name="bench"
        )
    beyond = [each.progress - settings.session_timeout for each in dynamic]
    in_all = [each.progress for each in static]
    within = f"beyond a session timeout of {settings.session_timeout} s"
    named = f"with a name, session timeout {settings.static_session_timeout} s"
    return Result(
        title="Going on after kill -9",
        figures=[
            Figure(
                f"s to progress after kill -9 {within}, median",
                median(beyond),
                goal=Goal("value", most=5),
            ),
            Figure(
                f"s to progress after kill -9 {within}, worst",
                max(beyond),
                goal=Goal("value", most=5),
            ),
            Figure(
                f"s to progress after kill -9 {named}, median",
                median(in_all),
                goal=Goal("value", most=3),
            ),
            Figure(
                f"s to progress after kill -9 {named}, worst",
                max(in_all),
                goal=Goal("value", most=3),
            ),
        ],
        settings=asdict(settings),
        details=[
            Detail(
                "Seconds from the kill",
                ("round", "ready", "first record", "first report"),
                [
                    [f"{how} {number}", each.ready, each.progress, each.report]
                    for how, rounds in (("without a name", dynamic), ("with a name", static))
                    for number, each in enumerate(rounds, 1)
                ],
            )
        ],
        notes=[
            (
                f"One worker with all roles, {settings.rate:g} executions/s all the time; it is"
                " started again as soon as it is dead. The time holds the start of Python."
            )
        ],
        raw={
            "without_name": [asdict(each) for each in dynamic],
            "with_name": [asdict(each) for each in static],
        },
    )


def _rounds(
    bench: Bench,
    servers: Servers,
    settings: Settings,
    sink: LocalProcess,
    session_timeout: int,
    *,
    name: str | None = None,
) -> list[_Round]:
    own = {"group_instance_id": name} if name else {}
    worker = servers.worker(kafka_session_timeout=str(session_timeout), **own)
    servers.start(worker)
    warm_up(servers, {"worker": worker, "sink": sink}, 200, bench.voice)
    chance = random.Random(1)  # noqa: S311  # no secret
    rounds = []
    with _reading(servers) as seen, _load(servers, settings.rate):
        for number in range(1, settings.rounds + 1):
            _await(_more_reports(seen, settings.rate * settings.calm), "reports before a kill")
            # Anywhere between two heartbeats.
            time.sleep(chance.uniform(0, session_timeout / 5))
            rounds.append(_kill_and_start(servers, worker, seen))
            bench.voice.tell(
                f"{'with' if name else 'without'} a name, {number} of {settings.rounds}:"
                f" {rounds[-1].progress:.2f} s"
            )
    worker.stop()
    return rounds


def _kill_and_start(servers: Servers, worker: LocalProcess, seen: _Seen) -> _Round:
    killed_at = time.time()
    worker.kill()
    seen.first.clear()
    seen.after = time.time()
    servers.start(worker)
    ready = time.time() - killed_at
    _await(lambda: len(seen.first) == 2, "a record and a report of the new process")
    seen.after = float("inf")
    report = seen.first[True]
    return _Round(ready, min(report, seen.first[False]) - killed_at, report - killed_at)


def _more_reports(seen: _Seen, count: float) -> Callable[[], bool]:
    wanted = seen.reports + count
    return lambda: seen.reports >= wanted


def _await(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited in vain for {what}")
        time.sleep(_LOOK_SECONDS)


@contextmanager
def _load(servers: Servers, rate: float) -> Iterator[None]:
    """Send requests all the time."""
    with _thread(
        lambda stop: arrive(
            servers.bootstrap, _FOREVER, rate, lambda _moment, _record: None, is_over=stop.is_set
        )
    ):
        yield


@contextmanager
def _reading(servers: Servers) -> Iterator[_Seen]:
    """Look at every record that roles make from now on."""
    seen = _Seen()
    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": servers.bootstrap, "group.id": "bench-watch", "log_level": 0}
    )

    def look(stop: threading.Event) -> None:
        while not stop.is_set():
            message = consumer.poll(0.1)
            if message is None or message.error() is not None:
                continue
            is_report = message.topic() == REPORTS
            seen.reports += is_report
            if message.timestamp()[1] > seen.after * 1000:
                seen.first.setdefault(is_report, time.time())

    try:
        consumer.assign(_ends(consumer, _topics()))
        with _thread(look):
            yield seen
    finally:
        consumer.close()


def _topics() -> list[str]:
    """Those that roles write, with the producer's own time on each record."""
    specs = load_topology(load_settings().topics_file).topics.items()
    return [name for name, spec in specs if not set(spec.producers) & {*_CLIENTS, "any"}]


def _ends(
    consumer: confluent_kafka.Consumer, topics: Sequence[str]
) -> list[confluent_kafka.TopicPartition]:
    known = consumer.list_topics(timeout=30).topics
    places = [
        confluent_kafka.TopicPartition(topic, partition)
        for topic in topics
        for partition in known[topic].partitions
    ]
    return [
        confluent_kafka.TopicPartition(
            each.topic, each.partition, consumer.get_watermark_offsets(each, timeout=30)[1]
        )
        for each in places
    ]


@contextmanager
def _thread(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Have ``work`` done beside the block; what it raises is raised at its end."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            work(stop)
        except BaseException as error:  # noqa: BLE001  # raised again below
            failures.append(error)

    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(60)
    if failures:
        raise failures[0]

"""Nothing is lost, and little is repeated, when workers and brokers come, go and die."""

import asyncio
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import recording_worker
from support.delivery import committed, config, create_topic, produce, running
from support.kafka_servers import KafkaServer
from support.waiting import eventually

from agents.runtime.kafka import Outgoing, Producer
from agents.runtime.records import Record
from agents.runtime.worker import Subscription
from ops.local import KafkaBroker

pytestmark = [pytest.mark.integration, pytest.mark.faults]

WINDOW = 100
Place = tuple[int, int]
StartWorker = Callable[..., subprocess.Popen[bytes]]


class Journal:
    """What worker processes have written down."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def places(self, event: str) -> Counter[Place]:
        whole, _, _ = self.path.read_text().rpartition("\n")  # the last line may be half written
        lines = (line.split() for line in whole.splitlines())
        return Counter((int(line[1]), int(line[2])) for line in lines if line[0] == event)

    def repeated_by_partition(self) -> dict[int, int]:
        """How many records of each partition were started again."""
        repeated: dict[int, int] = defaultdict(int)
        for (partition, _), times in self.places("start").items():
            repeated[partition] += times - 1
        return repeated


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal")


@pytest.fixture
def start_worker(journal: Journal) -> Iterator[StartWorker]:
    processes: list[subprocess.Popen[bytes]] = []

    def start(
        address: str, group: str, topic: str, seconds: float = 0.002
    ) -> subprocess.Popen[bytes]:
        root = Path(__file__).parents[2]
        process = subprocess.Popen(  # noqa: S603 - our own script
            [
                *(sys.executable, recording_worker.__file__),
                *(address, group, topic, str(journal.path), str(WINDOW), str(seconds)),
            ],
            env={"PYTHONPATH": str(root)},
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture
def topic(broker: KafkaServer, lane: str) -> str:
    return create_topic(broker.bootstrap_servers, f"{lane}orders.v1")


async def test_a_killed_worker_loses_nothing_and_repeats_at_most_the_window(
    broker: KafkaServer, topic: str, lane: str, journal: Journal, start_worker: StartWorker
) -> None:
    address, group, count = broker.bootstrap_servers, f"{lane}role", 4000
    await produce(address, topic, [(b"k%d" % i, b"") for i in range(count)])
    deaths = 0
    for kill_at in (500, 1500):
        worker = start_worker(address, group, topic)
        await eventually(
            lambda at=kill_at: len(journal.places("end")) > at,  # type: ignore[misc] # binds the loop variable
            "some are handled",
        )
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        deaths += 1
        started = len(journal.places("start"))
        successor = start_worker(address, group, topic)
        await eventually(
            lambda at=started: len(journal.places("start")) > at + WINDOW,  # type: ignore[misc] # as above
            "the successor goes on",
        )
        # All deaths so far: who repeats the records of one may die before all are repeated.
        assert max(journal.repeated_by_partition().values()) <= deaths * WINDOW
        successor.send_signal(signal.SIGKILL)
        successor.wait()
        deaths += 1
    last = start_worker(address, group, topic)
    await eventually(lambda: (0, last.pid) in journal.places("up"), "it minds signals")
    await eventually(lambda: len(journal.places("end")) == count, "all are handled")
    last.send_signal(signal.SIGTERM)
    assert last.wait(15) == 0
    assert committed(address, group) == count


async def test_workers_that_join_and_leave_lose_nothing_and_repeat_nothing(
    broker: KafkaServer, topic: str, lane: str
) -> None:
    address, group, count = broker.bootstrap_servers, f"{lane}role", 0
    producer = Producer(config(address))
    everyone_was_there = asyncio.Event()
    handled: Counter[Place] = Counter()
    by_worker: Counter[str] = Counter()
    order: dict[bytes | None, list[int]] = defaultdict(list)

    def subscription(worker: str) -> Subscription:
        async def handle(record: Record) -> None:
            await asyncio.sleep(0.005)
            handled[record.partition, record.offset] += 1
            by_worker[worker] += 1
            order[record.key].append(record.offset)

        return Subscription("role", group, (topic,), handle, window=WINDOW)

    async def feed() -> None:
        nonlocal count
        while not everyone_was_there.is_set():
            await producer.send_all(Outgoing(topic, b"k%d" % i, b"") for i in range(40))
            count += 40
            await asyncio.sleep(0.1)

    async with running(address, subscription("first")):
        feeding = asyncio.create_task(feed())
        async with running(address, subscription("second")):
            await eventually(lambda: by_worker["second"] > 50, "the second one takes part")
        at_leave = by_worker["first"]
        await eventually(lambda: by_worker["first"] > at_leave + 50, "the first one goes on")
        async with running(address, subscription("third")):
            await eventually(lambda: by_worker["third"] > 50, "the third one takes part")
            everyone_was_there.set()
        await feeding
        await eventually(lambda: len(handled) == count, "all are handled")
    await producer.close()
    assert set(handled.values()) == {1}, "a graceful move repeats nothing"
    assert {key: sorted(offsets) for key, offsets in order.items()} == order
    assert committed(address, group) == count


async def test_a_frozen_worker_neither_blocks_the_group_nor_commits_over_its_successor(
    kafka: KafkaServer, lane: str, journal: Journal, start_worker: StartWorker
) -> None:
    address, group, count = kafka.bootstrap_servers, f"{lane}role", 2000
    topic = create_topic(address, f"{lane}orders.v1")
    await produce(address, topic, [(b"k%d" % i, b"") for i in range(count)])
    frozen = start_worker(address, group, topic)
    await eventually(lambda: len(journal.places("end")) > 300, "some are handled")
    frozen.send_signal(signal.SIGSTOP)
    successor = start_worker(address, group, topic)
    await eventually(lambda: len(journal.places("end")) == count, "all are handled")
    await eventually(lambda: committed(address, group) == count, "all is committed")
    frozen.send_signal(signal.SIGCONT)
    await produce(address, topic, [(b"k%d" % i, b"") for i in range(200)])
    await eventually(lambda: committed(address, group) == count + 200, "both go on")
    assert max(journal.repeated_by_partition().values()) <= WINDOW
    for process in (frozen, successor):
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0


@pytest.mark.real_kafka
async def test_a_killed_broker_is_waited_for_and_work_goes_on_by_itself(
    kafka_libs: Path, tmp_path: Path
) -> None:
    settings = {"broker.session.timeout.ms": "3000"}
    with KafkaBroker(tmp_path, kafka_libs, fast_start=True, settings=settings) as server:
        address, count = server.bootstrap_servers, 4000
        source = create_topic(address, "orders.v1")
        target = create_topic(address, "confirmed.v1")
        producer = Producer(config(address))
        await produce(address, source, [(b"k%d" % i, b"%d" % i) for i in range(count)])
        confirmed: Counter[Place] = Counter()

        async def handle(record: Record) -> None:
            await asyncio.sleep(0.1)
            await producer.send(Outgoing(target, record.key, record.value))
            confirmed[record.partition, record.offset] += 1

        subscription = Subscription("role", "role", (source,), handle, window=WINDOW)
        async with running(address, subscription) as worker:
            await eventually(lambda: len(confirmed) > 300, "some are confirmed")
            server.kill()
            await asyncio.sleep(3)
            at_death = len(confirmed)
            assert at_death < count
            server.start()
            await eventually(lambda: len(confirmed) == count, "all are confirmed")
            await eventually(lambda: committed(address, "role") == count, "all is committed")
            assert worker._crash is None
        await producer.close()
        repeated: dict[int, int] = defaultdict(int)
        for (partition, _), times in confirmed.items():
            repeated[partition] += times - 1
        assert max(repeated.values()) <= WINDOW


@pytest.mark.real_kafka
async def test_a_worker_stops_in_time_while_the_broker_is_away(
    kafka_libs: Path, tmp_path: Path
) -> None:
    with KafkaBroker(tmp_path, kafka_libs, fast_start=True) as server:
        address = server.bootstrap_servers
        topic = create_topic(address, "orders.v1")
        await produce(address, topic, [(b"k%d" % i, b"") for i in range(100)])
        handled = 0

        async def handle(_record: Record) -> None:
            nonlocal handled
            handled += 1

        async with running(address, Subscription("role", "role", (topic,), handle)) as worker:
            await eventually(lambda: handled == 100, "all are handled")
            server.kill()
            async with asyncio.timeout(10):
                await worker.stop()

"""A worker with a name of its own comes back to its partitions, and nobody else notices."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import recording_worker
from support.delivery import config, create_topic
from support.kafka_servers import KafkaServer
from support.waiting import eventually

from agents.runtime.kafka import Outgoing, Producer

pytestmark = [pytest.mark.integration, pytest.mark.faults, pytest.mark.real_kafka]

PARTITIONS = 6
#: Long enough for a restart on a busy machine; without a name, resuming would take this long.
SESSION_SECONDS = 30


class Member:
    """A worker process that is a static member of its group."""

    def __init__(self, name: str, address: str, group: str, topic: str, folder: Path) -> None:
        self.journal = folder / name
        self.journal.touch()
        self._command = [sys.executable, recording_worker.__file__]
        self._command += [address, group, topic, str(self.journal), "100", "0.001"]
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "GROUP_INSTANCE_ID": name,
            "SESSION_SECONDS": str(SESSION_SECONDS),
        }
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, env=self._environment)  # noqa: S603 - our own script

    def end(self, number: signal.Signals) -> None:
        self.process.send_signal(number)
        self.process.wait(20)

    def partitions(self, first_line: int = 0) -> set[str]:
        """Where records came from that it has handled since some line of its journal."""
        return {line.split()[1] for line in self.lines()[first_line:]}

    def lines(self) -> list[str]:
        whole, _, _ = self.journal.read_text().rpartition("\n")  # the last may be half written
        return [line for line in whole.splitlines() if not line.startswith("up")]


@pytest.fixture
def member(kafka: KafkaServer, lane: str, tmp_path: Path) -> Iterator[Callable[[str], Member]]:
    members: list[Member] = []
    topic = create_topic(kafka.bootstrap_servers, f"{lane}orders.v1", PARTITIONS)

    def start(name: str) -> Member:
        members.append(Member(name, kafka.bootstrap_servers, f"{lane}role", topic, tmp_path))
        return members[-1]

    yield start
    for each in members:
        each.process.kill()
        each.process.wait()


async def both_go_on(one: Member, other: Member, lines: int) -> None:
    before = len(one.lines()), len(other.lines())
    await eventually(
        lambda: len(one.lines()) > before[0] + lines and len(other.lines()) > before[1] + lines,
        "both go on",
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_restart_within_the_session_resumes_soon_and_moves_no_partition(
    kafka: KafkaServer, lane: str, member: Callable[[str], Member], number: signal.Signals
) -> None:
    producer = Producer(config(kafka.bootstrap_servers))

    async def feed() -> None:
        while True:
            await producer.send_all(
                Outgoing(f"{lane}orders.v1", b"k%d" % key, b"") for key in range(60)
            )
            await asyncio.sleep(0.05)

    feeding = asyncio.create_task(feed())
    one, other = member("one"), member("other")
    await eventually(
        lambda: bool(one.partitions(-100)) and bool(other.partitions(-100)), "both take part"
    )
    # Until the group has settled, the first of them had all partitions.
    await eventually(
        lambda: len(one.partitions(-200)) == len(other.partitions(-200)) == PARTITIONS // 2,
        "the partitions are shared out",
    )
    # What was under way when they were shared out is finished where it began.
    await both_go_on(one, other, 200)
    mark = len(one.lines()), len(other.lines())
    await both_go_on(one, other, 1000)
    mine, theirs = one.partitions(mark[0]), other.partitions(mark[1])
    assert not mine & theirs

    one.end(number)
    at_end = len(one.lines())
    restarted = time.monotonic()
    one.start()
    await eventually(lambda: len(one.lines()) > at_end, "it goes on")
    took = time.monotonic() - restarted
    seen = len(other.lines())
    await eventually(lambda: len(one.lines()) > at_end + 500, "it goes on for a while")
    await eventually(lambda: len(other.lines()) > seen + 500, "the other one goes on, too")
    feeding.cancel()
    await producer.close()

    assert one.partitions(at_end) == mine
    assert other.partitions(mark[1]) == theirs, "no partition has moved in the meantime"
    assert took < SESSION_SECONDS
    print(f"resumed {took:.2f} s after the start of the process")  # noqa: T201 - shown with -s

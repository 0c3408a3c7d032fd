"""What counts as a hang, and what does not."""

import asyncio
import io
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from agents.delayer import forward
from agents.executors.http import call
from agents.planner import plan
from agents.runtime.host import _patience
from agents.runtime.kafka import KafkaConfig
from agents.runtime.roles import spec_of
from agents.runtime.settings import Settings
from agents.runtime.testing import fake_services
from agents.runtime.watchdog import EXIT_STATUS, Pulse, Watchdog, write_task_stacks

ROOT = Path(__file__).resolve().parents[2]
BUSY = Pulse(
    role="planner",
    attempts=0,
    has_work=True,
    is_away=False,
    turns=None,
    poll_thread_is_dead=False,
    patience=120.0,
)


class Bench:
    """A watchdog whose time and pulses a test sets."""

    def __init__(self, *pulses: Pulse) -> None:
        self.now = 1000.0
        self.pulses = list(pulses)
        self.watchdog = Watchdog(lambda: self.pulses, monotonic=lambda: self.now)
        self.watchdog.look()

    def after(self, seconds: int) -> str | None:
        """Look each second; the first problem that is found."""
        for _ in range(seconds):
            self.now += 1.0
            if (problem := self.watchdog.look()) is not None:
                return problem
        return None


def test_work_without_the_end_of_an_attempt_is_a_hang() -> None:
    bench = Bench(BUSY)
    assert bench.after(120) is None
    assert bench.watchdog.stalled() == {"planner": 120.0}
    assert bench.after(1) == "planner has work, and no attempt has ended for 121 s"


def test_one_hanging_role_is_found_among_busy_ones() -> None:
    bench = Bench(BUSY, replace(BUSY, role="router"))
    problem = None
    for attempts in range(130):
        bench.pulses[0] = replace(BUSY, attempts=attempts)
        if problem := bench.after(1):
            break
    assert problem is not None
    assert problem.startswith("router has work")


def test_an_attempt_that_ends_starts_the_time_anew() -> None:
    bench = Bench(BUSY)
    for attempts in range(1, 5):
        assert bench.after(100) is None
        bench.pulses = [replace(BUSY, attempts=attempts)]
    assert bench.after(100) is None


def test_a_role_without_work_may_rest_for_ever() -> None:
    bench = Bench(replace(BUSY, has_work=False))
    assert bench.after(1000) is None


def test_an_outage_is_no_hang_and_its_time_does_not_count() -> None:
    bench = Bench(BUSY)
    bench.after(100)
    bench.pulses = [replace(BUSY, is_away=True)]
    assert bench.after(1000) is None
    bench.pulses = [BUSY]
    assert bench.after(100) is None


def test_each_role_has_its_own_patience() -> None:
    bench = Bench(replace(BUSY, role="delayer", patience=500.0))
    assert bench.after(500) is None
    assert bench.after(1) is not None


def test_patience_outlasts_the_longest_attempt_the_pause_before_it_and_the_wait_for_a_broker() -> (
    None
):
    services, kafka = fake_services(), KafkaConfig(bootstrap_servers="localhost:1")
    pause, broker = 60 * 1.25, kafka.delivery_timeout
    longest = max(
        action.timeout
        for action in services.catalogue.actions.values()
        if action.executor == "http"
    )
    lease = longest + services.settings.effect_lease_margin
    assert _patience(spec_of(plan), services, kafka) == 30 + pause + broker
    assert _patience(spec_of(call), services, kafka) == lease + longest + pause + broker
    assert _patience(spec_of(forward), services, kafka) == 300 + pause + broker


def test_patience_can_be_set() -> None:
    services = fake_services(settings=Settings(watchdog_seconds=5))
    assert _patience(spec_of(plan), services, KafkaConfig(bootstrap_servers="localhost:1")) == 5


def test_a_dead_poll_thread_is_found_at_once() -> None:
    bench = Bench(replace(BUSY, has_work=False, poll_thread_is_dead=True))
    assert bench.after(1) == "the poll thread of planner is dead"


def test_a_poll_thread_that_no_longer_comes_round_is_found() -> None:
    bench = Bench(replace(BUSY, has_work=False, turns=7))
    assert bench.after(121) == "the poll thread of planner has been stuck for 121 s"


def test_a_process_that_was_stopped_for_an_hour_has_not_been_idle() -> None:
    bench = Bench(BUSY)
    bench.now += 3600.0
    assert bench.after(100) is None


async def test_a_blocked_loop_is_found_by_the_thread_and_a_free_one_is_left_alone() -> None:
    ended = threading.Event()
    reasons: list[str] = []

    def end(reason: str, _loop: asyncio.AbstractEventLoop) -> None:
        reasons.append(reason)
        ended.set()

    with Watchdog(list, loop_patience=0.2, end=end, look_every=0.02):
        await asyncio.sleep(0.4)
        assert not reasons
        await asyncio.to_thread(time.sleep, 0.3)
        assert not reasons
        # What a handler must never do.
        assert ended.wait(10)
    assert len(reasons) == 1
    assert reasons[0].startswith("the event loop has been blocked")


async def test_a_role_that_hangs_ends_the_process_once() -> None:
    ended = asyncio.Event()
    reasons: list[str] = []

    def end(reason: str, _loop: asyncio.AbstractEventLoop) -> None:
        reasons.append(reason)
        ended.set()

    pulse = replace(BUSY, patience=0.1)
    with Watchdog(lambda: [pulse], end=end, look_every=0.02) as watchdog:
        assert await watchdog.check() is None
        async with asyncio.timeout(10):
            await ended.wait()
        assert (await watchdog.check() or "").startswith("planner has work")
    assert len(reasons) == 1


async def test_the_stacks_show_where_each_task_waits_and_count_those_that_wait_alike() -> None:
    never = asyncio.Event()

    async def inner() -> None:
        await never.wait()

    async def outer() -> None:
        await inner()

    tasks = [asyncio.create_task(outer()) for _ in range(3)]
    await asyncio.sleep(0)
    stream = io.StringIO()
    write_task_stacks(asyncio.get_running_loop(), stream)
    for task in tasks:
        task.cancel()
    written = stream.getvalue()
    assert "(3 of them)" in written
    assert written.index("in outer") < written.index("in inner") < written.index("in wait")


@pytest.mark.parametrize("hang", ["time.sleep(60)", "await asyncio.Event().wait()"])
def test_a_process_that_hangs_writes_its_stacks_and_ends_with_status_70(
    tmp_path: Path, hang: str
) -> None:
    script = tmp_path / "hanging.py"
    script.write_text(
        f"""
import asyncio, time
from agents.runtime.watchdog import Pulse, Watchdog

PULSE = Pulse("planner", 0, True, False, None, False, 0.4)

async def hang():
    {hang}

async def main():
    with Watchdog(lambda: [PULSE], loop_patience=0.3, look_every=0.05):
        await asyncio.sleep(0.1)
        await hang()

asyncio.run(main())
"""
    )
    process = subprocess.run(  # noqa: S603 - our own script
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert process.returncode == EXIT_STATUS, process.stderr
    assert "watchdog_ends_process" in process.stdout + process.stderr
    assert f'"{script}", line' in process.stderr
    assert "in hang" in process.stderr
    assert "Thread 0x" in process.stderr

"""Faults at random moments: what they are, and which of them a seed chooses."""

import random
import time
from collections.abc import Callable
from typing import Final

from faults.barriers import SINK_BARRIERS, WORKER_BARRIERS
from faults.harness import SESSION_SECONDS, Pipeline

from ops.local import LocalProcess

_FROZEN_SECONDS: Final = SESSION_SECONDS + 2
"""Long enough for the group to give a frozen process's partitions to another."""
_BARRIER_SECONDS: Final = 25.0
"""How long a barrier may take to be reached; some are reached by few messages."""
_LOOK_SECONDS: Final = 0.05


class Chaos:
    """Does faults to a pipeline, one after the other, and repairs it after each.

    Args:
        pipeline: What suffers.
        chance: Decides who and when.
        tell: Called with each thing that is done.
    """

    def __init__(
        self, pipeline: Pipeline, chance: random.Random, tell: Callable[[str], None]
    ) -> None:
        self._pipeline = pipeline
        self._chance = chance
        self._tell = tell

    def do(self, fault: str) -> None:
        """Wait a moment, then do one of :data:`FAULTS`."""
        time.sleep(self._chance.uniform(0.3, 1.5))
        if fault in _NEED_EVERYBODY:
            self._pipeline.wait_until_ready()
        self._tell(fault)
        FAULTS[fault](self)

    def kill_worker(self) -> None:
        """A worker crashes, and another one starts."""
        self._pipeline.kill(self._chance.choice(self._pipeline.workers))
        self._pipeline.start_worker()

    def kill_sink(self) -> None:
        """A sink crashes, and another one starts."""
        self._pipeline.kill(self._chance.choice(self._pipeline.sinks))
        self._pipeline.start_sink()

    def freeze_worker(self) -> None:
        """A worker stops for so long that others take over, and wakes up as a zombie."""
        self._freeze(self._chance.choice(self._pipeline.workers))

    def freeze_sink(self) -> None:
        """A sink does the same."""
        self._freeze(self._chance.choice(self._pipeline.sinks))

    def terminate_worker(self) -> None:
        """A worker is asked to end, and another one starts: a deployment."""
        self._pipeline.terminate(self._chance.choice(self._pipeline.workers))
        self._pipeline.start_worker()

    def terminate_sink(self) -> None:
        """A sink is asked to end, and another one starts."""
        self._pipeline.terminate(self._chance.choice(self._pipeline.sinks))
        self._pipeline.start_sink()

    def join_and_leave(self) -> None:
        """One more worker and one more sink join, and another of each leaves."""
        self._pipeline.start_worker(wait=True)
        self._pipeline.start_sink(wait=True)
        time.sleep(self._chance.uniform(0.5, 2))
        self._pipeline.terminate(self._pipeline.workers[0])
        self._pipeline.terminate(self._pipeline.sinks[0])

    def kill_broker(self) -> None:
        """The broker crashes and comes back."""
        kafka = self._pipeline.servers.kafka
        kafka.kill()
        time.sleep(self._chance.uniform(0, 2))
        kafka.start()

    def pause_broker(self) -> None:
        """The broker answers nobody for a while."""
        kafka = self._pipeline.servers.kafka
        kafka.pause()
        time.sleep(self._chance.uniform(1, SESSION_SECONDS))
        kafka.resume()

    def restart_postgres(self) -> None:
        """Postgres breaks off in the middle of everything and recovers."""
        self._pipeline.servers.postgres.restart(immediate=True)

    def cut_lines(self) -> None:
        """Every connection to Postgres breaks, several times."""
        for _ in range(5):
            self._pipeline.line.cut()
            time.sleep(self._chance.uniform(0.05, 0.5))

    def hold_lines(self) -> None:
        """Postgres seems to take very long."""
        self._pipeline.line.hold()
        time.sleep(self._chance.uniform(1, 3))
        self._pipeline.line.release()

    def worker_at_barrier(self) -> None:
        """A worker dies at one of the named places in its code."""
        self._at_barrier(self._pipeline.start_worker, self._chance.choice(WORKER_BARRIERS))
        self._pipeline.start_worker()

    def sink_at_barrier(self) -> None:
        """A sink dies at one of the named places in its code."""
        self._at_barrier(self._pipeline.start_sink, self._chance.choice(SINK_BARRIERS))
        self._pipeline.start_sink()

    def _at_barrier(self, start: Callable[..., LocalProcess], barrier: str) -> None:
        """Replace one process by another that dies at the barrier.

        It takes the place of the one that has been there longest, and a share of its partitions.
        """
        family = self._pipeline.workers if barrier in WORKER_BARRIERS else self._pipeline.sinks
        hit = self._chance.randrange(1, 6)
        self._tell(f"  {barrier}, time {hit}")
        victim = start("--barrier", barrier, "--hit", str(hit))
        self._pipeline.kill(family[0])
        deadline = time.monotonic() + _BARRIER_SECONDS
        while victim.is_running and time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)
        if victim.is_running:
            self._tell("  was not reached")
            self._pipeline.kill(victim)
        else:
            self._pipeline.bury(victim)

    def _freeze(self, process: LocalProcess) -> None:
        process.pause()
        time.sleep(_FROZEN_SECONDS + self._chance.uniform(0, 2))
        process.resume()


FAULTS: Final[dict[str, Callable[[Chaos], None]]] = {
    each.__name__: each
    for each in (
        Chaos.kill_worker,
        Chaos.freeze_sink,
        Chaos.kill_broker,
        Chaos.worker_at_barrier,
        Chaos.join_and_leave,
        Chaos.cut_lines,
        Chaos.terminate_sink,
        # The other half.
        Chaos.kill_sink,
        Chaos.freeze_worker,
        Chaos.restart_postgres,
        Chaos.sink_at_barrier,
        Chaos.pause_broker,
        Chaos.hold_lines,
        Chaos.terminate_worker,
    )
}
"""Every fault by its name."""

_NEED_EVERYBODY: Final = frozenset(
    {"kill_broker", "pause_broker", "restart_postgres", "cut_lines", "hold_lines"}
)
"""What takes away that which a worker needs to start."""


def faults_of(seed: int) -> list[str]:
    """Half of the faults in an order of the seed's own; two seeds in a row have all of them."""
    names = list(FAULTS)
    half = len(names) // 2
    chosen = names[half:] if seed % 2 else names[:half]
    random.Random(seed).shuffle(chosen)  # noqa: S311 - the same faults each time
    return chosen

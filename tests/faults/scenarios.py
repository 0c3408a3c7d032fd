"""For each planted mistake, the moment at which it shows; without the mistake nothing does.

A scenario drives a pipeline to a certain point, hurts it there, and lets it recover. It is run
twice: with the mistake in every process of the kind, which the checker must report, and without.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from faults.collecting import Observer
from faults.harness import SESSION_SECONDS, Pipeline
from faults.load import Load

from agents.runtime.kafka_admin import KafkaAdmin

_SECONDS: Final = 120.0
_LOOK_SECONDS: Final = 0.05
_REQUESTS: Final = 30


@dataclass(frozen=True)
class Scene:
    """What a scenario works with."""

    pipeline: Pipeline
    load: Load
    faults: tuple[str, ...]
    """What every process of the kind that matters is started with."""


def kill_after_first_commit(scene: Scene) -> None:
    """Kill the worker as soon as it has committed anything, with much on its way."""
    pipeline = scene.pipeline
    worker = pipeline.start_worker(*scene.faults, wait=True)
    pipeline.start_sink()
    scene.load.ask_for(_REQUESTS)
    _wait_for_commits(pipeline)
    pipeline.kill(worker)
    pipeline.start_worker(*scene.faults)


def postgres_is_away(scene: Scene) -> None:
    """Take the connections to Postgres away while messages are handled."""
    pipeline = scene.pipeline
    pipeline.start_worker(*scene.faults, wait=True)
    pipeline.start_sink()
    scene.load.ask_for(_REQUESTS)
    _wait_for_commits(pipeline)
    pipeline.servers.postgres.restart(immediate=True)
    scene.load.ask_for(_REQUESTS)
    for _ in range(5):
        pipeline.line.cut()
        time.sleep(0.1)


def die_at(barrier: str, *, hit: int = 1) -> Callable[[Scene], None]:
    """Let the worker die at a barrier, and start another."""

    def play(scene: Scene) -> None:
        pipeline = scene.pipeline
        worker = pipeline.start_worker(*scene.faults, "--barrier", barrier, "--hit", str(hit))
        pipeline.start_sink()
        scene.load.ask_for(_REQUESTS)
        _wait_until(lambda: not worker.is_running, f"the worker is at {barrier}", pipeline)
        pipeline.bury(worker)
        pipeline.start_worker(*scene.faults)

    return play


def sink_dies_before_it_commits(scene: Scene) -> None:
    """Let a sink die between the first and the last statement of a batch."""
    pipeline = scene.pipeline
    sink = pipeline.start_sink(*scene.faults, "--barrier", "before-sink-commit")
    scene.load.ask_for(_REQUESTS)
    _wait_until(lambda: not sink.is_running, "the sink is at the barrier", pipeline)
    pipeline.bury(sink)
    pipeline.start_sink(*scene.faults)


def sink_wakes_up_with_an_old_batch(scene: Scene) -> None:
    """Freeze a sink between reading and writing, until another has written the same and more."""
    pipeline = scene.pipeline
    zombie = pipeline.start_sink(*scene.faults, "--barrier", "before-sink-write", "--freeze")
    scene.load.ask_for(_REQUESTS)
    time.sleep(SESSION_SECONDS)  # it may freeze at any moment from now on
    pipeline.start_sink(*scene.faults)
    scene.load.ask_for(_REQUESTS)
    observer = Observer(pipeline.place)
    _wait_until(lambda: observer.progress() >= 2 * _REQUESTS, "the other has taken over", pipeline)
    zombie.resume()


def _wait_for_commits(pipeline: Pipeline) -> None:
    admin = KafkaAdmin(pipeline.servers.kafka.bootstrap_servers)
    group = f"{pipeline.lane}millstream-intent_parser"
    _wait_until(
        lambda: sum(admin.consumer_group_offsets(group).values()) > 0,
        "something is committed",
        pipeline,
    )


def _wait_until(condition: Callable[[], bool], what: str, pipeline: Pipeline) -> None:
    deadline = time.monotonic() + _SECONDS
    while not condition():
        in_time = time.monotonic() < deadline
        assert in_time, f"not within {_SECONDS:g} s: {what}\n{pipeline.tails()}"
        time.sleep(_LOOK_SECONDS)


@dataclass(frozen=True)
class Planted:
    """A mistake, when it shows, and who must see it."""

    mistake: str
    play: Callable[[Scene], None]
    seen_by: frozenset[str]
    """Checks of which at least one must report it."""
    condition: tuple[str, ...] = ()
    """Arguments that set up what both runs have, such as a slow broker."""


_LOST: Final = frozenset({"one_terminal_state"})

PLANTED: Final = (
    Planted(
        "ack-before-delivery",
        kill_after_first_commit,
        _LOST,
        condition=("--condition", "slow-broker"),
    ),
    Planted(
        "ack-out-of-order",
        kill_after_first_commit,
        _LOST,
        condition=("--condition", "slow-for-some"),
    ),
    Planted("ack-on-exception", postgres_is_away, _LOST),
    Planted("random-ids", die_at("after-produce-before-ack"), frozenset({"chain_is_complete"})),
    Planted(
        "no-effect-claim",
        die_at("after-effect-before-record"),
        frozenset({"effects_happen_once"}),
    ),
    Planted(
        "outbox-deleted-before-publish",
        die_at("after-ledger-commit-before-publish"),
        _LOST,
    ),
    Planted(
        "no-fence",
        sink_wakes_up_with_an_old_batch,
        frozenset({"sink_accounts_for_every_record"}),
    ),
    Planted(
        "offsets-outside-the-transaction",
        sink_dies_before_it_commits,
        frozenset({"events_equal_topics"}),
    ),
)
"""Every mistake that the checker has to see."""

"""For each planted mistake, the moment at which it shows; without the mistake nothing does.

A scenario drives a pipeline to a certain point, hurts it there, and lets it recover. It is run
twice: with the mistake in every process of the kind, which the checker must report, and without.
It waits until the mistake has been made for certain, however slow the machine is: what shall not be
done in time is held up for good, and whoever makes a mistake says so in its log.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import psutil
from faults.collecting import Observer
from faults.harness import Pipeline
from faults.load import Load
from faults.mistakes import ACKED_ANYWAY, HELD, WRITTEN_UNFENCED

from agents.runtime.kafka_admin import KafkaAdmin
from ops.local import LocalProcess

_SECONDS: Final = 120.0
_LOOK_SECONDS: Final = 0.05
_REQUESTS: Final = 30


@dataclass(frozen=True)
class Scene:
    """What a scenario works with."""

    pipeline: Pipeline
    load: Load
    mistake: tuple[str, ...]
    """What every process of the kind that matters is started with; empty without the mistake."""


def kill_with_records_held(condition: str) -> Callable[[Scene], None]:
    """Kill a worker that will never be done with some records, once it has acked them all the same.

    A worker without the mistake acks none of them, so it is killed as soon as it holds some.
    """

    def play(scene: Scene) -> None:
        pipeline = scene.pipeline
        worker = pipeline.start_worker("--condition", condition, *scene.mistake, wait=True)
        pipeline.start_sink()
        scene.load.ask_for(_REQUESTS)
        _wait_until(lambda: pipeline.logged(HELD), "records are held", pipeline)
        if scene.mistake:
            _wait_for_commits(pipeline)
        pipeline.kill(worker)
        pipeline.start_worker(*scene.mistake)

    return play


def postgres_is_away(scene: Scene) -> None:
    """Take Postgres away until it has been missed.

    With the mistake, by the safety checker: a plan that it acks has no verdict, for certain.
    Another role may have been done with everything that matters.
    """
    pipeline, postgres = scene.pipeline, scene.pipeline.servers.postgres
    worker = pipeline.start_worker(*scene.mistake, wait=True)
    pipeline.start_sink()
    scene.load.ask_for(_REQUESTS)
    _wait_for_commits(pipeline)
    said_before = len(_lines_of(worker))
    words = (ACKED_ANYWAY, "safety_checker") if scene.mistake else ("infrastructure_away",)
    postgres.stop()
    try:
        scene.load.ask_for(_REQUESTS)
        _wait_until(
            lambda: any(
                all(f'"{word}"' in line for word in words)
                for line in _lines_of(worker)[said_before:]
            ),
            "Postgres is missed",
            pipeline,
        )
    finally:
        postgres.start()


def die_at(barrier: str, *, hit: int = 1) -> Callable[[Scene], None]:
    """Let the worker die at a barrier, and start another."""

    def play(scene: Scene) -> None:
        pipeline = scene.pipeline
        worker = pipeline.start_worker(*scene.mistake, "--barrier", barrier, "--hit", str(hit))
        pipeline.start_sink()
        scene.load.ask_for(_REQUESTS)
        _wait_until(lambda: not worker.is_running, f"the worker is at {barrier}", pipeline)
        pipeline.bury(worker)
        pipeline.start_worker(*scene.mistake)

    return play


def sink_dies_before_it_commits(scene: Scene) -> None:
    """Let a sink die between the first and the last statement of a batch."""
    pipeline = scene.pipeline
    sink = pipeline.start_sink(*scene.mistake, "--barrier", "before-sink-commit")
    scene.load.ask_for(_REQUESTS)
    _wait_until(lambda: not sink.is_running, "the sink is at the barrier", pipeline)
    pipeline.bury(sink)
    pipeline.start_sink(*scene.mistake)


def sink_wakes_up_with_an_old_batch(scene: Scene) -> None:
    """Freeze a sink between reading and writing, until another has written the same and more."""
    pipeline = scene.pipeline
    zombie = pipeline.start_sink(*scene.mistake, "--barrier", "before-sink-write", "--freeze")
    scene.load.ask_for(_REQUESTS)
    process = psutil.Process(zombie.pid)
    _wait_until(
        lambda: process.status() == psutil.STATUS_STOPPED, "the sink is at the barrier", pipeline
    )
    pipeline.start_sink(*scene.mistake)
    scene.load.ask_for(_REQUESTS)
    observer = Observer(pipeline.place)
    _wait_until(lambda: observer.progress() >= 2 * _REQUESTS, "the other has taken over", pipeline)
    zombie.resume()
    came_of_it = WRITTEN_UNFENCED if scene.mistake else "sink_fenced"
    _wait_until(
        lambda: any(f'"{came_of_it}"' in line for line in _lines_of(zombie)),
        "the zombie has tried to write",
        pipeline,
    )


def _wait_for_commits(pipeline: Pipeline) -> None:
    admin = KafkaAdmin(pipeline.servers.kafka.bootstrap_servers)
    group = f"{pipeline.lane}millstream-intent_parser"
    _wait_until(
        lambda: sum(admin.consumer_group_offsets(group).values()) > 0,
        "something is committed",
        pipeline,
    )


def _lines_of(process: LocalProcess) -> list[str]:
    """What it has said so far, without a line that is half written."""
    return process.log_file.read_text().rpartition("\n")[0].splitlines()


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


_LOST: Final = frozenset({"one_terminal_state"})

PLANTED: Final = (
    Planted("ack-before-delivery", kill_with_records_held("stuck-broker"), _LOST),
    Planted("ack-out-of-order", kill_with_records_held("stuck-for-some"), _LOST),
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
        "settled-later",
        # Of each request the router sees a verdict and a result, so by then some have ended.
        die_at("after-ledger-commit-before-publish", hit=_REQUESTS * 3 // 2),
        frozenset({"money_is_accounted_for"}),
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

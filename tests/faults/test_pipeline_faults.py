"""Whatever is killed, frozen, cut off or replaced: nothing is lost, nothing happens twice.

``make faults`` runs 20 seeds; ``FAULT_SEED=7 pytest tests/faults/test_pipeline_faults.py`` repeats
one. A seed decides the load, the faults, their victims and the pauses between them.
"""

import random
import time

import pytest
from faults.chaos import Chaos, faults_of
from faults.checker import check, described
from faults.collecting import Observer
from faults.harness import Pipeline
from faults.load import Load

pytestmark = [
    pytest.mark.integration,
    pytest.mark.faults,
    pytest.mark.real_kafka,
    pytest.mark.timeout(400),
]

PER_SECOND = 6
REST_SECONDS = 90.0


def test_faults_at_random_moments_lose_nothing_and_repeat_nothing(
    pipeline: Pipeline, seed: int
) -> None:
    story: list[str] = [f"FAULT_SEED={seed}"]
    began = time.monotonic()

    def tell(line: str) -> None:
        story.append(f"{time.monotonic() - began:6.1f} s  {line}")

    servers = pipeline.servers
    load = Load(servers.kafka.bootstrap_servers, pipeline.lane, seed, servers.playground.url)
    for _ in range(2):
        pipeline.start_worker()
        pipeline.start_sink()
    pipeline.wait_until_ready()
    observer = Observer(pipeline.place)
    chaos = Chaos(pipeline, random.Random(seed), tell)  # noqa: S311 - the same faults each time
    with load.running(PER_SECOND):
        for fault in faults_of(seed):
            chaos.do(fault)
            gone = pipeline.ended_by_themselves()
            assert not gone, "\n".join([*story, f"{gone[0].name} has ended", pipeline.tails()])
    tell("no more load")
    at_rest = observer.wait_until_at_rest(REST_SECONDS)
    tell("at rest" if at_rest else "it does not come to rest")
    faults = check(observer.collect(load.submitted))
    print("\n".join(story))  # noqa: T201 - pytest shows it when the test fails
    assert at_rest, f"{described(faults)}\n{pipeline.tails()}"
    assert not faults, f"FAULT_SEED={seed}\n{described(faults)}\n{pipeline.tails()}"

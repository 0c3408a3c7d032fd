"""The checker sees what it is there to see: each planted mistake, and nothing where none is."""

import os

import pytest
from faults.checker import check, described
from faults.collecting import Observer
from faults.harness import Pipeline
from faults.load import Load
from faults.scenarios import PLANTED, Planted, Scene

pytestmark = [
    pytest.mark.integration,
    pytest.mark.faults,
    pytest.mark.real_kafka,
    pytest.mark.timeout(200),
]

REST_SECONDS = 45.0
#: `make faults` runs every scenario without its mistake, too; the normal run, for the sake of time,
#: only that of the zombie sink, since no random fault is sure to bring one to the fence.
UNDISTURBED = [p for p in PLANTED if "FAULT_SEEDS" in os.environ or p.mistake == "no-fence"]
#: A pipeline without workers leaves its requests unhandled, which is no fault of a sink.
NEEDS_WORKERS = frozenset({"one_terminal_state", "used_ids_are_refused"})


def faults_after(
    pipeline: Pipeline, planted: Planted, *, with_mistake: bool
) -> dict[str, list[str]]:
    load = Load(pipeline.servers.kafka.bootstrap_servers, pipeline.lane, seed=1)
    mistake = ("--mistake", planted.mistake) if with_mistake else ()
    planted.play(Scene(pipeline, load, mistake))
    observer = Observer(pipeline.place)
    at_rest = observer.wait_until_at_rest(REST_SECONDS)
    faults = check(observer.collect(load.submitted))
    assert at_rest or with_mistake, f"{described(faults)}\n{pipeline.tails()}"
    if not pipeline.place.roles:
        faults = {name: each for name, each in faults.items() if name not in NEEDS_WORKERS}
    return faults


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.mistake)
def test_the_checker_reports(pipeline: Pipeline, planted: Planted) -> None:
    faults = faults_after(pipeline, planted, with_mistake=True)
    assert planted.seen_by & faults.keys(), f"{described(faults)}\n{pipeline.tails()}"


@pytest.mark.parametrize("planted", UNDISTURBED, ids=lambda planted: planted.mistake)
def test_the_checker_is_silent_without(pipeline: Pipeline, planted: Planted) -> None:
    faults = faults_after(pipeline, planted, with_mistake=False)
    assert not faults, f"{described(faults)}\n{pipeline.tails()}"
    if planted.mistake == "no-fence":
        assert pipeline.logged("sink_fenced"), "the zombie never came to the fence"

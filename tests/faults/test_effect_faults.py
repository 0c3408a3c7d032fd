"""A worker dies between any two lines of an effect: nothing is done twice, every doubt is told.

A person then says what is true, by what the other side has counted, while the router dies over it.
"""

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest
from faults.barriers import EFFECT_BARRIERS
from faults.checker import check, described
from faults.collecting import Observer
from faults.evidence import Evidence
from faults.harness import Pipeline
from faults.load import Load
from support.waiting import wait_until

from agents.runtime.commands import Address, Said, Speaker, make_command
from agents.runtime.settings import Settings
from agents.runtime.signing import SigningKey
from ops.approvals import send
from ops.effects import Effect, Which, effects
from ops.keys import provide_keys

pytestmark = [
    pytest.mark.integration,
    pytest.mark.faults,
    pytest.mark.real_kafka,
    pytest.mark.timeout(400),
]

REQUESTS = 6
REST_SECONDS = 120.0
DOUBTFUL = ("after-claim-before-effect", "after-effect-before-record")


@pytest.mark.parametrize("barrier", EFFECT_BARRIERS)
def test_an_effect_is_done_at_most_once_and_every_doubt_is_told_and_resolved(
    pipeline: Pipeline, tmp_path: Path, barrier: str
) -> None:
    principals, keys = provide_keys(tmp_path / "keys", ["bob"])
    pipeline.set(MILLSTREAM_PRINCIPALS_FILE=str(principals))
    worker = pipeline.start_worker("--barrier", barrier, "--hit", "2")
    pipeline.start_sink()
    load = Load(pipeline.servers.kafka.bootstrap_servers, pipeline.lane, seed=1)
    # One after the other: another effect in the dying process's hands would be in doubt as well.
    load.ask_for(1)
    wait_until(lambda: ended_runs(pipeline) == 1, "the first execution has ended")
    load.ask_for(1)
    wait_until(lambda: not worker.is_running, f"the worker is at {barrier}")
    load.ask_for(REQUESTS - 2)
    pipeline.bury(worker)
    over_it = ("--barrier", "after-resolution-before-run") if barrier in DOUBTFUL else ()
    second = pipeline.start_worker(*over_it)
    evidence = at_rest(pipeline, load)
    assert max(evidence.calls.values()) == 1, "an effect was done twice"
    doubts = in_doubt(pipeline)
    ends = Counter(run["status"] for run in evidence.runs)
    assert ends["unknown"] == len({each.correlation_id for each in doubts})
    assert bool(doubts) == (barrier in DOUBTFUL)
    assert ends["success"] == REQUESTS - ends["unknown"]
    if not doubts:
        return
    speaker = Speaker("bob", SigningKey.read(keys["bob"]))
    say(pipeline, speaker, doubts, done=barrier == "after-effect-before-record")
    wait_until(lambda: not second.is_running, "the router has died over it")
    pipeline.bury(second)
    pipeline.start_worker()
    wait_until(lambda: not unknown_runs(pipeline), "every execution has ended for certain")
    assert in_doubt(pipeline) == []


def say(pipeline: Pipeline, speaker: Speaker, doubts: list[Effect], *, done: bool) -> None:
    """Settle every doubt, each command sent twice."""
    messages = [
        make_command(
            "resolve",
            Address(pipeline.lane, each.correlation_id, "default", each.claimed_at),
            speaker,
            now=datetime.now(UTC),
            reason="the other side has counted",
            said=Said(each.step_id, each.run_no, *(("done", {}) if done else ("failed", None))),
        )
        for each in doubts
    ]
    address = pipeline.servers.kafka.bootstrap_servers
    send(Settings(kafka_bootstrap=address, lane=pipeline.lane), [*messages, *messages])


def in_doubt(pipeline: Pipeline) -> list[Effect]:
    with psycopg.connect(pipeline.place.database_url, autocommit=True) as connection:
        return effects(connection, Which(in_doubt=True), lane=pipeline.lane)


def unknown_runs(pipeline: Pipeline) -> int:
    return count_runs(pipeline, "is_open OR status = 'unknown'")


def ended_runs(pipeline: Pipeline) -> int:
    return count_runs(pipeline, "NOT is_open")


def count_runs(pipeline: Pipeline, which: LiteralString) -> int:
    with psycopg.connect(pipeline.place.database_url, autocommit=True) as connection:
        query = f"SELECT count(*) FROM ledger.runs WHERE {which}"  # noqa: S608  # written here
        found = connection.execute(query).fetchone()
        return 0 if found is None else int(found[0])


def at_rest(pipeline: Pipeline, load: Load) -> Evidence:
    observer = Observer(pipeline.place)
    is_at_rest = observer.wait_until_at_rest(REST_SECONDS)
    evidence = observer.collect(load.submitted)
    faults = check(evidence)
    assert is_at_rest, f"{described(faults)}\n{pipeline.tails()}"
    assert not faults, f"{described(faults)}\n{pipeline.tails()}"
    return evidence

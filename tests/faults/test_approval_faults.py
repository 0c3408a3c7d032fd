"""A worker that dies in the middle of an approval: no approval is lost, none counts twice.

At each place the worker is killed as by ``kill -9``, and another takes over. Afterwards the checker
of the fault runs looks at everything, and each execution must have been judged exactly twice.
"""

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from faults.barriers import APPROVAL_BARRIERS
from faults.checker import check, described
from faults.collecting import Observer
from faults.evidence import Evidence
from faults.harness import Pipeline
from faults.load import Load
from faults.reading import Reading
from ruamel.yaml import YAML
from support.waiting import wait_until

from agents.runtime.commands import Speaker, make_command
from agents.runtime.settings import Settings
from agents.runtime.signing import SigningKey
from ops.approvals import Pending, pending, send, waiting
from ops.keys import provide_keys
from schemas import Command, CommandAnswer, Plan, Verdict

pytestmark = [
    pytest.mark.integration,
    pytest.mark.faults,
    pytest.mark.real_kafka,
    pytest.mark.timeout(300),
]

REQUESTS = 6
REST_SECONDS = 90.0
EXPIRY = "approval-after-expiry-before-publish"


@pytest.mark.parametrize("barrier", [name for name in APPROVAL_BARRIERS if name != EXPIRY])
def test_an_approval_survives_the_death_of_its_worker(
    pipeline: Pipeline, tmp_path: Path, barrier: str
) -> None:
    speaker = let_restarts_need_approval(pipeline, tmp_path)
    worker = pipeline.start_worker("--barrier", barrier, "--hit", "2")
    pipeline.start_sink()
    load = Load(pipeline.servers.kafka.bootstrap_servers, pipeline.lane, seed=1)
    load.ask_for(REQUESTS)
    approve_all(pipeline, speaker)
    wait_until(lambda: not worker.is_running, f"the worker is at {barrier}")
    pipeline.bury(worker)
    pipeline.start_worker()
    evidence = at_rest(pipeline, load)
    assert [run["status"] for run in evidence.runs] == ["success"] * REQUESTS
    assert judged(evidence) == {
        execution: [(1, "needs_approval"), (2, "approved")] for execution in load.submitted
    }
    assert approvals_counted(evidence) == dict.fromkeys(load.submitted, 1)
    assert answered(evidence) == {execution: [None] for execution in load.submitted}


def test_an_execution_expires_once_although_its_worker_dies_doing_it(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    speaker = let_restarts_need_approval(pipeline, tmp_path)
    pipeline.set(MILLSTREAM_APPROVAL_TTL="3s")
    worker = pipeline.start_worker("--barrier", EXPIRY)
    pipeline.start_sink()
    load = Load(pipeline.servers.kafka.bootstrap_servers, pipeline.lane, seed=1)
    load.ask_for(REQUESTS)
    wait_until(lambda: not worker.is_running, f"the worker is at {EXPIRY}")
    pipeline.bury(worker)
    pipeline.start_worker()
    at_rest(pipeline, load)
    with psycopg.connect(pipeline.place.database_url, autocommit=True) as connection:
        late = [pending(connection, str(each), lane=pipeline.lane) for each in load.submitted]
    say(pipeline, speaker, late)
    evidence = at_rest(pipeline, load)
    assert [run["status"] for run in evidence.runs] == ["expired"] * REQUESTS
    refused = {execution: ["approval_expired"] for execution in load.submitted}
    assert answered(evidence) == refused, "nobody approves what has expired"
    assert not evidence.effects


def let_restarts_need_approval(pipeline: Pipeline, folder: Path) -> Speaker:
    """Have somebody approve each restart; returns who may."""
    yaml = YAML()
    catalogue = yaml.load(pipeline.servers.actions_file.read_text())
    catalogue["actions"]["service.restart"]["needs_approval"] = True
    actions = folder / "actions.yaml"
    with actions.open("w") as file:
        yaml.dump(catalogue, file)
    principals, keys = provide_keys(folder / "keys", ["bob"])
    pipeline.set(MILLSTREAM_ACTIONS_FILE=str(actions), MILLSTREAM_PRINCIPALS_FILE=str(principals))
    return Speaker("bob", SigningKey.read(keys["bob"]))


def approve_all(pipeline: Pipeline, speaker: Speaker) -> None:
    with psycopg.connect(pipeline.place.database_url, autocommit=True) as connection:
        wait_until(
            lambda: len(waiting(connection, lane=pipeline.lane)) == REQUESTS,
            "all wait for approval",
        )
        say(pipeline, speaker, waiting(connection, lane=pipeline.lane))


def say(pipeline: Pipeline, speaker: Speaker, about: Sequence[Pending]) -> None:
    """Approve, each command twice, as somebody does who got no answer."""
    settings = Settings(
        kafka_bootstrap=pipeline.servers.kafka.bootstrap_servers, lane=pipeline.lane
    )
    messages = [
        make_command(
            "approve",
            each.address(pipeline.lane),
            speaker,
            now=datetime.now(UTC),
            plan_hash=each.plan_hash,
        )
        for each in about
    ]
    send(settings, [*messages, *messages])


def at_rest(pipeline: Pipeline, load: Load) -> Evidence:
    observer = Observer(pipeline.place)
    is_at_rest = observer.wait_until_at_rest(REST_SECONDS)
    evidence = observer.collect(load.submitted)
    faults = check(evidence)
    assert is_at_rest, f"{described(faults)}\n{pipeline.tails()}"
    assert not faults, f"{described(faults)}\n{pipeline.tails()}"
    return evidence


def payloads(evidence: Evidence, model: type[Any]) -> list[tuple[UUID, Any]]:
    return [
        (message.correlation_id, message.payload)
        for message in Reading(evidence).distinct
        if isinstance(message.payload, model)
    ]


def judged(evidence: Evidence) -> dict[UUID, list[tuple[int, str]]]:
    verdicts = defaultdict(list)
    for execution, verdict in payloads(evidence, Verdict):
        verdicts[execution].append((verdict.plan.evaluation, verdict.decision))
    return {execution: sorted(found) for execution, found in verdicts.items()}


def approvals_counted(evidence: Evidence) -> dict[UUID, int]:
    """By execution, how many approvals went with each plan that was sent back."""
    return {
        execution: len(plan.approvals)
        for execution, plan in payloads(evidence, Plan)
        if plan.evaluation > 1
    }


def answered(evidence: Evidence) -> dict[UUID, list[str | None]]:
    """By execution, the codes of the answers: one for each command, however often it came."""
    assert {command.kind for _, command in payloads(evidence, Command)} <= {"approve"}
    answers = defaultdict(list)
    for execution, answer in payloads(evidence, CommandAnswer):
        answers[execution].append(answer.code)
    return dict(answers)

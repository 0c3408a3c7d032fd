"""The command line, used as a person uses it: real processes on the embedded servers."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

import httpx
import psutil
import pytest
from support.command_line import RunningUp, millstream
from support.waiting import wait_until

from agents.runtime.settings import ROOT
from agents.runtime.topology import load_topology
from ops.local import free_port

pytestmark = [pytest.mark.integration, pytest.mark.e2e]

TOPICS = len(load_topology(ROOT / "topics.yaml").topics)


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that every user can reach, so that Postgres's data lie in it even for root."""
    folder = Path(tempfile.mkdtemp(prefix="millstream-cli-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def state() -> Iterator[Path]:
    """The folder of a stack."""
    with open_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def stack() -> Iterator[RunningUp]:
    """A stack that the tests of this module share; none may stop it."""
    with open_folder() as folder, RunningUp(folder) as up:
        yield up


def test_up_says_what_runs_where_and_what_to_do_next(stack: RunningUp) -> None:
    for part in ("broker", "postgres", "playground", "worker", "sink", str(stack.state)):
        assert part in stack.output
    assert f"{TOPICS} topics" in stack.output
    assert "millstream submit" in stack.output


def test_submit_and_wait_prints_the_timeline(stack: RunningUp) -> None:
    answer = stack.run("submit", "restart checkout in staging and tell #releases", "--wait")
    assert answer.code == 0, answer
    for part in ("success", "intent", "plan", "approved", "✔ service.restart", "✔ notify.send"):
        assert part in answer.out
    assert "\x1b" not in answer.out, "colour where there is no terminal"


def test_the_exit_code_says_that_an_execution_did_not_succeed(stack: RunningUp) -> None:
    answer = stack.run("submit", "delete checkout in production", "--wait")
    assert answer.code == 1, answer
    assert "production allows at most medium risk" in answer.out


def test_a_verdict_is_explained_with_what_would_make_it_pass(stack: RunningUp) -> None:
    sent = stack.run("submit", "delete web in development", "--correlation-id", "why not", "--wait")
    assert sent.code == 1, sent
    answer = stack.run("policies", "explain", "why not")
    assert answer.code == 0, answer
    for part in (
        "delete web in development",
        "asked by anonymous, tenant default; approved by nobody",
        "verdict: denied",
        "destructive.known-requester",
        "`millstream submit --user`",
        "The same policies are in force today.",
    ):
        assert part in " ".join(answer.out.split())
    explained = stack.run("policies", "explain", "why not", "--json").json
    assert explained["then"]["decision"] == explained["now"]["decision"] == "denied"
    unknown = stack.run("policies", "explain", "no such")
    assert (unknown.code, "there is no execution 'no such'" in unknown.err) == (1, True)


def test_waiting_has_an_end_and_says_how_far_it_came(stack: RunningUp) -> None:
    let_the_next_restart_wait("web", playground_of(stack))
    answer = stack.run("submit", "restart web in staging", "--wait", "--timeout", "3")
    assert answer.code == 3, answer
    assert "has not ended after 3 s; so far:" in answer.err
    assert "attempt 1: POST" in answer.err
    assert "Traceback" not in answer.err


@pytest.mark.timeout(400)
def test_two_people_approve_from_the_command_line(stack: RunningUp, tmp_path: Path) -> None:
    key = tmp_path / "bob.pem"
    made = stack.run("approvals", "make-key", "bob", "--key", key)
    assert made.code == 0, made
    assert key.read_text().splitlines()[1] not in made.out
    principals = stack.state / "keys" / "principals.yaml"
    principals.write_text(principals.read_text() + made.out.split("principals:\n")[1])
    asked = stack.run("submit", "delete inventory in development", "--user", "zoe", "--json").json
    execution = asked["correlation_id"]
    wait_until(lambda: execution[:8] in stack.run("approvals", "ls").out, "it waits")
    own = stack.run("approve", execution, "--reason", "nobody uses it")
    assert own.code == 0, own
    assert "service.delete" in own.out, "it shows what is approved"
    assert "still wanted: 1 person" in own.out
    forged = stack.run("approve", execution, "--by", "zoe", "--key", key)
    assert forged.code == 1, forged
    assert "nobody is known as zoe" in forged.out
    [waiting] = stack.run("approvals", "ls", "--json").json
    assert waiting["correlation_id"] == execution
    assert [each["approvers"] for each in waiting["missing"]] == [1]
    assert stack.run("approve", execution, "--by", "bob", "--key", key).code == 0
    shown: list[str] = []

    def has_run() -> bool:
        shown[:] = [stack.run("show", execution).out]
        return "● success" in shown[0]

    wait_until(has_run, "it has run")
    for part in ("nobody uses it", "refused", "judged again, approved by", " and bob"):
        assert part in shown[0]
    too_late = stack.run("reject", execution, "--by", "bob", "--key", key, "--json")
    assert (too_late.code, too_late.json["code"]) == (1, "refused"), too_late


@pytest.mark.timeout(400)
def test_what_is_in_doubt_is_resolved_from_the_command_line(stack: RunningUp) -> None:
    fault = {"service": "payments", "environment": "staging", "kind": "cut"}
    httpx.post(f"{playground_of(stack)}/faults", json=fault).raise_for_status()
    sent = stack.run("submit", "restart payments in staging and tell #releases", "--json").json
    execution = sent["correlation_id"]
    stack.run("watch", execution)
    assert stack.run("show", execution, "--json").json["status"] == "unknown"

    [doubt] = stack.run("effects", "ls", "--action", "service.restart", "--json").json
    assert (doubt["correlation_id"], doubt["status"]) == (execution, "unknown")
    step = doubt["step_id"]
    assert stack.run("effects", "ls", "--tenant", "nobody", "--json").json == []
    assert stack.run("effects", "ls", "--age", "3h", "--json").json == []
    assert stack.run("effects", "ls", "--status", "done", "--age", "soon").code == 2
    assert execution[:8] in stack.run("effects", "ls").out
    shown = stack.run("effects", "show", execution, step)
    assert (shown.code, "whether it took effect is not known" in shown.out) == (0, True), shown

    say = ("effects", "resolve", execution, step, "--outcome")
    forged = stack.run(*say, "done", "--reason", "I guess", "--by", "zoe")
    assert (forged.code, "nobody is known as zoe" in forged.out) == (1, True), forged
    assert stack.run(*say, "done", "--reason", "seen", "--output", "nonsense").code == 2
    bare = stack.run(*say, "done", "--reason", "it runs since noon")
    assert (bare.code, "say what health" in bare.out) == (1, True), bare
    output = {"version": "5.2", "health": "fine", "replicas": 2, "restarted_at": "noon"}
    told = ("--reason", "it runs since noon", "--output", json.dumps(output), "--json")
    settled = stack.run(*say, "done", *told)
    assert (settled.code, settled.json["is_accepted"]) == (0, True), settled

    def status() -> str:
        return str(stack.run("show", execution, "--json").json["status"])

    wait_until(lambda: status() == "success", "it has gone on to its end")
    [effect, _] = stack.run("effects", "show", execution, "--json").json
    assert (effect["status"], effect["run_no"]) == ("done", 1)
    assert effect["resolved"]["reason"] == "it runs since noon"
    assert "it runs since noon" in stack.run("effects", "show", execution, step).out
    assert execution[:8] not in stack.run("effects", "ls").out
    assert execution[:8] in stack.run("effects", "ls", "--status", "all").out
    again = stack.run(*say, "failed", "--reason", "or not")
    assert (again.code, "nobody is in doubt about it" in again.out) == (1, True), again
    assert stack.run("effects", "show", execution, "no_such_step").code == 1


def test_approving_without_a_key_says_how_to_get_one(stack: RunningUp) -> None:
    answer = stack.run("approve", "abc", MILLSTREAM_SIGNING_KEY_FILE="/nowhere/key.pem")
    assert answer.code == 2, answer
    assert "/nowhere/key.pem cannot be read" in answer.err


def test_a_budget_denies_what_would_pass_it_and_counts_what_was_done(stack: RunningUp) -> None:
    request = ("submit", "restart web in development", "--tenant", "thrifty")
    assert stack.run("budgets", "set", "thrifty", "--day", "0.05").code == 0
    dry = stack.run(*request, "--dry-run")
    assert dry.code == 1, dry
    assert "may cost $0.0804 ($0.0201 if nothing is tried twice)" in " ".join(dry.out.split())

    def is_denied() -> bool:
        answer = stack.run(*request, "--wait")
        return answer.code == 1 and "$0.05 a day" in " ".join(answer.out.split())

    wait_until(is_denied, "the worker minds the budget")
    assert stack.run("budgets", "set", "thrifty", "--day", "50").code == 0
    before = stack.run("budgets", "ls", "thrifty", "--json").json[0]
    answer = stack.run(*request, "--wait")
    assert answer.code == 0, answer
    assert "$0.0804 of the budget held back" in answer.out
    after = stack.run("budgets", "ls", "thrifty", "--json").json[0]
    if before["period"] == after["period"]:  # it was not midnight just now
        assert Decimal(after["spent"]) - Decimal(before["spent"]) == Decimal("0.0201")
    assert after["reserved"] == "0.00"


def test_a_plan_in_a_file_runs_and_reads_earlier_outputs(stack: RunningUp, tmp_path: Path) -> None:
    steps = [
        {
            "step_id": "look",
            "action": "service.status",
            "parameters": {"service": "search", "environment": "production"},
        },
        {
            "step_id": "tell",
            "action": "notify.send",
            "parameters": {"channel": "#ops", "text": "search: ${steps.look.output.version}"},
            "depends_on": ["look"],
        },
    ]
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"text": "which search?", "plan": steps}))
    answer = stack.run("submit", "--plan", plan, "--wait", "--json")
    assert answer.code == 0, answer
    execution = answer.json["execution"]
    assert execution["title"] == "which search?"
    look, tell = execution["steps"]
    assert tell["parameters"]["text"] == f"search: {look['output']['version']}"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("[", "is malformed"),
        ("text: nothing to do", "must be a list of steps"),
        ("[{step_id: a, action: NO}]", "plan.0.action"),
        ("{plan: [], surprise: 1}", "surprise"),
    ],
)
def test_a_plan_that_cannot_be_sent_is_explained(
    tmp_path: Path, content: str, complaint: str
) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(content)
    answer = millstream("submit", "--plan", plan, state=tmp_path)
    assert answer.code == 2, answer
    assert complaint in answer.err
    assert "Traceback" not in answer.err


def test_an_execution_is_found_by_the_beginning_of_its_id_and_by_a_name(stack: RunningUp) -> None:
    sent = stack.run(
        *("submit", "status of web in staging", "--correlation-id", "ticket 17"),
        *("--tenant", "shop", "--user", "kim", "--wait", "--json"),
    )
    assert sent.code == 0, sent
    execution = sent.json["correlation_id"]
    for given in (execution, execution[:10], "ticket 17"):
        answer = stack.run("show", given)
        assert answer.code == 0, answer
        assert execution in answer.out
        assert "from kim, tenant shop, as ticket 17" in answer.out
    shown = stack.run("show", execution, "--json").json
    assert shown["status"] == "success"
    assert [event["message_type"] for event in shown["events"]][:2] == [
        "ExecutionRequest",
        "Intent",
    ]
    assert "Intent  from intent_parser" in stack.run("show", execution, "--events").out
    listed = stack.run("ls", "--tenant", "shop", "--status", "success", "--json").json
    assert [row["correlation_id"] for row in listed] == [execution]


def test_what_is_not_there_is_said_in_a_sentence(stack: RunningUp) -> None:
    answer = stack.run("show", "nobody")
    assert (answer.code, answer.out) == (1, "")
    assert answer.err == "there is no execution 'nobody'; see `millstream ls`\n"


def test_ls_takes_no_status_and_no_moment_that_there_is_not(stack: RunningUp) -> None:
    wrong_status = stack.run("ls", "--status", "sucess")
    assert wrong_status.code == 2
    assert "'sucess' is no status; there are received, parsed" in wrong_status.err
    assert stack.run("ls", "--since", "yesterday").code == 2
    assert stack.run("ls", "--since", "1h", "--limit", "1").code == 0


def test_watch_follows_an_execution_to_its_end(stack: RunningUp) -> None:
    sent = stack.run("submit", "status of checkout in staging", "--wait", "--json").json
    answer = stack.run("watch", sent["correlation_id"])
    assert answer.code == 0, answer
    assert "Success: 1 of 1 step done." in answer.out


def test_status_knows_the_stack_its_topics_and_its_roles(stack: RunningUp) -> None:
    answer = stack.run("status", "--json")
    assert answer.code == 0, answer
    status = answer.json
    assert status["is_sound"]
    assert {part["name"] for part in status["parts"]} >= {"worker", "sink", "playground"}
    assert (status["topics"], status["missing_topics"]) == (TOPICS, [])
    assert {"intent_parser", "router", "sink"} <= status["lag"].keys()
    assert "playground" in stack.run("status").out


def test_groups_of_commands_find_the_running_stack_too(stack: RunningUp) -> None:
    answer = stack.run("topics", "drift")
    assert answer.code == 0, answer
    assert stack.run("migrate", "--check").code == 0
    assert stack.run("actions", "check").code == 0


def test_one_folder_has_one_stack(stack: RunningUp) -> None:
    answer = millstream("up", "--state", stack.state, state=stack.state)
    assert answer.code == 2
    assert f"a stack is running on {stack.state} already" in answer.err
    assert "Traceback" not in answer.err


def test_submit_without_a_broker_is_one_sentence(tmp_path: Path) -> None:
    port = free_port()
    answer = millstream("submit", "restart web", "--kafka", f"127.0.0.1:{port}", state=tmp_path)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == (
        f"Kafka at 127.0.0.1:{port} does not answer; is the stack up? "
        "Start it with `millstream up`.\n"
    )


def test_a_misspelt_setting_is_named(tmp_path: Path) -> None:
    answer = millstream("ls", state=tmp_path, MILLSTREAM_KAFKA_BOOTSTRAPP="x")
    assert answer.code == 2
    assert "did you mean MILLSTREAM_KAFKA_BOOTSTRAP?" in answer.err


def test_a_broker_that_does_not_answer_keeps_the_stack_from_starting(state: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    answer = millstream("up", "--kafka", address, "--state", state / "s", state=state)
    assert answer.code == 2, answer
    assert f"no Kafka broker answers at {address}" in answer.err
    assert "Traceback" not in answer.err
    assert processes_of(state) == []


def test_help_lists_every_command_and_loads_nothing_heavy(tmp_path: Path) -> None:
    answer = millstream("--help", state=tmp_path)
    assert answer.code == 0
    for command in ("up", "submit", "status", "ls", "show", "watch", "topics", "actions"):
        assert f" {command} " in answer.out
    look = "import sys, ops.cli; print({'pydantic', 'faust', 'psycopg'} & set(sys.modules))"
    loaded = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-c", look], capture_output=True, check=True
    )
    assert loaded.stdout.strip() == b"set()"


def test_open_executions_end_with_their_broker_and_new_ones_work(state: Path) -> None:
    with RunningUp(state) as first:
        sent = first.run("submit", "status of web in staging", "--wait", "--json").json
        playground = playground_of(first)
        let_the_next_restart_wait("search", playground)
        stuck = first.run("submit", "restart search in staging", "--json").json
        wait_until_no_fault_is_left(playground)
        began = time.monotonic()
        assert first.stop() == 0, first.output
        assert time.monotonic() - began < 12
        assert "Everything is stopped." in first.output
    assert processes_of(state) == []
    assert not (state / "stack.json").exists()

    with RunningUp(state) as second:
        second.run("watch", stuck["correlation_id"])
        shown = second.run("show", stuck["correlation_id"], "--json").json
        assert shown["code"] == "broker_reset"
        assert second.run("show", sent["correlation_id"], "--json").json["status"] == "success"
        assert second.run("submit", "restart search in staging", "--wait").code == 0


def test_a_part_that_dies_ends_the_stack_and_is_named(state: Path) -> None:
    with RunningUp(state) as up:
        parts = {part["name"]: part for part in up.run("status", "--json").json["parts"]}
        os.kill(parts["worker"]["pid"], signal.SIGKILL)
        assert up.wait() == 1
    assert "the worker has ended by itself" in up.output
    assert processes_of(state) == []


def test_what_a_killed_stack_left_behind_is_not_taken_for_a_stack(state: Path) -> None:
    with RunningUp(state) as up:
        up.process.kill()
        up.wait()
        assert (state / "stack.json").exists()
        deadline = time.monotonic() + 30
        while processes_of(state):
            assert time.monotonic() < deadline, processes_of(state)
            time.sleep(0.1)
    answer = millstream("status", "--json", state=state, MILLSTREAM_KAFKA_BOOTSTRAP="[::1]:1")
    assert answer.json["parts"] == []


def playground_of(up: RunningUp) -> str:
    parts = json.loads((up.state / "stack.json").read_text())["parts"]
    address: str = next(part["address"] for part in parts if part["name"] == "playground")
    return address


def let_the_next_restart_wait(service: str, playground: str) -> None:
    """The next call fails, and says that it wants to be asked again in ten minutes."""
    fault = {"service": service, "environment": "staging", "retry_after": 600.0}
    httpx.post(f"{playground}/faults", json=fault).raise_for_status()


def wait_until_no_fault_is_left(playground: str) -> None:
    """Until the call that is to fail has been made."""
    deadline = time.monotonic() + 60
    while httpx.get(f"{playground}/state").raise_for_status().json()["faults"]:
        assert time.monotonic() < deadline, "the call was never made"
        time.sleep(0.05)


def processes_of(state: Path) -> list[str]:
    """Processes that work on the folder, by their command lines."""
    found = []
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if process.pid != os.getpid() and any(str(state) in part for part in command):
            found.append(" ".join(command))
    return found

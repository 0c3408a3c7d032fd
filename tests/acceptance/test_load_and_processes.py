"""A stack with a process for each role, under load, and cared for; as a person uses it."""

import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support.command_line import RunningUp, millstream

from agents.registry import ROLES
from agents.runtime import spec_of
from ops.local import free_port

pytestmark = [pytest.mark.integration, pytest.mark.e2e]

ROLE_NAMES = {spec_of(function).name for function in ROLES}


@pytest.fixture(scope="module")
def stack() -> Iterator[RunningUp]:
    """A stack in many processes that the tests of this module share."""
    # Every user can reach it, so that Postgres's data lie in it even for root.
    folder = Path(tempfile.mkdtemp(prefix="millstream-load-"))
    folder.chmod(0o755)
    with RunningUp(folder, "--processes") as up:
        yield up
    shutil.rmtree(folder)


def pids_of(stack: RunningUp) -> dict[str, int]:
    parts = json.loads((stack.state / "stack.json").read_text())["parts"]
    return {part["name"]: part["pid"] for part in parts}


def test_each_role_has_a_process_of_its_own_and_a_log(stack: RunningUp) -> None:
    pids = pids_of(stack)
    assert ROLE_NAMES | {"sink"} <= pids.keys()
    assert "worker" not in pids
    assert len(set(pids.values())) == len(pids)
    for role in ROLE_NAMES:
        assert f"process {pids[role]}, {role}/server.log" in stack.output
        command = psutil.Process(pids[role]).cmdline()
        assert command[command.index("--roles") + 1] == role


def test_two_hundred_requests_at_fifty_a_second_all_end(stack: RunningUp) -> None:
    answer = stack.run("load", "--rate", "50/s", "--count", "200", "--tenant", "shop", "--json")
    assert answer.code == 0, answer
    summary = answer.json
    assert (summary["sent"], summary["missing"], summary["unsent"]) == (200, 0, {})
    assert summary["sent_rate"] == pytest.approx(50, rel=0.1)
    assert summary["latency"]["all"]["count"] == 200
    assert {"success", "denied", "needs_clarification"} <= summary["latency"].keys()
    assert summary["latency"].keys().isdisjoint({"failed", "unknown"}), summary["reasons"]
    assert "of 200 sent" in answer.err
    listed = stack.run("ls", "--tenant", "shop", "--limit", "1000", "--json").json
    assert len(listed) == 200


def test_a_summary_is_readable_by_a_person(stack: RunningUp) -> None:
    answer = stack.run("load", "--count", "3", "--text", "status of web in staging")
    assert answer.code == 0, answer
    for part in ("3 sent, asked 10/s", "p50", "p99", "max", "success"):
        assert part in answer.out


def test_what_has_not_ended_in_time_is_exit_code_1(stack: RunningUp) -> None:
    answer = stack.run("load", "--rate", "500", "--count", "100", "--timeout", "0")
    assert answer.code == 1, answer
    assert "have not ended in time" in answer.out


def test_without_waiting_it_only_sends(stack: RunningUp) -> None:
    answer = stack.run("load", "--count", "2", "--no-wait", "--json")
    assert answer.code == 0, answer
    assert (answer.json["sent"], answer.json["latency"]) == (2, {})


def test_old_things_are_cared_for_from_the_command_line(stack: RunningUp) -> None:
    assert stack.run("partitions", "make", "--days", "9").code == 0
    assert "events_default" in stack.run("partitions", "ls").out
    kept = stack.run("partitions", "drop", "--keep", "30d", "--yes")
    assert (kept.code, kept.out[:23]) == (0, "Nothing is older than 2")
    counted = stack.run("ledger", "sweep", "--dry-run", "--json").json
    assert (counted["runs"], counted["retention"]) == (0, "45d")
    swept = stack.run("ledger", "sweep")
    assert swept.code == 0
    assert swept.out == (
        "Deleted 0 runs with 0 effects, 0 inbox entries, 0 verdicts, 0 rows of past spending,"
        " and records of 0 redrives and 0 purges.\n"
    )


def test_a_ledger_that_would_forget_too_early_is_refused(stack: RunningUp) -> None:
    answer = stack.run("ledger", "sweep", MILLSTREAM_LEDGER_RETENTION="7d")
    assert answer.code == 2, answer
    assert "MILLSTREAM_LEDGER_RETENTION is 7d, and must be longer than 37d" in answer.err
    assert "Traceback" not in answer.err


def test_load_without_a_broker_is_one_sentence(tmp_path: Path) -> None:
    answer = millstream("load", "--kafka", f"127.0.0.1:{free_port()}", state=tmp_path)
    assert (answer.code, answer.out) == (2, "")
    assert "does not answer; is the stack up?" in answer.err
    assert "Traceback" not in answer.err


def test_a_role_that_dies_ends_the_stack_and_is_named(stack: RunningUp) -> None:
    """The last one, since it ends the stack."""
    pids = pids_of(stack)
    os.kill(pids["planner"], signal.SIGKILL)
    assert stack.wait() == 1
    assert "the planner has ended by itself" in stack.output
    assert not any(psutil.pid_exists(pid) for pid in pids.values())

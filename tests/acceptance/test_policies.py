"""Policies in a running pipeline: they are followed, a broken set is refused, late values count."""

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
from support.waiting import wait_until

from agents.runtime.settings import ROOT
from ops.history import opened
from ops.local.process import ServerStartError
from ops.stack import Stack, StackOptions
from ops.submit import make_submission, send
from ops.timeline import Timeline
from ops.waiting import wait_for_completion

pytestmark = [pytest.mark.integration, pytest.mark.e2e]

FEW_REPLICAS = """
@id("few.replicas")
@reason("{deed} would run more than two replicas.")
@remedy("Ask for two at most.")
forbid (principal, action == Action::"service.scale", resource)
when { context.parameters has replicas && context.parameters.replicas > 2 };
"""
CLOSED = """
@id("closed.staging")
@reason("{deed}: staging is closed today.")
@remedy("Come back tomorrow.")
forbid (principal, action in Action::"write", resource in Environment::"staging");
"""

Submit = Callable[..., Timeline]


@pytest.fixture
def policies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of policies that processes started by the test read: a copy of the shipped one."""
    folder = copytree(ROOT / "ops" / "policies", tmp_path / "policies")
    monkeypatch.setenv("MILLSTREAM_POLICIES_FOLDER", str(folder))
    monkeypatch.setenv("MILLSTREAM_POLICIES_POLL", "0.2")
    return folder


@pytest.fixture
def stack(policies: Path, tmp_path: Path) -> Iterator[Stack]:
    (policies / "few.cedar").write_text(FEW_REPLICAS)
    with Stack(StackOptions(state=tmp_path / "state", temporary=True)) as stack:
        yield stack


@pytest.fixture
def submit(stack: Stack, tmp_path: Path) -> Submit:
    def submit(text: str, steps: list[dict[str, Any]] | None = None) -> Timeline:
        plan = None
        if steps is not None:
            plan = tmp_path / "plan.json"
            plan.write_text(json.dumps(steps))
        submission = make_submission(text, plan=plan, user="ann")
        asyncio.run(send(stack.settings, submission))
        with opened(stack.settings) as history:
            return wait_for_completion(history, submission.execution_id, timeout=120)

    return submit


def the_worker_says(stack: Stack, event: str) -> list[dict[str, Any]]:
    lines = (stack.state / "worker" / "server.log").read_text().splitlines()
    read = [json.loads(line) for line in lines if f'"{event}"' in line]
    return [line for line in read if line["event"] == event]


def test_policies_are_followed_and_a_broken_set_is_refused(
    stack: Stack, policies: Path, submit: Submit
) -> None:
    assert submit("restart web in staging").status == "success"

    (policies / "closed.cedar").write_text(CLOSED)
    wait_until(lambda: bool(the_worker_says(stack, "policies_loaded")), "the policies are loaded")
    denied = submit("restart web in staging")
    assert denied.status == "denied"
    assert denied.reason == (
        "service.restart of web in staging: staging is closed today. Come back tomorrow."
    )

    (policies / "closed.cedar").write_text("// open again?\npermit (everybody);\n")
    wait_until(lambda: bool(the_worker_says(stack, "policies_refused")), "they are refused")
    assert submit("restart web in staging").status == "denied"
    (refused,) = the_worker_says(stack, "policies_refused")
    assert f"{policies}/closed.cedar:2: at the policy: it cannot be read" in refused["problems"][0]
    assert submit("restart web in development").status == "success"


def test_a_value_of_an_earlier_step_is_judged_before_it_has_an_effect(submit: Submit) -> None:
    def scaled_like(environment: str) -> Timeline:
        return submit(
            "as many as there",
            [
                {
                    "step_id": "look",
                    "action": "service.status",
                    "parameters": {"service": "web", "environment": environment},
                },
                {
                    "step_id": "scale",
                    "action": "service.scale",
                    "parameters": {
                        "service": "search",
                        "environment": "staging",
                        "replicas": "${steps.look.output.replicas}",
                    },
                    "depends_on": ["look"],
                },
            ],
        )

    few = scaled_like("development")
    assert few.steps[0].output["replicas"] <= 2
    assert few.status == "success"

    many = scaled_like("production")
    look, scale = many.steps
    assert look.output["replicas"] > 2
    assert (many.status, scale.status, scale.output) == ("failed", "failed", {})
    assert "with replicas from an earlier step" in str(scale.reason)
    assert "would run more than two replicas. Ask for two at most." in str(scale.reason)


def test_a_broken_set_refuses_the_start(policies: Path, tmp_path: Path) -> None:
    (policies / "wrong.cedar").write_text('@id("x") forbid (principal in Team::"a", action);\n')
    stack = Stack(StackOptions(state=tmp_path / "state", temporary=True))
    with pytest.raises(ServerStartError, match=r"wrong\.cedar:1: at the policy") as caught, stack:
        pass
    assert "Traceback" not in str(caught.value)

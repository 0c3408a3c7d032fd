"""``make demo``: a story on a stack of its own, on real input, that leaves nothing behind."""

import asyncio
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import httpx
from rich import box
from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from agents.runtime.errors import MillstreamError
from agents.runtime.settings import PREFIX
from ops import render
from ops.answers import said
from ops.approvals import decide, speaker_of, wait_for_approval
from ops.history import History, connected, opened
from ops.stack import Stack, StackOptions
from ops.story import APPROVERS, STORY, Scene
from ops.submit import make_submission, send
from ops.up import stop_signals_ignored, stop_signals_interrupt, where_things_are
from ops.waiting import wait_for_completion

_PATIENCE: Final = 30.0
_PLAYGROUND_SECONDS: Final = 10.0
_PLACES: Final = ("services", "backups", "messages")


def run() -> int:
    """Tell the story.

    Returns:
        The exit code: 0 when it came out as expected, 1 when it did not, 130 when interrupted.
    """
    console = render.console()
    began = time.monotonic()
    problems: list[str] = []
    with (
        stop_signals_interrupt(),
        tempfile.TemporaryDirectory(prefix="millstream-demo-") as folder,
    ):
        stack = Stack(
            StackOptions(state=Path(folder), temporary=True, approvers=APPROVERS),
            tell=lambda line: console.print(Text(f"… {line}", "dim")),
        )
        try:
            console.print(Rule(Text("Millstream", "bold")))
            stack.start()
            console.print(where_things_are(stack))
            problems = _tell(stack, console)
        except KeyboardInterrupt:
            return 130
        finally:
            with stop_signals_ignored():
                console.print(Text("… stopping", "dim"))
                stack.stop()
    _say_how_it_went(console, problems, time.monotonic() - began)
    return 1 if problems else 0


def _tell(stack: Stack, console: Console) -> list[str]:
    """Play every scene; returns what did not come out as expected."""
    playground = stack.environment[PREFIX + "PLAYGROUND_URL"]
    problems = []
    with (
        httpx.Client(base_url=playground, timeout=_PLAYGROUND_SECONDS) as client,
        opened(stack.settings) as history,
    ):
        before = _state(client)
        for number, scene in enumerate(STORY, start=1):
            console.print(Text(f"{number}. {scene.intro}", "bold"), soft_wrap=True)
            console.print(Text(f"   millstream submit {scene.asked}", "cyan"), soft_wrap=True)
            problem = _play(scene, stack, client, history, console)
            if problem is not None:
                problems.append(problem)
            console.print()
        _show_world(console, before, _state(client))
        _show_places(console, history)
    return problems


def _play(
    scene: Scene, stack: Stack, client: httpx.Client, history: History, console: Console
) -> str | None:
    if scene.fault is not None:
        client.post("/faults", json=scene.fault).raise_for_status()
    submission = make_submission(scene.text, plan=scene.plan, user="demo")
    asyncio.run(send(stack.settings, submission))
    try:
        _approve(scene, stack, submission.execution_id, console)
        timeline = wait_for_completion(history, submission.execution_id, timeout=_PATIENCE)
    except MillstreamError as error:
        dead = stack.dead_child()
        return error.reason if dead is None else f"{dead.name} has ended:\n{dead.log_tail()}"
    console.print(render.render_timeline(timeline))
    return scene.problem(timeline)


def _approve(scene: Scene, stack: Stack, execution: UUID, console: Console) -> None:
    """Let those approve who do so in the story."""
    if not scene.approved_by:
        return
    settings = stack.settings
    with connected(settings) as connection:
        waits = wait_for_approval(connection, execution, lane=settings.lane, timeout=_PATIENCE)
        for name in scene.approved_by:
            command = f"   millstream approve {execution} --by {name} --key {name}.pem"
            console.print(Text(command, "cyan"), soft_wrap=True)
            speaker = speaker_of(settings, name, stack.keys[name])
            answer = decide(settings, connection, "approve", waits, speaker, timeout=_PATIENCE)
            console.print(Text("   ") + said(answer), soft_wrap=True)


def _state(client: httpx.Client) -> dict[str, dict[str, str]]:
    """What the playground holds, as lines by kind and name."""
    state: dict[str, Any] = client.get("/state").raise_for_status().json()
    return {
        "services": {
            f"{service['service']} in {service['environment']}": _service(service)
            for service in state["services"]
        },
        "backups": {
            f"backup of {backup['database']} in {backup['environment']}": backup["backup_id"]
            for backup in state["backups"]
        },
        "messages": {
            f"message {number} to {message['channel']}": message["text"]
            for number, message in enumerate(state["messages"], start=1)
        },
    }


def _service(service: Mapping[str, Any]) -> str:
    restarted = f", restarted {service['restarted_at'][11:19]}" if service["restarted_at"] else ""
    return f"{service['version']}, {service['replicas']} replicas, {service['health']}{restarted}"


def _show_world(
    console: Console,
    before: Mapping[str, Mapping[str, str]],
    after: Mapping[str, Mapping[str, str]],
) -> None:
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        header_style="dim",
        title=Text("What changed in the playground", "bold"),
        title_justify="left",
    )
    table.add_column("")
    table.add_column("before", style="dim")
    table.add_column("after")
    for place in _PLACES:
        old, new = before[place], after[place]
        for name in [*old, *(name for name in new if name not in old)]:
            if old.get(name) != new.get(name):
                table.add_row(name, old.get(name, "-"), new.get(name, "gone"))
    same = sum(
        after[place].get(name) == value
        for place in _PLACES
        for name, value in before[place].items()
    )
    console.print(table)
    console.print(Text(f"{same} other things are as they were.\n", "dim"))


def _show_places(console: Console, history: History) -> None:
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        header_style="dim",
        title=Text("Where it all is", "bold"),
        title_justify="left",
    )
    table.add_column("Kafka topic")
    table.add_column("records", justify="right")
    table.add_column("  Postgres table")
    table.add_column("rows", justify="right")
    topics = sorted(history.count_records().items())
    rows = sorted(history.count_rows().items(), key=lambda item: -item[1])
    for number in range(max(len(topics), len(rows))):
        topic, records = topics[number] if number < len(topics) else ("", "")
        name, count = rows[number] if number < len(rows) else ("", "")
        table.add_row(topic, str(records), f"  {name}", str(count))
    console.print(table)


def _say_how_it_went(console: Console, problems: list[str], seconds: float) -> None:
    if problems:
        console.print(Text("The story did not come out as expected:", "bold red"))
        for problem in problems:
            console.print(Text(f"  {problem}", "red"), soft_wrap=True)
        return
    console.print(
        Text.assemble(
            ("The story came out as expected", "bold green"),
            f": {len(STORY)} executions, {seconds:.0f} s from nothing to nothing.\n",
            "Everything that was started is stopped, and its data are gone.\n\n",
            "Your turn: ",
            ("millstream up", "cyan"),
            ", and in another terminal ",
            ('millstream submit "…" --wait', "cyan"),
        ),
        soft_wrap=True,
    )

"""``millstream up``: the whole stack in the foreground."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ops import render
from ops.local import LocalProcess
from ops.stack import Stack, StackOptions

_LOOK_SECONDS: Final = 0.25
_STOPS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_TAIL_LINES: Final = 15


def run(options: StackOptions) -> int:
    """Start a stack, say what runs where, and keep it until told to stop.

    Returns:
        The exit code: 0 when it was told to stop, 1 when one of its processes died.

    Raises:
        ConfigurationError: Something did not start.
        InfrastructureError: A given broker or database does not answer.
    """
    console = render.console()
    began = time.monotonic()
    with stop_signals_interrupt():
        stack = Stack(options, tell=lambda line: console.print(Text(f"… {line}", "dim")))
        try:
            stack.start()
        except KeyboardInterrupt:
            return 0
        try:
            console.print(where_things_are(stack))
            console.print(_welcome(time.monotonic() - began), soft_wrap=True)
            _say_who_died(console, _wait_for_a_death(stack))
        except KeyboardInterrupt:
            console.print(Text("\n… stopping", "dim"))
            return 0
        finally:
            with stop_signals_ignored():
                stack.stop()
            console.print("Everything is stopped.")
    return 1


def where_things_are(stack: Stack) -> Table:
    """What runs where, for a person."""
    table = Table(box=box.SIMPLE, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column()
    table.add_column(style="dim")
    for part in stack.parts:
        about = f"{stack.topics} topics" if part.name == "broker" else ""
        who = "" if part.pid is None else f"process {part.pid}"
        log = "" if part.log is None else _shown(part.log, stack.state)
        table.add_row(part.name, part.address, ", ".join(filter(None, (about, who, log))))
    table.add_row("data, logs", str(stack.state), "")
    return table


def _shown(log: Path, state: Path) -> str:
    """A log as seen from the folder of data and logs, where it lies there."""
    return str(log.relative_to(state)) if log.is_relative_to(state) else str(log)


@contextmanager
def stop_signals_ignored() -> Iterator[None]:
    """Let nothing break off what cleans up."""
    before = {each: signal.signal(each, signal.SIG_IGN) for each in _STOPS}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@contextmanager
def stop_signals_interrupt() -> Iterator[None]:
    """Make every request to stop a ``KeyboardInterrupt``, as Ctrl-C is."""
    before = {each: signal.signal(each, signal.default_int_handler) for each in _STOPS}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _welcome(seconds: float) -> Text:
    return Text.assemble(
        ("Ready", "bold green"),
        f" after {seconds:.1f} s. In another terminal:\n\n",
        ('    millstream submit "restart checkout in staging and tell #releases" --wait\n', "cyan"),
        ("    millstream status    millstream ls    millstream watch\n\n", "cyan"),
        "Ctrl-C stops everything.",
    )


def _wait_for_a_death(stack: Stack) -> LocalProcess:
    while (dead := stack.dead_child()) is None:
        time.sleep(_LOOK_SECONDS)
    return dead


def _say_who_died(console: Console, dead: LocalProcess) -> None:
    tail = dead.log_tail(_TAIL_LINES) or "(it printed nothing)"
    console.print(Text(f"\n{dead.name} has ended by itself; stopping the rest.", "bold red"))
    console.print(f"The end of its log, {dead.log_file}:", soft_wrap=True)
    console.print(Text("\n".join(f"    {line}" for line in tail.splitlines())), soft_wrap=True)

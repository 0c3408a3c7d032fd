"""Executions per second end to end into Postgres, what each costs in CPU, and beside what.

``make bench`` runs it on Apache Kafka from its jars and a durable Postgres, both on this machine
with the pipeline. Each execution is a ready-made plan with one step that does nothing. The clock
starts with the first request and stops when the last report is in Postgres; CPU is that of the
processes themselves, as the operating system accounts it. The same is then done by a chain that is
written by hand (``baseline.py``), on servers of its own, and the two are compared.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil
import psycopg
from confluent_kafka import Producer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from ops.stack import Stack, StackOptions

HERE = Path(__file__).parent
PADDING = "x" * 250  # brings a request to about half a kilobyte
WARM_UP = 1_000
PATIENCE = 900.0
BY_HAND: list[subprocess.Popen[bytes]] = []
"""Processes of the hand-written chain that run now."""


@dataclass(frozen=True)
class Figures:
    """What one run measured."""

    executions: int
    seconds: float
    executions_per_second: float
    cpu_ms_per_execution: Mapping[str, float]

    @property
    def cpu_ms(self) -> float:
        """CPU milliseconds per execution of all processes together."""
        return sum(self.cpu_ms_per_execution.values())


def requests(count: int) -> Iterator[bytes]:
    """Requests as a foreign client would write them."""
    for number in range(count):
        yield json.dumps(
            {
                "text": f"benchmark {number}",
                "plan": [{"step_id": "only", "action": "bench.noop"}],
                "context": {"padding": PADDING},
            }
        ).encode()


def submit(bootstrap: str, count: int) -> None:
    """Produce ``count`` requests at full speed."""
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 5, "log_level": 0})
    for value in requests(count):
        producer.produce("millstream.requests.v1", value)
        producer.poll(0)
    if producer.flush(60):
        raise RuntimeError("the broker did not confirm all requests")


def cpu_seconds(processes: Mapping[str, int]) -> dict[str, float]:
    """CPU seconds so far of each process, its children included."""
    used: dict[str, float] = {}
    for name, pid in processes.items():
        process = psutil.Process(pid)
        times = [member.cpu_times() for member in [process, *process.children(recursive=True)]]
        # A process that has ended is in its parent's children_* figures.
        used[name] = sum(
            each.user + each.system + each.children_user + each.children_system for each in times
        )
    return used


def await_reports(url: str, wanted: int, console: Console) -> None:
    """Return when ``wanted`` executions have been reported."""
    deadline = time.monotonic() + PATIENCE
    reported = 0
    with (
        psycopg.connect(url, autocommit=True) as connection,
        Progress(console=console, disable=not console.is_terminal, transient=True) as progress,
    ):
        task = progress.add_task("reported", total=wanted)
        while reported < wanted:
            if time.monotonic() > deadline or any(each.poll() is not None for each in BY_HAND):
                raise RuntimeError(f"only {reported} of {wanted} executions were reported")
            time.sleep(0.1)
            row = connection.execute(
                "SELECT count(*) FROM history.executions WHERE report_id IS NOT NULL"
            ).fetchone()
            reported = row[0] if row else 0
            progress.update(task, completed=reported)


def measure(stack: Stack, own: Mapping[str, int], count: int, console: Console) -> Figures:
    """Warm up, then time ``count`` executions of whatever serves the stack's topics."""
    url = stack.settings.database_url.get_secret_value()
    bootstrap = stack.settings.kafka_bootstrap
    processes = {part.name: part.pid for part in stack.parts if part.pid is not None} | dict(own)
    submit(bootstrap, WARM_UP)
    await_reports(url, WARM_UP, console)
    before, start = cpu_seconds(processes), time.perf_counter()
    submit(bootstrap, count)
    await_reports(url, WARM_UP + count, console)
    seconds = time.perf_counter() - start
    after = cpu_seconds(processes)
    cpu = {name: round((after[name] - before[name]) / count * 1000, 3) for name in processes}
    return Figures(count, round(seconds, 2), round(count / seconds, 1), cpu)


def measure_pipeline(kafka: str, count: int, console: Console) -> Figures:
    """The pipeline on servers of its own."""
    with tempfile.TemporaryDirectory(prefix="millstream-bench-") as folder:
        options = StackOptions(state=Path(folder), kafka=kafka)
        with Stack(options, tell=console.print) as stack:
            return measure(stack, {}, count, console)


def measure_baseline(kafka: str, count: int, console: Console) -> Figures:
    """The hand-written chain on servers of its own."""
    with tempfile.TemporaryDirectory(prefix="millstream-bench-") as folder:
        options = StackOptions(state=Path(folder), kafka=kafka, servers_only=True)
        with (
            Stack(options, tell=console.print) as stack,
            baseline(stack, "worker") as worker,
            baseline(stack, "sink") as sink,
        ):
            return measure(stack, {"worker": worker, "sink": sink}, count, console)


@contextmanager
def baseline(stack: Stack, role: str) -> Iterator[int]:
    """One process of the hand-written chain; yields its process id."""
    arguments = [
        sys.executable,
        str(HERE / "baseline.py"),
        role,
        stack.settings.kafka_bootstrap,
        stack.settings.database_url.get_secret_value(),
        "",
    ]
    with subprocess.Popen(arguments) as process:  # noqa: S603  # our own script
        BY_HAND.append(process)
        try:
            yield process.pid
        finally:
            BY_HAND.remove(process)
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()


def show(pipeline: Figures, by_hand: Figures | None, console: Console) -> None:
    """Print the table."""
    table = Table(title="End to end into Postgres, one step that does nothing")
    table.add_column("figure")
    table.add_column("Millstream", justify="right")
    if by_hand is not None:
        table.add_column("by hand", justify="right")
        table.add_column("ratio", justify="right")

    def row(name: str, ours: float, theirs: float | None) -> None:
        compared = [] if theirs is None else [f"{theirs:g}", f"{ours / theirs:.2f}"]
        table.add_row(name, f"{ours:g}", *compared)

    row(
        "executions/s",
        pipeline.executions_per_second,
        by_hand and by_hand.executions_per_second,
    )
    row("CPU-ms per execution", round(pipeline.cpu_ms, 3), by_hand and round(by_hand.cpu_ms, 3))
    for name in ("worker", "sink", "postgres", "broker"):
        theirs = by_hand and by_hand.cpu_ms_per_execution[name]
        row(f"  {name}", pipeline.cpu_ms_per_execution[name], theirs)
    console.print(table)


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kafka", default="jars", help="jars or embedded")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--no-baseline", action="store_true", help="leave the comparison out")
    parser.add_argument("--output", type=Path, default=Path("bench-results/end-to-end.json"))
    arguments = parser.parse_args()
    # The processes of the stack find the benchmark's action by these.
    os.environ["PYTHONPATH"] = str(HERE)
    os.environ["MILLSTREAM_ACTIONS_FILE"] = str(HERE / "actions.yaml")
    sys.path.insert(0, str(HERE))
    console = Console()
    pipeline = measure_pipeline(arguments.kafka, arguments.count, console)
    by_hand = None
    if not arguments.no_baseline:
        by_hand = measure_baseline(arguments.kafka, arguments.count, console)
    show(pipeline, by_hand, console)
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    console.print(f"{arguments.count} executions, {machine}, broker: {arguments.kafka}")
    result = {
        "pipeline": asdict(pipeline),
        "baseline": None if by_hand is None else asdict(by_hand),
        "broker": arguments.kafka,
        "machine": machine,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

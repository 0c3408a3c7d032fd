"""First figures: executions per second end to end into Postgres, and what each costs in CPU.

``make bench`` runs it on Apache Kafka from its jars and a durable Postgres, both on this machine
with the pipeline. Each execution is a ready-made plan with one step that does nothing. The clock
starts with the first request and stops when the last report is in Postgres; CPU is that of the
processes themselves, as the operating system accounts it.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
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
WARM_UP = 200
PATIENCE = 600.0


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


def cpu_seconds(stack: Stack) -> dict[str, float]:
    """CPU seconds so far by part of the stack, children included."""
    used: dict[str, float] = {}
    for part in stack.parts:
        if part.pid is None:
            continue
        process = psutil.Process(part.pid)
        family = [process, *process.children(recursive=True)]
        times = [member.cpu_times() for member in family]
        # A process that has ended is in its parent's children_* figures.
        used[part.name] = sum(
            t.user + t.system + t.children_user + t.children_system for t in times
        )
    return used


def submit(stack: Stack, count: int) -> None:
    """Produce ``count`` requests at full speed."""
    producer = Producer(
        {"bootstrap.servers": stack.settings.kafka_bootstrap, "linger.ms": 5, "log_level": 0}
    )
    for value in requests(count):
        producer.produce("millstream.requests.v1", value)
        producer.poll(0)
    if producer.flush(60):
        raise RuntimeError("the broker did not confirm all requests")


def await_reports(connection: psycopg.Connection, wanted: int, progress: Progress) -> None:
    """Return when ``wanted`` executions have been reported."""
    task = progress.add_task("reported", total=wanted)
    deadline = time.monotonic() + PATIENCE
    reported = 0
    while reported < wanted:
        if time.monotonic() > deadline:
            raise RuntimeError(f"only {reported} of {wanted} executions were reported")
        time.sleep(0.1)
        row = connection.execute(
            "SELECT count(*) FROM history.executions WHERE report_id IS NOT NULL"
        ).fetchone()
        reported = row[0] if row else 0
        progress.update(task, completed=reported)


def measure(kafka: str, count: int, console: Console) -> dict[str, object]:
    """Run the benchmark on a stack of its own."""
    # The processes of the stack find the benchmark's action by these.
    os.environ["PYTHONPATH"] = str(HERE)
    os.environ["MILLSTREAM_ACTIONS_FILE"] = str(HERE / "actions.yaml")
    sys.path.insert(0, str(HERE))
    with tempfile.TemporaryDirectory(prefix="millstream-bench-") as folder:
        options = StackOptions(state=Path(folder), kafka=kafka)
        with Stack(options, tell=console.print) as stack:
            url = stack.settings.database_url.get_secret_value()
            with (
                psycopg.connect(url, autocommit=True) as connection,
                Progress(console=console, disable=not console.is_terminal) as progress,
            ):
                submit(stack, WARM_UP)
                await_reports(connection, WARM_UP, progress)
                before, start = cpu_seconds(stack), time.perf_counter()
                submit(stack, count)
                await_reports(connection, WARM_UP + count, progress)
                seconds = time.perf_counter() - start
                after = cpu_seconds(stack)
    cpu = {name: (after[name] - before[name]) / count * 1000 for name in before}
    return {
        "executions": count,
        "seconds": round(seconds, 2),
        "executions_per_second": round(count / seconds, 1),
        "cpu_ms_per_execution": {name: round(value, 3) for name, value in cpu.items()},
        "broker": kafka,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python "
        f"{platform.python_version()}",
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kafka", default="jars", help="jars or embedded")
    parser.add_argument("--count", type=int, default=5_000)
    parser.add_argument("--output", type=Path, default=Path("bench-results/end-to-end.json"))
    arguments = parser.parse_args()
    console = Console()
    result = measure(arguments.kafka, arguments.count, console)
    table = Table(title="End to end into Postgres, one step that does nothing")
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_row("executions", f"{result['executions']}")
    table.add_row("executions/s", f"{result['executions_per_second']}")
    per_part = result["cpu_ms_per_execution"]
    assert isinstance(per_part, dict)
    for name, value in per_part.items():
        table.add_row(f"CPU-ms per execution, {name}", f"{value}")
    console.print(table)
    console.print(f"{result['machine']}, broker: {result['broker']}")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

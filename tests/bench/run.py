"""``make bench``: measures how fast the pipeline is, scenario by scenario.

Each scenario has servers of its own, durable as in production, on this machine. It prints a table
and writes ``<name>.json``; ``table.md`` has the figures of all of them, for the README. What
``--quick`` comes to goes to a folder of its own. Figures are compared with goals, and nothing fails
for missing one.
"""

import argparse
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Final

from bench import backlog, history, latency, resume, sink, throughput
from bench.figures import machine, markdown, save, show
from bench.scenario import Bench, Scenario
from bench.voice import Voice
from rich.console import Console

SCENARIOS: Final[dict[str, Scenario]] = {
    "throughput": throughput.run,
    "latency": latency.run,
    "backlog": backlog.run,
    "history": history.run,
    "sink": sink.run,
    "resume": resume.run,
}


def main() -> int:
    """Run the chosen scenarios one after the other; 1 if one of them could not be measured."""
    arguments = _arguments()
    # Whoever ends us politely has everything ended that we have started.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    folder = arguments.output / "quick" if arguments.quick else arguments.output
    console = Console(width=None if Console().is_terminal else 140)
    bench = Bench(arguments.kafka, arguments.quick, Voice(console))
    console.print(f"{machine()}, broker: {arguments.kafka}", highlight=False)
    failed = []
    for name in arguments.only:
        began = time.monotonic()
        try:
            result = SCENARIOS[name](bench)
        except Exception:  # noqa: BLE001  # the next scenario can be measured all the same
            console.print(traceback.format_exc(), markup=False, highlight=False)
            failed.append(name)
            continue
        seconds = time.monotonic() - began
        show(result, console)
        save(name, result, folder, broker=arguments.kafka, seconds=seconds)
        console.print(f"{name} took {seconds:.0f} s", highlight=False)
    if len(failed) < len(arguments.only):
        table = markdown(folder, list(SCENARIOS))
        (folder / "table.md").write_text(table, encoding="utf-8")
    if failed:
        console.print(f"not measured: {', '.join(failed)}", style="red")
    return 1 if failed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument(
        "--only",
        type=_names,
        default=list(SCENARIOS),
        metavar="NAME,…",
        help=f"which scenarios, of {', '.join(SCENARIOS)}; all if not given",
    )
    parser.add_argument("--quick", action="store_true", help="small counts: shows that it works")
    parser.add_argument("--kafka", default="jars", choices=("jars", "embedded"))
    parser.add_argument("--output", type=Path, default=Path("bench-results"), metavar="FOLDER")
    return parser.parse_args()


def _names(text: str) -> list[str]:
    names = [name for name in text.replace(" ", ",").split(",") if name]
    if unknown := sorted(set(names) - SCENARIOS.keys()):
        raise argparse.ArgumentTypeError(
            f"there is no {', '.join(unknown)}; there are {', '.join(SCENARIOS)}"
        )
    return names


if __name__ == "__main__":
    raise SystemExit(main())

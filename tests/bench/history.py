"""Whether an execution costs the same with an empty history and with a million executions.

Both runs are the same but for the filling, which copies every row of a real execution, the
ledger's included. Steps, events and all their indexes are as long as they would be.
"""

from dataclasses import asdict, dataclass

from bench.figures import Detail, Figure, Goal, Result, quotient
from bench.filling import fill, settle
from bench.scenario import Bench, Run, full_speed, warm_up


@dataclass(frozen=True, slots=True)
class Settings:
    """Executions in the history, and executions that are measured on top of them."""

    filled: int = 1_000_000
    executions: int = 20_000
    warm_up: int = 1_000


def run(bench: Bench) -> Result:
    """Measure with and without a history."""
    settings = bench.choose(Settings, filled=20_000, executions=500, warm_up=100)
    empty, _ = _measure(bench, settings, 0)
    filled, rows = _measure(bench, settings, settings.filled)
    return Result(
        title="A long history",
        figures=[
            Figure(
                f"CPU-ms per execution, history of {settings.filled:,} (compared to none)",
                filled.total_cpu_ms,
                compared_to=empty.total_cpu_ms,
                goal=Goal("ratio", most=1.1),
            )
        ],
        settings=asdict(settings),
        details=[
            Detail(
                "By process, CPU-ms per execution",
                ("", "empty", "filled", "ratio"),
                [
                    [name, ms, filled.cpu_ms[name], quotient(filled.cpu_ms[name], ms)]
                    for name, ms in empty.cpu_ms.items()
                ]
                + [["executions/s", empty.rate, filled.rate, filled.rate / empty.rate]],
            ),
            Detail("Rows before the measurement", ("table", "rows"), [*rows.items()]),
        ],
        raw={"empty": asdict(empty), "filled": asdict(filled)},
    )


def _measure(bench: Bench, settings: Settings, filled: int) -> tuple[Run, dict[str, int]]:
    with bench.servers(f"history, {filled:,} executions") as servers:
        chain = servers.chain(by_hand=False)
        warm_up(servers, chain, settings.warm_up, bench.voice)
        rows = fill(servers.url, filled, bench.voice) if filled else {}
        settle(servers.url)
        # Whoever had plans for small tables makes new ones.
        warm_up(servers, chain, settings.warm_up, bench.voice)
        return full_speed(servers, chain, settings.executions, bench.voice), rows

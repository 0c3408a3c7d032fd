"""Executions per second end to end into Postgres, what each costs in CPU, and where it goes.

Each execution is a ready-made plan with one step that does nothing. The clock starts with the
first request and stops when the last report is in Postgres; CPU is that of the processes
themselves, as the operating system accounts it. The same is done by a chain that is written by
hand (``baseline.py``). A third run, with a process for each role, says what each role costs.
"""

from dataclasses import asdict, dataclass

from bench.breakdown import break_down
from bench.figures import Figure, Goal, Result
from bench.scenario import Bench, Run, full_speed, warm_up


@dataclass(frozen=True, slots=True)
class Settings:
    """Executions that are measured, and those before them that are not."""

    executions: int = 20_000
    warm_up: int = 5_000
    """Until then Java compiles its code, which takes a fifth of the CPU."""


def run(bench: Bench) -> Result:
    """Measure both chains, then the roles one by one."""
    settings = bench.choose(Settings, executions=500, warm_up=100)
    ours = _measure(bench, settings, by_hand=False)
    theirs = _measure(bench, settings, by_hand=True)
    roles, statements, notes = break_down(bench, settings.executions, settings.warm_up)
    figures = [
        Figure("executions/s", ours.rate, theirs.rate, goal=Goal("value", least=1000)),
        Figure(
            "CPU-ms per execution",
            ours.total_cpu_ms,
            theirs.total_cpu_ms,
            goal=Goal("ratio", most=2),
        ),
        *(
            Figure(f"… {title}", ours.cpu_ms[name], theirs.cpu_ms[name])
            for name, title in (
                ("worker", "roles"),
                ("sink", "sink"),
                ("postgres", "Postgres"),
                ("broker", "Kafka"),
            )
        ),
    ]
    return Result(
        title="End to end into Postgres at full speed, one step that does nothing",
        figures=figures,
        settings=asdict(settings),
        details=[roles, statements],
        notes=notes,
        raw={"millstream": asdict(ours), "by_hand": asdict(theirs)},
    )


def _measure(bench: Bench, settings: Settings, *, by_hand: bool) -> Run:
    who = "by hand" if by_hand else "Millstream"
    with bench.servers(f"throughput, {who}") as servers:
        chain = servers.chain(by_hand=by_hand)
        warm_up(servers, chain, settings.warm_up, bench.voice)
        return full_speed(servers, chain, settings.executions, bench.voice)

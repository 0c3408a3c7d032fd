"""Whether an execution costs the same however many requests wait, and what a worker then holds.

The servers are warm; the requests are there before the worker and the sink start. With the small
backlog, requests are added as executions end, so that as many wait all the time and as many
executions are done as with the great one: only the depth differs. What it takes to start the two
processes is measured once without work, and taken off.
"""

from dataclasses import asdict, dataclass

from bench.figures import Detail, Figure, Goal, Result, quotient
from bench.load import REPORTS, Client, await_records, submit
from bench.scenario import Bench, reported, warm_up
from bench.servers import Servers, cpu_per, cpu_seconds, peak_megabytes

from ops.local import LocalProcess

_MEGABYTES = 400.0


@dataclass(frozen=True, slots=True)
class Settings:
    """How many requests wait, and how many executions are measured with each backlog."""

    small: int = 1_000
    great: int = 100_000
    executions: int = 100_000
    warm_up: int = 2_000
    for_memory: int = 200_000
    """The backlog under which memory is looked at."""
    until: int = 50_000
    """How many of these are done; then every topic has had its own backlog."""


@dataclass(frozen=True, slots=True)
class _Drained:
    """CPU milliseconds per execution, and the most memory, by process."""

    cpu_ms: dict[str, float]
    megabytes: dict[str, float | None]

    @property
    def total_cpu_ms(self) -> float:
        return sum(self.cpu_ms.values())


def run(bench: Bench) -> Result:
    """Measure CPU with both backlogs, then memory with a greater one."""
    settings = bench.choose(
        Settings, small=100, great=1_000, executions=1_000, warm_up=100, for_memory=2_000, until=500
    )
    small = _drain(bench, settings, settings.small, settings.executions)
    great = _drain(bench, settings, settings.great, settings.executions)
    memory = _drain(bench, settings, settings.for_memory, settings.until)
    figures = [
        Figure(
            f"CPU-ms per execution, {settings.great:,} waiting (compared to {settings.small:,})",
            great.total_cpu_ms,
            compared_to=small.total_cpu_ms,
            goal=Goal("ratio", most=1.1),
        ),
        *(
            Figure(
                f"MB of memory at most, {settings.for_memory:,} waiting, {name}",
                memory.megabytes[name],
                goal=Goal("value", most=_MEGABYTES),
            )
            for name in ("worker", "sink")
        ),
    ]
    rows = [
        [
            name,
            ms,
            great.cpu_ms[name],
            quotient(great.cpu_ms[name], ms),
            *(run.megabytes.get(name) for run in (small, great, memory)),
        ]
        for name, ms in small.cpu_ms.items()
    ]
    depths = [f"{depth:,}" for depth in (settings.small, settings.great, settings.for_memory)]
    return Result(
        title="A backlog that waits before the workers start",
        figures=figures,
        settings=asdict(settings),
        details=[
            Detail(
                "By process",
                (
                    "",
                    *(f"CPU-ms, {depth}" for depth in depths[:2]),
                    "ratio",
                    *(f"MB, {depth}" for depth in depths),
                ),
                rows,
            )
        ],
        notes=[
            (
                f"{settings.executions:,} executions with either backlog; memory: the peak until"
                f" {settings.until:,} of {settings.for_memory:,} were done; one worker, all roles."
            )
        ],
    )


def _drain(bench: Bench, settings: Settings, depth: int, executions: int) -> _Drained:
    """Start worker and sink on ``depth`` requests, and have ``executions`` done."""
    with bench.servers(f"backlog, {depth:,} waiting") as servers:
        chain = servers.chain(by_hand=False)
        own = {name: process.pid for name, process in chain.items()}
        start_up = cpu_seconds(own)
        warm_up(servers, chain, settings.warm_up, bench.voice)
        for process in chain.values():
            process.stop()
        already = reported(servers.url)
        before = cpu_seconds(servers.pids())
        submit(servers.bootstrap, depth)
        return _done(bench, servers, chain, depth, executions, already, before | start_up)


def _done(
    bench: Bench,
    servers: Servers,
    chain: dict[str, LocalProcess],
    depth: int,
    executions: int,
    already: int,
    before: dict[str, float],
) -> _Drained:
    submitted, client = depth, Client(servers.bootstrap)

    def top_up(done: int) -> None:
        nonlocal submitted
        # Not for every few: a client that comes often is work for the broker.
        wanted = min(executions, done - already + depth)
        missing = wanted - submitted
        if missing >= depth // 10 or (missing > 0 and wanted == executions):
            client.submit(missing)
            submitted += missing

    servers.start(*chain.values())
    own = {name: process.pid for name, process in chain.items()}
    await_records(
        servers.url, REPORTS, already + executions, bench.voice, [*chain.values()], each=top_up
    )
    cpu_ms = cpu_per(before, cpu_seconds(servers.pids() | own), executions)
    drained = _Drained(cpu_ms, {name: peak_megabytes(pid) for name, pid in own.items()})
    bench.voice.tell(f"{drained.total_cpu_ms:.2f} CPU-ms per execution")
    return drained

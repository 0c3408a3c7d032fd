"""What each role costs, in a process of its own, and what each statement does.

Only separate processes can be told apart exactly, by the operating system. In them a role has
smaller batches and a process's own overhead, so the sum is more than what one worker needs; the
proportions are what to look at. The backend of each connection is charged to the role that holds
the connection.
"""

import urllib.request
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import psutil
import psycopg
from bench.figures import Cell, Detail, quotient
from bench.scenario import Bench, full_speed, warm_up
from bench.servers import Servers, cpu_per, cpu_seconds
from prometheus_client.parser import text_string_to_metric_families

from agents.registry import ROLES
from agents.runtime import spec_of
from ops.local import LocalProcess

_MOST_STATEMENTS = 15
_STATEMENT_WIDTH = 90
_STATES = "millstream.states.v1"


def break_down(bench: Bench, executions: int, warm: int) -> tuple[Detail, Detail, list[str]]:
    """Measure a run with a process for each role.

    Returns:
        A table of the roles, one of the statements, and what to know about them.
    """
    settings = {"shared_preload_libraries": "pg_stat_statements"}
    with bench.servers("throughput, a process for each role", settings) as servers:
        names = [spec_of(role).name for role in ROLES]
        processes = {name: servers.worker(name, roles=name) for name in names}
        processes["sink"] = servers.sink()
        servers.start(*processes.values())
        warm_up(servers, processes, warm, bench.voice)
        with psycopg.connect(servers.url, autocommit=True) as connection:
            connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
            records = _Records(servers, processes, connection)
            backends = _Backends(servers, processes)
            connection.execute("SELECT pg_stat_statements_reset()")
            run = full_speed(servers, processes, executions, bench.voice)
            statements = _statements(connection, executions)
            postgres = backends.cpu_ms(executions)
            taken, made = records.per_execution(executions)
    roles = Detail(
        "Per role, each in a process of its own; µs of CPU",
        (
            "role",
            "records in",
            "records out",
            "µs per execution",
            "µs per record in",
            "Postgres µs",
        ),
        [
            [
                name,
                taken[name],
                made[name],
                run.cpu_ms[name] * 1000,
                quotient(run.cpu_ms[name] * 1000, taken[name]),
                postgres[name] * 1000,
            ]
            for name in processes
        ]
        + [
            [name, None, None, run.cpu_ms[name] * 1000, None, None]
            for name in ("postgres", "broker")
        ],
    )
    note = (
        f"Per role: {run.rate:.0f} executions/s and {run.total_cpu_ms:.2f} CPU-ms per execution in"
        f" {len(processes)} processes; records and times are per execution. Postgres µs:"
        " of the backends of that role's connections; the rest of it works in the background."
    )
    return roles, statements, [note]


class _Records:
    """Records that each role has taken and made since this was made."""

    def __init__(
        self,
        servers: Servers,
        processes: Mapping[str, LocalProcess],
        connection: psycopg.Connection[Any],
    ) -> None:
        self._servers = servers
        self._processes = processes
        self._connection = connection
        self._before = self._taken(), self._made()

    def per_execution(self, executions: int) -> tuple[dict[str, float], dict[str, float]]:
        """How many each role has taken, and made, per execution."""
        taken, made = self._before
        now_taken, now_made = self._taken(), self._made()
        names = self._processes
        return (
            {name: (now_taken[name] - taken[name]) / executions for name in names},
            {name: (now_made[name] - made[name]) / executions for name in names},
        )

    def _taken(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for name, process in self._processes.items():
            wanted = (
                "millstream_sink_batch_records_sum"
                if name == "sink"
                else "millstream_consumed_records_total"
            )
            with urllib.request.urlopen(self._servers.metrics_url(process), timeout=30) as answer:  # noqa: S310  # our own port
                text = answer.read().decode()
            for family in text_string_to_metric_families(text):
                found[name] += sum(
                    round(sample.value) for sample in family.samples if sample.name == wanted
                )
        return found

    def _made(self) -> Counter[str]:
        """Events say who made them; states are no events, and they are all the router's."""
        made = Counter(
            dict(
                self._connection.execute(
                    "SELECT from_agent, count(*) FROM history.events GROUP BY from_agent"
                ).fetchall()
            )
        )
        row = self._connection.execute(
            "SELECT sum(next_offset) FROM history.sink_offsets WHERE topic = %s", (_STATES,)
        ).fetchone()
        made["router"] += int(row[0] or 0) if row else 0
        return made


class _Backends:
    """CPU of the Postgres backends that serve each process, since this was made."""

    def __init__(self, servers: Servers, processes: Mapping[str, LocalProcess]) -> None:
        self._servers = servers
        self._processes = processes
        self._before = self._seconds()

    def cpu_ms(self, executions: int) -> dict[str, float]:
        """Milliseconds per execution, by process; a backend that has ended is not counted."""
        per_backend = cpu_per(self._before, self._seconds(), executions)
        owners = {key: key.split("/")[0] for key in per_backend}
        return {
            name: sum(per_backend[key] for key, owner in owners.items() if owner == name)
            for name in self._processes
        }

    def _seconds(self) -> dict[str, float]:
        with psycopg.connect(self._servers.url) as connection:
            backends: dict[int, int] = dict(
                connection.execute(
                    "SELECT client_port, pid FROM pg_stat_activity WHERE client_port > 0"
                ).fetchall()
            )
        pids = {
            f"{name}/{backends[port]}": backends[port]
            for name, process in self._processes.items()
            for port in self._ports(process.pid)
            if port in backends
        }
        return cpu_seconds(pids)

    def _ports(self, pid: int) -> list[int]:
        """Our ends of a process's connections to Postgres."""
        connections = psutil.Process(pid).net_connections("tcp")
        server = self._servers.postgres_port
        return [
            each.laddr.port for each in connections if getattr(each.raddr, "port", None) == server
        ]


def _statements(connection: psycopg.Connection[Any], executions: int) -> Detail:
    rows = connection.execute(
        "SELECT query, sum(calls)::float, sum(rows)::float, sum(total_exec_time)"
        " FROM pg_stat_statements AS s JOIN pg_database AS d ON d.oid = s.dbid"
        " WHERE d.datname = current_database() AND query NOT LIKE '%%bench_progress%%'"
        " AND query NOT LIKE '%%pg_stat_%%' AND query NOT LIKE '%%GROUP BY from_agent%%'"
        " GROUP BY query ORDER BY 4 DESC"
    ).fetchall()
    shown = [
        _statement_row(query, numbers, executions) for query, *numbers in rows[:_MOST_STATEMENTS]
    ]
    if left := rows[_MOST_STATEMENTS:]:
        shown.append(_statement_row(f"{len(left)} others", _sums(left), executions))
    shown.append(_statement_row("all", _sums(rows), executions))
    return Detail(
        "Statements per execution, as Postgres counts them",
        ("statement", "calls", "rows", "µs in Postgres"),
        shown,
    )


def _sums(rows: Sequence[tuple[Any, ...]]) -> list[float]:
    return [sum(row[index] for row in rows) for index in (1, 2, 3)]


def _statement_row(query: str, numbers: Sequence[float], executions: int) -> list[Cell]:
    calls, rows, milliseconds = numbers
    text = " ".join(query.split())
    short = text if len(text) <= _STATEMENT_WIDTH else text[: _STATEMENT_WIDTH - 1] + "…"
    return [short, calls / executions, rows / executions, milliseconds * 1000 / executions]

"""How long judging a plan of five steps takes by the shipped policies.

``python tests/bench/policies.py`` prints milliseconds of wall-clock time and of CPU time per plan:
for one requester, for a new one each time, and for a set that has just been loaded.
"""

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, quantiles
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]

from support.policies import FOLDER, SHIPPED, plan_of, step  # noqa: E402  # the path comes first

from agents.policies import Judge, PolicyFolder, PolicySet, schema_of  # noqa: E402  # as above
from schemas import Plan  # noqa: E402  # as above

MONDAY = datetime(2026, 1, 5, 10, tzinfo=UTC)


def five_steps(environment: str) -> Plan:
    """Five different actions, as a request of some length has them."""
    place = {"environment": environment}
    wanted: list[tuple[str, dict[str, Any]]] = [
        ("service.status", {"service": "checkout", **place}),
        ("database.backup", {"database": "orders", **place}),
        ("service.scale", {"service": "search", "replicas": 3, **place}),
        ("service.restart", {"service": "web", **place}),
        ("notify.send", {"channel": "#releases", "text": "done"}),
    ]
    steps = [step(action, values, step_id=f"s{at}") for at, (action, values) in enumerate(wanted)]
    return plan_of(*steps)


def say(line: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{line}\n")


def measure(judge: Callable[[int], object], rounds: int = 2000) -> str:
    """Milliseconds of so many calls: the middle, the 99th percentile, CPU time."""
    seconds = []
    cpu = time.process_time()
    for number in range(rounds):
        began = time.perf_counter()
        judge(number)
        seconds.append(time.perf_counter() - began)
    cpu = (time.process_time() - cpu) / rounds
    middle, high = median(seconds), quantiles(seconds, n=100)[98]
    return f"p50 {middle * 1e3:.2f}, p99 {high * 1e3:.2f}, CPU {cpu * 1e3:.2f} ms"


def main() -> None:
    """Measure and print."""
    policies = PolicyFolder(FOLDER, SHIPPED)
    schema, zone = schema_of(SHIPPED), policies.policies.zone
    for environment in ("staging", "production"):
        plan = five_steps(environment)

        def judge(number: int, plan: Plan = plan, *, stranger: bool = False) -> object:
            if stranger:
                plan = plan.model_copy(update={"requester": f"user {number}"})
            return policies.judge(plan, tenant="default", lane="", moment=MONDAY)

        def judge_afresh(_number: int, plan: Plan = plan) -> object:
            fresh = PolicySet(list(policies.policies.policies.values()), schema, zone, "")
            return Judge(SHIPPED, fresh).judge(plan, tenant="default", lane="", moment=MONDAY)

        say(f"{environment}, one requester: {measure(judge)}")
        say(f"{environment}, a new one each time: {measure(lambda at: judge(at, stranger=True))}")
        say(f"{environment}, set just compiled: {measure(judge_afresh, 200)}")


if __name__ == "__main__":
    main()

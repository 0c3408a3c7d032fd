"""Every role of the pipeline. To add one: write its module, list it here and in topics.yaml.

Executors are listed in :mod:`agents.executors`.
"""

from collections.abc import Callable
from typing import Any, Final

from agents import delayer, intent_parser, planner, reporter, router, safety_checker
from agents.executors import EXECUTORS

ROLES: Final[tuple[Callable[..., Any], ...]] = (
    intent_parser.parse,
    planner.plan,
    safety_checker.check,
    router.route,
    *EXECUTORS,
    reporter.report,
    delayer.forward,
)
